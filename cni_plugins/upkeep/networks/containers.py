"""Finds the containers of networks on this host: what runtimes remember of them, and what the kernel has."""

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from cni_plugins.contract.facts import Asks, Facts
from cni_plugins.errors import CniError
from cni_plugins.kernel import observe
from cni_plugins.kernel.session.session import Session
from cni_plugins.ownership import network_tag, owner_of, tag_of
from cni_plugins.protocol.decode import parse_result
from cni_plugins.protocol.result import Interface, Result, own_part
from cni_plugins.upkeep import caches
from cni_plugins.upkeep.caches import CachedAttachment

_PARTS = ("net", "if", "id")


class Container(NamedTuple):
    """An attachment to a network.

    :param known_by: what remembers it: a file of libcni's, or the kernel.
    """

    container_id: str
    ifname: str
    netns: str = ""
    addresses: tuple[str, ...] = ()
    mac: str = ""
    known_by: str = ""

    @property
    def word(self) -> str:
        return f"{self.container_id} ({self.ifname})" if self.ifname else self.container_id


def of_networks(names: Iterable[str], cache_dirs: Iterable[Path]) -> Mapping[str, tuple[Container, ...]]:
    """Return the containers of these networks.

    A sandbox that is gone has no interface left, whatever a runtime remembers: such files outlive a reboot.
    An interface that no runtime remembers counts, as there may be one whose cache is elsewhere.

    :raises OSError:
    """
    remembered = caches.read(cache_dirs).attachments
    alive = [one for one in remembered if not one.netns or os.path.exists(one.netns)]
    with Session(None) as session:
        facts = observe.observe(session, Asks(owned=True, macvlan_users=True))
    return {name: _of_network(name, alive, facts) for name in names}


def _of_network(name: str, alive: Iterable[CachedAttachment], facts: Facts) -> tuple[Container, ...]:
    found = {one.attachment.tag: _remembered(one) for one in alive if one.attachment.network == name}
    known = {(one.container_id, one.ifname) for one in found.values()}
    for tag, other in _in_kernel(name, facts):
        if tag not in found and (other.container_id, other.ifname) not in known:
            known.add((other.container_id, other.ifname))
            found[tag or other.container_id] = other
    return tuple(sorted(found.values()))


def _in_kernel(name: str, facts: Facts) -> Iterator[tuple[str, Container]]:
    """Yield tag and container of the network's links: host ends, and macvlan links in sandboxes."""
    tag = network_tag(name)
    for link in facts.owned:
        if tag_of(link.alias).startswith(f"{tag}-"):
            yield tag_of(link.alias), _named(owner_of(link.alias), f"link {link.name}")
    for users in facts.macvlan_users.values():
        for user in users:
            if user.owner.startswith(f"net: {name}, "):
                yield "", _named(user.owner, "a macvlan link")


def _named(text: str, known_by: str) -> Container:
    """Return the container that the alias of a link names, as far as it fits in there."""
    words = dict(part.partition(": ")[::2] for part in text.split(", "))
    _, ifname, container = (words.get(part, "") for part in _PARTS)
    return Container(container or known_by, ifname, known_by=known_by)


def _remembered(cached: CachedAttachment) -> Container:
    _, container_id, ifname = cached.attachment
    result = _result(cached)
    inside = next((item for item in result.interfaces if item.sandbox and item.name == ifname), Interface(""))
    own = own_part(result, ifname, inside.sandbox)
    addresses = tuple(str(ip.address) for ip in own.ips)
    return Container(container_id, ifname, cached.netns, addresses, inside.mac, str(cached.file))


def _result(cached: CachedAttachment) -> Result:
    version = cached.result.get("cniVersion")
    try:
        return parse_result(cached.result, version if isinstance(version, str) else "")
    except (CniError, ValueError):  # of an unknown version, too
        return Result()
