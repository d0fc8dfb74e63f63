"""Attachments that are a veth pair, one end in the sandbox, one in the host: names, admission, removal.

The host end's name follows from the attachment, so it is found without the sandbox and without prevResult;
the reference invents its host ends' names, so what it made is known by prevResult, or by its sandbox end.
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

_DEFAULT_MTU = 1500  # what the kernel gives a veth (ETH_DATA_LEN)


class Pair(NamedTuple):
    """Names and MAC addresses of both ends: decided for ADD, read from prevResult for CHECK.

    :param mtu: of both ends in ADD, of the host end in CHECK; 0: the default, or not recorded.
    :param ours: False for a pair that the reference made; then only what both make alike is checked.
    """

    host_end: str
    mac: str
    host_mac: str
    mtu: int
    ours: bool = True


def admit(request: Request, facts: Facts) -> None:
    """Refuse before addresses are reserved, as taking those back could take a living attachment's.

    :raises NameTaken: when the sandbox has an interface of that name, or the host one of the name of the host
        end: that would be taken for ours from then on.
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
    """Return the pair of the request; an empty MAC follows from the attachment.

    :raises InvalidNetworkConfig: when CHECK finds no such interface in prevResult.
    """
    if request.command == "CHECK":
        return _recorded(request, facts)
    attachment = request.attachment
    return Pair(
        host_end=attachment.host_end,
        mac=mac or attachment.mac("sandbox"),
        host_mac=attachment.mac("host"),
        mtu=mtu,
    )


def _recorded(request: Request, facts: Facts) -> Pair:
    """Read the pair from prevResult, where a later plugin of the chain may have changed the sandbox end.

    The MTU compared is the host end's own: the sandbox end's may be another by then.
    """
    own, in_host = own_interface(request), host_interfaces(request)
    ours = request.attachment.host_end in in_host
    actual = facts.sandbox.get(request.ifname)
    host_end = request.attachment.host_end if ours or actual is None else actual.peer
    recorded = in_host.get(host_end, Interface(host_end))
    return Pair(host_end, own.mac, recorded.mac, recorded.mtu, ours)


def mtu(wanted: int | str, model: LinkFacts | None) -> int:
    """Return the MTU to set, 0 for the kernel's default: `auto` follows the model, where there is one."""
    if isinstance(wanted, int):
        return wanted
    return model.mtu if wanted == AUTO and model else 0


def require_mtu(request: Request, pair: Pair, wanted: int | str, ips: tuple[IPConfig, ...]) -> None:
    """:raises InvalidNetworkConfig: when ADD is to make a link too small for its addresses."""
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
    """Take away the pair and its rules.

    :param foreign: the reference made the attachment.
    """
    attachment = request.attachment
    if not _is_anothers(request, facts.host.get(attachment.host_end)):
        yield DelLink(HOST, attachment.host_end)
    inside = facts.sandbox.get(request.ifname)
    if inside is not None and tag_of(inside.peer_alias) == attachment.tag:
        yield DelLink(HOST, inside.peer)  # whatever somebody has named it since
    if foreign and inside is not None:
        yield DelLink(SANDBOX, request.ifname)
    yield DelOwnedRules(request.owner)
    yield DelIptablesMasquerade(attachment)
    if foreign:
        yield DelReferenceRules(attachment, _addresses(request, facts))


def _is_anothers(request: Request, link: LinkFacts | None) -> bool:
    """Say whether a link of our host end's name is a stranger's or another attachment's: 32 bits collide."""
    if link is None:
        return False
    if not link.alias.startswith(ALIAS_PREFIX):
        return link.kind != "veth"
    return tag_of(link.alias) != request.attachment.tag


def made_by_reference(request: Request, facts: Facts, is_likely: Callable[[LinkFacts], bool]) -> bool:
    """Say whether the reference made the attachment: then its host end bears another name.

    A sandbox whose path was given to another container meanwhile, or an interface of another plugin, must not
    be taken for it: the host end has to be the one of prevResult.

    :param is_likely: says of a sandbox end, where there is no prevResult, that this type of plugin made it.
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
    """Take away whatever bears this network's tag and no valid attachment's."""
    start, valid = network_tag(request.network), request.valid_tags
    for link in facts.owned:
        tag = tag_of(link.alias)
        if tag.startswith(start) and tag not in valid:
            yield DelLink(HOST, link.name)
    yield DelStaleRules(request.network, request.plugin, valid)
    yield DelStaleIptables(request.network, request.valid_attachments)
