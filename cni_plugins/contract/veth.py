"""Names, admits, creates and deletes veth pairs: one end in the sandbox, one in the host.

The host end's name is computed from the attachment: neither sandbox nor prevResult is needed to find it. The
reference picks random names, so its pairs are found by prevResult or by the sandbox end.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from cni_plugins.contract.config_fields import AUTO
from cni_plugins.contract.facts import Facts, LinkFacts
from cni_plugins.contract.plan_parts import require_ipv6_mtu
from cni_plugins.contract.prev_result import host_interfaces, own_interface
from cni_plugins.errors import NameTaken
from cni_plugins.ownership import ALIAS_PREFIX, HOST_END_PREFIX, network_tag, tag_of
from cni_plugins.protocol.fields import IPInterface
from cni_plugins.protocol.request import Request
from cni_plugins.protocol.result import Interface, IPConfig
from cni_plugins.steps.firewall import (
    DelIptablesMasquerade,
    DelOwnedRules,
    DelReferenceRules,
    DelStaleIptables,
    DelStaleRules,
)
from cni_plugins.steps.links import AddVeth, DelLink
from cni_plugins.steps.step import HOST, SANDBOX, Step

_DEFAULT_MTU = 1500  # the kernel's default for veth (ETH_DATA_LEN)


class Pair(NamedTuple):
    """Names and MAC addresses of both ends: computed for ADD, read from prevResult for CHECK.

    :param mtu: MTU of both ends in ADD, of the host end in CHECK; 0: the default, or not recorded.
    :param ours: False for a pair that the reference created; then only what both create alike is checked.
    """

    host_end: str
    mac: str
    host_mac: str
    mtu: int
    ours: bool = True


def admit(request: Request, facts: Facts) -> None:
    """Refuse before addresses are reserved, as releasing them could release those of an existing attachment.

    :raises NameTaken: when the name of the sandbox end or the host end is in use; the host's link would be
        mistaken for ours from then on.
    """
    if request.ifname in facts.sandbox:
        raise NameTaken(
            f'container veth name ("{request.ifname}") already exists',
            f"CNI_IFNAME is {request.ifname}, CNI_NETNS is {request.netns}",
        )
    if request.attachment.host_end in facts.host:
        raise NameTaken(
            f'container veth name ("{request.ifname}") peer provided ("{request.attachment.host_end}") '
            "already exists",
            f"CNI_IFNAME is {request.ifname}, CNI_NETNS is {request.netns}",
        )


def identify(request: Request, mac: str, mtu: int, facts: Facts) -> Pair:
    """Return the pair of the request; an empty MAC address is computed from the attachment.

    :raises InvalidNetworkConfig: when prevResult of CHECK does not list the interface.
    """
    if request.command == "CHECK":
        return _recorded(request, facts)
    attachment = request.attachment
    return Pair(
        host_end=attachment.host_end,
        mac=mac or attachment.mac("sandbox", facts.host_seed),
        host_mac=attachment.mac("host", facts.host_seed),
        mtu=mtu,
    )


def _recorded(request: Request, facts: Facts) -> Pair:
    """Read the pair from prevResult, where a later plugin of the chain may have changed the sandbox end.

    CHECK compares the host end's MTU, as that of the sandbox end may differ by then.
    """
    own, in_host = own_interface(request), host_interfaces(request)
    ours = request.attachment.host_end in in_host
    actual = facts.sandbox.get(request.ifname)
    host_end = request.attachment.host_end if ours or actual is None else actual.peer
    recorded = in_host.get(host_end, Interface(host_end))
    return Pair(host_end, own.mac, recorded.mac, recorded.mtu, ours)


def mtu(wanted: int | str, model: LinkFacts | None) -> int:
    """Return the MTU to set, 0 for the kernel's default; `auto` takes that of the model if there is one."""
    if isinstance(wanted, int):
        return wanted
    return model.mtu if wanted == AUTO and model else 0


def require_mtu(request: Request, pair: Pair, wanted: int | str, ips: tuple[IPConfig, ...]) -> None:
    """:raises InvalidNetworkConfig: when the MTU of an ADD is too small for its addresses."""
    if request.command == "ADD":
        require_ipv6_mtu(pair.mtu, ips, f"mtu is {wanted}")


def add(request: Request, pair: Pair) -> AddVeth:
    alias = request.attachment.alias if pair.ours else ""
    return AddVeth(request.ifname, pair.mac, pair.mtu, pair.host_end, pair.host_mac, alias)


def interfaces(request: Request, pair: Pair) -> tuple[Interface, Interface]:
    """Return the host end and the sandbox end, as the result lists them."""
    mtu = pair.mtu or _DEFAULT_MTU
    return (
        Interface(pair.host_end, pair.host_mac, mtu=mtu),
        Interface(request.ifname, pair.mac, request.netns, mtu=mtu),
    )


def delete(request: Request, facts: Facts, *, foreign: bool) -> Iterator[Step]:
    """Yield the steps that delete the pair and its rules.

    :param foreign: the reference created the attachment.
    """
    attachment = request.attachment
    if not _is_anothers(request, facts.host.get(attachment.host_end)):
        yield DelLink(HOST, attachment.host_end)
    inside = facts.sandbox.get(request.ifname)
    if inside is not None and tag_of(inside.peer_alias) == attachment.tag:
        yield DelLink(HOST, inside.peer)  # the host end, even if it was renamed
    if foreign and inside is not None:
        yield DelLink(SANDBOX, request.ifname)
    yield DelOwnedRules(request.owner)
    yield DelIptablesMasquerade(attachment)
    if foreign:
        yield DelReferenceRules(attachment, _addresses(request, facts))


def _is_anothers(request: Request, link: LinkFacts | None) -> bool:
    """Say whether a link with our host end's name is not ours: the name has 32 bits, which can collide."""
    if link is None:
        return False
    if not link.alias.startswith(ALIAS_PREFIX):
        return link.kind != "veth"
    return tag_of(link.alias) != request.attachment.tag


def made_by_reference(request: Request, facts: Facts, is_likely: Callable[[LinkFacts], bool]) -> bool:
    """Say whether the reference created the attachment, whose host end then has another name.

    A reused sandbox path, or an interface of another plugin, must not be mistaken for it: the host end must
    be the one in prevResult.

    :param is_likely: without prevResult: says whether a plugin of this type created the sandbox end.
    """
    inside, ours = facts.sandbox.get(request.ifname), request.attachment.host_end
    ends = {name for name in host_interfaces(request) if name.startswith(HOST_END_PREFIX)}
    if inside is None:
        return bool(ends) and ours not in ends
    if inside.kind != "veth" or inside.peer == ours or inside.peer_alias.startswith(ALIAS_PREFIX):
        return False
    return inside.peer in ends if ends else is_likely(inside)


def _addresses(request: Request, facts: Facts) -> tuple[IPInterface, ...]:
    inside = facts.sandbox.get(request.ifname)
    if inside is not None:
        return tuple(address for address in inside.addresses if not address.ip.is_link_local)
    return tuple(ip.address for ip in request.prev_result.ips) if request.prev_result else ()


def collect(request: Request, facts: Facts) -> Iterator[Step]:
    """Yield the steps that delete whatever has this network's tag but no valid attachment's."""
    start, valid = network_tag(request.network), request.valid_tags
    for link in facts.owned:
        tag = tag_of(link.alias)
        if tag.startswith(start) and tag not in valid:
            yield DelLink(HOST, link.name)
    yield DelStaleRules(request.network, request.plugin, valid)
    yield DelStaleIptables(request.network, request.valid_attachments)
