"""Plans ADD, CHECK, DEL and GC of the tuning plugin: pure functions from request, config and facts."""

from collections.abc import Iterator

from cni_plugins.contract.facts import Facts
from cni_plugins.contract.plan_parts import require_ipv6_mtu
from cni_plugins.contract.plugin import Decision
from cni_plugins.contract.prev_result import required
from cni_plugins.errors import InvalidNetworkConfig, StateDrifted
from cni_plugins.protocol.request import Request
from cni_plugins.protocol.result import Interface, Result, own_part
from cni_plugins.steps.links import SetMac, SetMtu
from cni_plugins.steps.step import SANDBOX, Plan, Step
from cni_plugins.steps.tuning import (
    DelStaleBackups,
    LinkSettings,
    RecordSettings,
    RestoreSettings,
    SetAllmulti,
    SetHostEndMtu,
    SetPromisc,
    SetTxQueueLen,
    WriteSysctl,
)
from cni_plugins.tuning.config import Tuning
from cni_plugins.tuning.data_dir import possible


def decide(request: Request, tuning: Tuning, _lease: Result, facts: Facts) -> Decision:
    """Return steps and result of ADD: old values are recorded first; CHECK compares the same steps.

    :raises InvalidNetworkConfig: when the MTU is too small, or the interface has no host end to set.
    :raises StateDrifted: in CHECK, when it has none any more.
    """
    host_end = _host_end(request, tuning, facts)
    if request.command == "ADD":
        ips = own_part(required(request), request.ifname, request.netns).ips
        require_ipv6_mtu(tuning.mtu, ips, f"mtu is {tuning.mtu}")
    changes = tuple(_changes(request.ifname, tuning, host_end))
    plan = (_record(request, tuning, host_end), *changes) if changes else ()
    return Decision(plan, _result(request, tuning, host_end))


def _host_end(request: Request, tuning: Tuning, facts: Facts) -> str:
    """Return the name of the host end whose MTU is to be set too, empty if none is."""
    if not (tuning.mtu and tuning.mtu_both_ends):
        return ""
    own = facts.sandbox.get(request.ifname)
    if own is None:  # which the other steps report
        return ""
    if not own.peer:
        fault = StateDrifted if request.command == "CHECK" else InvalidNetworkConfig
        raise fault(f"{request.ifname} is not a veth with its other end in the host", "mtuBothEnds is true")
    return own.peer


def _record(request: Request, tuning: Tuning, host_end: str) -> RecordSettings:
    link = LinkSettings(
        mac=tuning.mac,
        promisc=True if tuning.promisc else None,
        mtu=tuning.mtu,
        allmulti=tuning.allmulti,
        tx_queue_len=tuning.tx_queue_len,
        host_mtu=tuning.mtu if host_end else 0,
    )
    return RecordSettings(tuning.data_dir, request.attachment, tuning.sysctls, link)


def _changes(link: str, tuning: Tuning, host_end: str) -> Iterator[Step]:
    """Yield the changes in the reference's order: sysctls in that of the config, then the link."""
    late = ("ipv6", "conf", link, "mtu") if tuning.mtu else None  # the link's MTU resets it (addrconf_notify)
    yield from (WriteSysctl(key, value) for key, value in tuning.sysctls if key != late)
    if tuning.mac:
        yield SetMac(SANDBOX, link, tuning.mac)
    if tuning.promisc:
        yield SetPromisc(link, on=True)
    if tuning.mtu:
        yield SetMtu(SANDBOX, link, tuning.mtu)
    if host_end:
        yield SetHostEndMtu(link, host_end, tuning.mtu)
    yield from (WriteSysctl(key, value) for key, value in tuning.sysctls if key == late)
    if tuning.allmulti is not None:
        yield SetAllmulti(link, on=tuning.allmulti)
    if tuning.tx_queue_len is not None:
        yield SetTxQueueLen(link, tuning.tx_queue_len)


def _result(request: Request, tuning: Tuning, host_end: str) -> Result:
    """Return prevResult with MAC address and MTU of the own interface, if a plugin listed it."""

    def changed(item: Interface) -> Interface:
        if (item.name, item.sandbox) == (request.ifname, request.netns):
            return item._replace(mac=tuning.mac or item.mac, mtu=tuning.mtu or item.mtu)
        if host_end and (item.name, item.sandbox) == (host_end, ""):
            return item._replace(mtu=tuning.mtu)
        return item

    result = required(request)
    return result._replace(interfaces=tuple(map(changed, result.interfaces)))


def delete(request: Request, _tuning: Tuning | None, _facts: Facts) -> Plan:
    return (RestoreSettings(possible(request.conf), request.attachment),)


def collect(request: Request, _facts: Facts) -> Plan:
    return (DelStaleBackups(possible(request.conf), request.network, request.valid_tags),)
