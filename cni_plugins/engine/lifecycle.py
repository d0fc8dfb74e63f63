"""Carries out one request from the parsed config to the result; read this file first.

Everything is validated before the first change. Addresses are reserved before the kernel is changed, so the
plan is complete and there is one thing to undo; only for an IPAM plugin that uses the container's link is the
link created first. ADD applies the plan or leaves nothing; CHECK compares the same plan with the kernel; DEL
and GC delete all they can and report together what they could not.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from cni_plugins.contract.facts import Asks, Facts
from cni_plugins.contract.ipam import IpamPlugin
from cni_plugins.contract.plugin import Decision, Plugin, Probing
from cni_plugins.contract.prev_result import required
from cni_plugins.engine import ipam as ipams
from cni_plugins.engine.program import Program
from cni_plugins.errors import (
    CniError,
    InvalidNetworkConfig,
    KernelRefused,
    NameTaken,
    NotAvailable,
    StateDrifted,
    TryAgainLater,
    foreseen,
)
from cni_plugins.kernel import apply, observe
from cni_plugins.kernel.session.locks import NO_LOCK
from cni_plugins.kernel.session.open import open_session
from cni_plugins.kernel.session.session import Session
from cni_plugins.ownership import plugin_word
from cni_plugins.protocol.encode import encode
from cni_plugins.protocol.fields import IPAddress
from cni_plugins.protocol.request import Request
from cni_plugins.protocol.result import Result, own_part
from cni_plugins.steps.step import Plan


def run(plugin: Plugin[Any], request: Request, program: Program | None) -> bytes:
    """Carry out one request; return the output for stdout, which is empty except for ADD.

    :param request: the request, whose `plugin` is not set yet.
    """
    request = request._replace(plugin=plugin_word(plugin.name, is_chained=plugin.is_chained))
    if plugin.is_chained and request.command in ("ADD", "CHECK"):
        required(request)
    match request.command:
        case "ADD":
            return add(plugin, request, program)
        case "DEL":
            delete(plugin, request, program)
        case "CHECK":
            check(plugin, request, program)
        case "GC":
            collect(plugin, request, program)
        case "STATUS":
            status(plugin, request, program)
    return b""


def add(plugin: Plugin[Any], request: Request, program: Program | None) -> bytes:
    config = plugin.parse(request)
    ipam = _ipam(plugin.ipam_type(request), request, program)
    with _session(request, program) as session:
        session.hold_attachment(request.attachment)
        facts = observe.observe(session, plugin.asks(request, config))
        plugin.admit(request, config, facts)
        life = _Life(session, plugin, request, config, facts)
        with apply.Change(session) as change:
            link: Plan = ()
            probing = plugin.probes(request, config, facts)
            if ipam.needs_link or probing:
                link = _carry_out(session, change, life.settled(Result()))
                # Shared objects are in use by now, and IPAM may take long.
                session.unshare_host()
                life.lock.release()
            ipam_request = plugin.ipam_request(request, config, facts)
            reserve = partial(_reserve_probed, session, probing, ipam) if probing else ipam.reserve
            lease = reserve(ipam_request)
            try:
                _require_addresses(ipam, lease)
                decision = life.settled(lease)
                # Names and addresses are decided, not read back, so the answer precedes the first change.
                answer = encode(decision.result, request.cni_version)
                _carry_out(session, change, decision, link)
                return answer
            except BaseException as err:
                change.take_back(err)
                if change.still_in_use:
                    err.add_note("the addresses stay reserved for the link that could not be removed")
                elif ipam.is_exact or not _was_created_meanwhile(session, plugin, request, config):
                    _take_back(ipam, ipam_request, lease, err)
                raise


class _Life:
    """What a request decides by: config and facts, of the moment or, if others change them too, under a lock.

    :ivar lock: of the network that the plan is about as a whole.
    """

    def __init__(
        self,
        session: Session,
        plugin: Plugin[Any],
        request: Request,
        config: Any,  # noqa: ANN401 (the plugin's own model)
        facts: Facts,
    ) -> None:
        self._session, self._plugin, self._request = session, plugin, request
        self._config, self._facts = config, facts
        shared = plugin.shares(request, config)
        self.lock = session.network_lock(shared) if shared else NO_LOCK

    def decide(self, lease: Result) -> Decision:
        """Return the decision by what the config was read from, as it is now."""
        plugin, request = self._plugin, self._request
        newest = plugin.newest(request, self._config)
        if newest is not self._config:
            self._config = newest
            self._facts = observe.observe(self._session, plugin.asks(request, newest))
        return plugin.decide(request, self._config, lease, self._facts)

    def settled(self, lease: Result) -> Decision:
        """Return the decision, under the lock: shared if the network is already as decided, else alone.

        So an ADD that waited with an old list of peers does not undo what another made of a newer one.
        """
        self.lock.share()
        decision = self.decide(lease)
        if apply.holds(self._session, decision.whole):
            return decision
        self.lock.take()
        decision = self.decide(lease)
        if apply.holds(self._session, decision.whole):
            self.lock.ease()  # another ADD was faster
        else:
            apply.forget(self._session, decision.whole)
        return decision


def check(plugin: Plugin[Any], request: Request, program: Program | None) -> None:
    config = plugin.parse(request)
    ipam = _ipam(plugin.ipam_type(request), request, program)
    with _session(request, program) as session:
        facts = observe.observe(session, plugin.asks(request, config))
        ipam.check(plugin.ipam_request(request, config, facts))
        lease = own_part(request.prev_result or Result(), request.ifname, request.netns)
        life = _Life(session, plugin, request, config, facts)
        try:
            life.lock.share()
            differences = apply.compare(session, life.decide(lease).whole)
        except NameTaken as err:
            raise StateDrifted(err.msg, err.details) from err
    if differences:
        raise StateDrifted(differences[0], "; ".join(differences))


def delete(plugin: Plugin[Any], request: Request, program: Program | None) -> None:
    """Delete links and rules, then release the addresses, so none is assigned again while still in use.

    An IPAM plugin that needs the link releases first. A failed part does not stop the others, but addresses
    are released only when their link is known to be gone; an invalid request deletes nothing.
    """
    config = _parse_leniently(plugin, request)
    name = plugin.ipam_type(request)
    failures: list[CniError] = []

    def release() -> None:
        _attempt(
            failures,
            lambda: _ipam(name, request, program).release(plugin.ipam_request(request, config, None)),
        )

    with _session(request, program) as session:
        session.hold_attachment(request.attachment)
        if ipams.needs_link(name):
            release()
        is_unused = _take_away(
            session,
            failures,
            lambda: plugin.asks(request, config),
            lambda facts: plugin.delete(request, config, facts),
        )
        if is_unused and not ipams.needs_link(name):
            release()
    _report(failures)


def collect(plugin: Plugin[Any], request: Request, program: Program | None) -> None:
    failures: list[CniError] = []
    with _session(request, program) as session:
        is_unused = _take_away(
            session,
            failures,
            lambda: plugin.asks(request, None),
            lambda facts: plugin.collect(request, facts),
        )
    if is_unused:
        ipam_request = plugin.ipam_request(request, None, None)
        _attempt(failures, lambda: _ipam(plugin.ipam_type(request), request, program).gc(ipam_request))
    _report(failures)


def status(plugin: Plugin[Any], request: Request, program: Program | None) -> None:
    try:
        config = plugin.parse(request)
    except TryAgainLater as err:  # as an ADD would, and STATUS says 50 then
        raise NotAvailable(err.msg, err.details) from err
    with _session(request, program) as session:
        facts = observe.observe(session, plugin.asks(request, config))
        plugin.status(request, config, facts)
    ipam_request = plugin.ipam_request(request, config, facts)
    try:
        ipam = _ipam(plugin.ipam_type(request), request, program)
    except InvalidNetworkConfig as err:  # SPEC.md, STATUS: code 50 when an ADD cannot be carried out
        raise NotAvailable(err.msg, err.details) from err
    ipam.status(ipam_request)


def _session(request: Request, program: Program | None) -> Session:
    return open_session(request, program.residence if program else None)


def _ipam(name: str, request: Request, program: Program | None) -> IpamPlugin:
    return ipams.of(name, request, program) if name else ipams.none()


def _carry_out(session: Session, change: apply.Change, decision: Decision, done: Plan = ()) -> Plan:
    """Carry out the steps that are not in `done`; return all steps of the decision."""
    apply.apply(session, tuple(step for step in decision.lasting if step not in done))
    change.carry_out(tuple(step for step in decision.plan if step not in done))
    return decision.whole


def _reserve_probed(session: Session, probing: Probing, ipam: IpamPlugin, request: Request) -> Result:
    """Reserve addresses that nobody has."""
    from cni_plugins.engine import acd
    from cni_plugins.kernel.ip import conflicts

    def probe(addresses: Sequence[IPAddress]) -> Mapping[IPAddress, str]:
        session.require_caller()
        return conflicts.answering(session, probing, addresses)

    return acd.reserve(ipam, request, probe)


def _require_addresses(ipam: IpamPlugin, lease: Result) -> None:
    if ipam.name and not lease.ips:
        raise KernelRefused(
            "IPAM plugin returned missing IP config", f"ipam.type is {ipam.name}, ips is empty"
        )


def _take_away(
    session: Session, failures: list[CniError], asks: Callable[[], Asks], plan: Callable[[Facts], Plan]
) -> bool:
    """Carry out a plan that only deletes; add its failures, those of looking up facts included.

    :returns: whether the links that use addresses are known to be gone.
    """
    try:
        removed = apply.remove(session, plan(observe.observe(session, asks())))
    except Exception as err:  # noqa: BLE001 (the kernel cannot be looked at, or the plugin has a fault)
        failures.append(foreseen(err))
        return False
    failures += removed.errors
    return removed.is_unused


def _was_created_meanwhile(
    session: Session,
    plugin: Plugin[Any],
    request: Request,
    config: Any,  # noqa: ANN401 (the plugin's own model)
) -> bool:
    """Say whether another ADD created the attachment after ours was undone: then the addresses are in use."""
    try:
        plugin.admit(request, config, observe.observe(session, plugin.asks(request, config)))
    except NameTaken:
        return True
    except (CniError, OSError):
        return False
    return False


def _take_back(ipam: IpamPlugin, request: Request, lease: Result, reason: BaseException) -> None:
    failures: list[CniError] = []
    _attempt(failures, lambda: ipam.take_back(request, lease))
    for failure in failures:
        reason.add_note(f"the addresses could not be released: {failure.msg}")


def _parse_leniently(plugin: Plugin[Any], request: Request) -> Any:  # noqa: ANN401 (the plugin's own model)
    try:
        return plugin.parse(request)
    except Exception:  # noqa: BLE001 (DEL works without the config, whatever is wrong with it)
        return None


def _attempt(failures: list[CniError], action: Callable[[], None]) -> None:
    try:
        action()
    except Exception as err:  # noqa: BLE001 (a failed deletion must not stop the others)
        failures.append(foreseen(err))


def _report(failures: list[CniError]) -> None:
    """Raise the first failure, with the others as notes."""
    if not failures:
        return
    first, *others = failures
    for other in others:
        first.add_note(f"{other.msg} ({other.full_details()})")
    raise first
