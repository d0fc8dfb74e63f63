"""Plans ADD, CHECK, DEL and GC of the bandwidth plugin: pure functions from request, config and facts.

What the container receives leaves the host by its end of the veth pair, and is limited there by a token
bucket. What it sends has no queue in the host, so it is redirected to an ifb link and limited there.
"""

from collections.abc import Iterator

from cni_plugins.bandwidth.config import BandwidthConfig, Limit
from cni_plugins.contract.facts import Facts, LinkFacts
from cni_plugins.contract.plugin import Decision
from cni_plugins.contract.prev_result import host_interfaces, required
from cni_plugins.errors import CniError, InvalidNetworkConfig, StateDrifted
from cni_plugins.ownership import HOST_END_PREFIX, Attachment, network_tag, tag_of
from cni_plugins.protocol.request import Request
from cni_plugins.protocol.result import Interface, Result
from cni_plugins.steps.shaping import Bucket, DelIfb, EnsureIfb, SetBucket, SetRedirect
from cni_plugins.steps.step import Plan, Step

_KIND = "ifb"


def decide(request: Request, config: BandwidthConfig, _lease: Result, facts: Facts) -> Decision:
    """Return the steps for both directions, and prevResult with the ifb link if there is one.

    ADD removes a limit that the config does not have (any more); CHECK does not look for one, as its caller
    may not know the container's limits.
    """
    result = required(request)
    is_limited = config.received.is_set or config.sent.is_set
    inside = _limited_end(request, facts) if is_limited else facts.sandbox.get(request.ifname)
    if inside is None or not inside.peer:
        return Decision((), result)
    ifb = _ifb(request, facts)
    alias = _alias(request, facts, ifb)
    plan = (
        *_receiving(request, config.received, inside.peer),
        *(_sending(config.sent, inside, ifb, alias) if config.sent.is_set else ()),
        *(_sending_freely(inside, ifb, alias) if request.command == "ADD" and not config.sent.is_set else ()),
    )
    return Decision(plan, _with_ifb(result, ifb) if config.sent.is_set else result)


def _limited_end(request: Request, facts: Facts) -> LinkFacts:
    """Return the sandbox end of the veth pair that is to be limited.

    :raises CniError: when it is not a veth, or prevResult does not list its host end.
    """
    if not required(request).interfaces:
        raise _refusal(request, "no interfaces provided", "prevResult lists no interfaces")
    inside = facts.sandbox.get(request.ifname)
    if inside is None or inside.kind != "veth" or not inside.peer_index:
        kind = f"of kind {inside.kind or 'none'}, and only a veth can be limited" if inside else "not there"
        raise _refusal(
            request, f"container interface {request.ifname} has no veth peer", f"{request.ifname} is {kind}"
        )
    if not inside.peer:
        raise _refusal(request, f"veth peer with index {inside.peer_index} is not in host ns", "")
    if inside.peer not in host_interfaces(request):
        raise _refusal(
            request,
            "no veth peer of container interface found in host ns",
            f"it is {inside.peer}, and prevResult lists {', '.join(host_interfaces(request)) or 'none'}",
        )
    return inside


def _refusal(request: Request, msg: str, details: str) -> CniError:
    where = f"CNI_IFNAME is {request.ifname}, CNI_NETNS is {request.netns}"
    kind = StateDrifted if request.command == "CHECK" else InvalidNetworkConfig
    return kind(msg, f"{details}, {where}" if details else where)


def _ifb(request: Request, facts: Facts) -> Interface:
    """Return name and MAC address of the ifb link.

    It has the reference's name, so that DEL of the reference finds it, unless that is of another interface of
    the container: the reference's name does not contain the ifname.
    """
    attachment = request.attachment
    name = _ifb_name(request, facts)
    recorded, present = host_interfaces(request).get(name), facts.host.get(name)
    if request.command == "CHECK" and recorded is not None:
        return recorded
    return Interface(name, present.mac if present else attachment.mac(_KIND, facts.host_seed))


def _ifb_name(request: Request, facts: Facts) -> str:
    attachment = request.attachment
    own, shared = attachment.ifb, attachment.reference_ifb
    listed = host_interfaces(request)
    if own in listed or _is_ours(attachment, facts.host.get(own)):
        return own
    other = facts.host.get(shared)
    is_free = other is None or _is_ours(attachment, other)
    return shared if is_free or shared in listed or facts.redirected_to == shared else own


def _alias(request: Request, facts: Facts, ifb: Interface) -> str:
    """Return the alias of the ifb link, empty for one that the reference made: those stay as they are."""
    attachment, present = request.attachment, facts.host.get(ifb.name)
    is_references = present is not None and not present.alias
    return "" if is_references and ifb.mac != attachment.mac(_KIND, facts.host_seed) else attachment.alias


def _is_ours(attachment: Attachment, link: LinkFacts | None) -> bool:
    return link is not None and tag_of(link.alias) == attachment.tag


def _receiving(request: Request, limit: Limit, link: str) -> Iterator[Step]:
    if limit.is_set:
        yield SetBucket(link, Bucket(*limit.in_bytes))
    elif request.command == "ADD":
        yield SetBucket(link, None)


def _sending(limit: Limit, inside: LinkFacts, ifb: Interface, alias: str) -> Iterator[Step]:
    """Yield the steps that redirect to the ifb link, once it is up and limited."""
    yield EnsureIfb(ifb.name, ifb.mac, inside.peer_mtu, alias)
    yield SetBucket(ifb.name, Bucket(*limit.in_bytes))
    yield SetRedirect(inside.peer, ifb.name)


def _sending_freely(inside: LinkFacts, ifb: Interface, alias: str) -> Iterator[Step]:
    """Yield the steps that remove the limit of an earlier ADD, which their inverses restore."""
    yield SetRedirect(inside.peer, "")
    yield SetBucket(ifb.name, None)
    yield DelIfb(ifb.name, alias)


def _with_ifb(result: Result, ifb: Interface) -> Result:
    others = tuple(item for item in result.interfaces if (item.name, item.sandbox) != (ifb.name, ""))
    return result._replace(interfaces=(*others, ifb))


# ------------------------------------------------------------------------------------------- DEL and GC


def delete(request: Request, _config: BandwidthConfig | None, facts: Facts) -> Plan:
    """Return the steps that remove the limits from whatever is left, and what leads to an ifb link first."""
    attachment = request.attachment
    ends = tuple(dict.fromkeys(_host_ends(request, facts)))
    ifbs = [DelIfb(name, attachment.alias) for name in (attachment.ifb, attachment.reference_ifb)]
    if _is_references(request, facts):
        ifbs.append(DelIfb(attachment.reference_ifb, ""))
    limits = (step for end in ends for step in (SetRedirect(end, ""), SetBucket(end, None)))
    return (*limits, *ifbs)


def _host_ends(request: Request, facts: Facts) -> Iterator[str]:
    """Yield the names of what may be the host end, on which only objects of ours are removed."""
    inside = facts.sandbox.get(request.ifname)
    if inside is not None and inside.peer:
        yield inside.peer
        return
    yield request.attachment.host_end
    yield from (name for name in host_interfaces(request) if name.startswith(HOST_END_PREFIX))


def _is_references(request: Request, facts: Facts) -> bool:
    """Say whether an ifb link without alias, with the reference's name, belongs to this interface.

    The name is that of any interface of the container in the network. The host end leads to it, or prevResult
    lists it; where there is neither, nothing of the container is left that could use it.
    """
    name = request.attachment.reference_ifb
    if name == facts.redirected_to or name in host_interfaces(request):
        return True
    return request.prev_result is None and not facts.has_sandbox


def collect(request: Request, facts: Facts) -> Plan:
    """Return the steps that delete the ifb links of the network whose attachment is not valid."""
    start, valid = f"{network_tag(request.network)}-", request.valid_tags
    stale = (link for link in facts.owned if link.kind == _KIND and tag_of(link.alias).startswith(start))
    return tuple(DelIfb(link.name, link.alias) for link in stale if tag_of(link.alias) not in valid)
