"""Finds the addresses that a new network of this host must not have.

They are those of routes, links, DNS servers, and of the other networks of the runtime.

Routes to more than a /8 are left out, as the default route is: VPNs split that into halves.
"""

from collections.abc import Container, Iterable, Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import NamedTuple

from cni_plugins.contract.facts import Asks, LinkFacts
from cni_plugins.kernel import observe
from cni_plugins.kernel.ip import listed_routes
from cni_plugins.kernel.links import links
from cni_plugins.kernel.session.session import Session
from cni_plugins.ownership import is_overlay_alias, network_tag, tag_of
from cni_plugins.protocol.fields import IPNetwork
from cni_plugins.steps.step import HOST
from cni_plugins.upkeep.networks.files import NetworkFile

# systemd-resolved's own address is in the first, and the servers that it asks are in the second.
RESOLVERS = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))
_SHORTEST = 8  # prefix length
_LIMIT = 64 << 10  # bytes


class Taken(NamedTuple):
    """Addresses in use.

    :param by: who uses them, for errors.
    :param link: the link that has them or leads there, empty if it is none.
    """

    network: IPNetwork
    by: str
    link: str = ""


class HostView(NamedTuple):
    """What the kernel of this host has.

    :param links: those that were asked for, and all that have an address or the suite's alias.
    :param names: of all links.
    """

    taken: tuple[Taken, ...] = ()
    links: tuple[LinkFacts, ...] = ()
    names: frozenset[str] = frozenset()


def look(named: Iterable[str] = ()) -> HostView:
    """Return the addresses that this host uses or reaches by routes.

    :param named: links of which to tell whether they exist, and what they are.
    :raises OSError:
    """
    asks = Asks(host=tuple(dict.fromkeys(named)), owned=True, addressed=True)
    with Session(None) as session:
        facts = observe.observe(session, asks)
        routes = [route for version in (4, 6) for route in listed_routes.every(session, version)]
        names = {link.ifindex: link.name for link in links.every(session, HOST)}
    addresses = (
        Taken(address.network, f"address {address} of link {link.name}", link.name)
        for link in facts.addressed
        for address in link.addresses
        if not address.is_link_local
    )
    led = (
        Taken(route.dst.network, f"route {route.dst.network}{_out(link)}", link)
        for route in routes
        for link in [next((names.get(index, "") for index, _ in route.hops), "")]
    )
    taken = (*addresses, *(one for one in led if _is_plain(one.network)), *_dns(RESOLVERS))
    known = {link.name: link for link in (*facts.host.values(), *facts.addressed, *facts.owned)}
    return HostView(tuple(dict.fromkeys(taken)), tuple(known.values()), frozenset(names.values()))


def _out(link: str) -> str:
    return f" out of link {link}" if link else ""


def _is_plain(network: IPNetwork) -> bool:
    odd = network.is_multicast or network.is_link_local or network.is_loopback
    return network.prefixlen >= _SHORTEST and not odd


def _dns(files: Iterable[Path]) -> Iterator[Taken]:
    for path in files:
        try:
            with path.open("rb") as file:
                text = file.read(_LIMIT).decode(errors="replace")
        except OSError:
            continue
        yield from dns_servers(text, str(path))


def dns_servers(text: str, where: str) -> Iterator[Taken]:
    """Yield the servers in a resolv.conf that are not on this host."""
    for line in text.splitlines():
        words = line.split()
        if words[:1] != ["nameserver"] or len(words) < 2:  # noqa: PLR2004 (keyword and address)
            continue
        try:
            address = ip_address(words[1].partition("%")[0])
        except ValueError:
            continue
        if not address.is_loopback and not address.is_link_local:
            yield Taken(ip_network(address), f"DNS server {address} of {where}")


def of_files(files: Iterable[NetworkFile]) -> tuple[Taken, ...]:
    """Return what the networks in the runtime's directory have."""
    return tuple(
        Taken(subnet, f"network {file.name} ({file.path}), which has {subnet}")
        for file in files
        for subnet in file.subnets
    )


def clash(network: IPNetwork, taken: Iterable[Taken], own_links: Container[str] = ()) -> Taken | None:
    """Return who has addresses of a network.

    :param own_links: the network's own, for one that has been here before.
    """
    return next(
        (
            one
            for one in taken
            if one.network.version == network.version
            and one.network.overlaps(network)
            and not (one.link and one.link in own_links)
        ),
        None,
    )


def links_of(view: HostView, network: str, named: Iterable[str] = ()) -> frozenset[str]:
    """Return the links that belong to a network: these, and those whose alias says so."""
    tag = network_tag(network)
    tagged = (link.name for link in view.links if tag_of(link.alias).startswith(f"{tag}-"))
    of_overlay = (link.name for link in view.links if is_overlay_alias(link.alias, network))
    return frozenset((*named, *tagged, *of_overlay))
