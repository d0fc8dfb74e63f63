"""Compares every attachment that runtimes remember with its plugins' plans, and carries out what is missing.

The plans are those of CHECK. Only steps whose effect is in the host are carried out (see
Step.not_repaired_because): the containers are not touched. First come the rules of all attachments, in few
transactions, as nothing filters or translates without them, then everything else.

An attachment is locked as by ADD and DEL, and compared only if the runtime still remembers it and its
interface exists. Between the DELs of two plugins of a list nothing is locked; `take_back_departed`, a moment
later, removes what came back meanwhile.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from cni_plugins.errors import CniError
from cni_plugins.kernel import apply, dispatch
from cni_plugins.kernel.session.locks import AttachmentLocks
from cni_plugins.kernel.session.session import Residence, Session, nft_socket
from cni_plugins.ownership import Attachment
from cni_plugins.steps.step import Plan, Step
from cni_plugins.upkeep import attachment as look
from cni_plugins.upkeep import caches, overlay_repair, serving
from cni_plugins.upkeep.attachment import Condition, Served, ServedPlugin, told
from cni_plugins.upkeep.caches import CachedAttachment
from cni_plugins.upkeep.overlay_repair import OverlayOutcome, Overlays

SETTLING = 1.0  # seconds in which a DEL that was under way comes to its end
CONF_DIR = Path("/etc/cni/net.d")
_AT_ONCE = 64  # attachments whose rules are restored together, and which are locked meanwhile
_BUSY = 2.0  # seconds to wait for a request that is under way


class Scope(NamedTuple):
    """Where to look, and for which networks; none named: all."""

    cache_dirs: tuple[Path, ...] = caches.DEFAULT
    plugin_dirs: tuple[Path, ...] = serving.DEFAULT
    conf_dir: Path = CONF_DIR
    networks: tuple[str, ...] = ()


class RepairOutcome(NamedTuple):
    """What became of one attachment.

    :param plugins: the plugins that this suite serves.
    :param differences: what was repaired, or, without changes, what would be.
    :param remaining: what could not be repaired, with the reasons.
    """

    of: CachedAttachment
    plugins: tuple[str, ...]
    condition: Condition
    differences: tuple[str, ...] = ()
    remaining: tuple[str, ...] = ()


class RepairReport(NamedTuple):
    """What became of all attachments and overlays; `faults` is a sentence for each broken cache file."""

    attachments: tuple[RepairOutcome, ...] = ()
    overlays: tuple[OverlayOutcome, ...] = ()
    faults: tuple[str, ...] = ()


def repair(scope: Scope, *, dry_run: bool = False, in_sandboxes: bool = True) -> RepairReport:
    """Compare and repair.

    :param dry_run: change nothing.
    :param in_sandboxes: whether to report what differs in sandboxes, too, which is never repaired.
    """
    found = caches.read(scope.cache_dirs)
    chosen = [
        one for one in found.attachments if not scope.networks or one.attachment.network in scope.networks
    ]
    if not chosen:
        return RepairReport(faults=found.faults)
    overlays = Overlays(scope.conf_dir, found.attachments, dry_run=dry_run)
    with _Host() as host:
        run = _Run(host, scope, overlays, dry_run=dry_run, in_sandboxes=in_sandboxes)
        outcomes = tuple(run.all(chosen))
    return RepairReport(outcomes, tuple(overlays.outcomes.values()), found.faults)


def take_back_departed(scope: Scope, repaired: Iterable[RepairOutcome]) -> list[str]:
    """Remove what was restored for attachments that were deleted meanwhile; return them as text.

    Like the DEL of a container that is gone, without releasing its addresses.
    """
    gone: list[str] = []
    with _Host() as host:
        types, path = _types(scope)
        for cached in (outcome.of for outcome in repaired):
            if host.locks.take(cached.attachment, _BUSY):
                try:
                    listed = look.served(cached, types, path)
                    if _is_departed(host, listed):
                        _remove(host, listed)
                        gone.append(str(cached.attachment.names))
                finally:
                    host.locks.release(cached.attachment)
    return gone


def _is_departed(host: "_Host", listed: Served) -> bool:
    if not listed.plugins:
        return False
    session = look.opened(listed.plugins[0].request, host.residence)
    if session is None:
        return True
    with session:
        facts = look.facts_of(session, listed.plugins[0])
        return look.condition(listed, facts) == Condition.GONE


def _remove(host: "_Host", listed: Served) -> None:
    for one in reversed(listed.plugins):
        with Session(None, residence=host.residence) as session:
            apply.remove(session, look.delete_plan(session, one))


def _types(scope: Scope) -> tuple[serving.ServedTypes, str]:
    return serving.ServedTypes(scope.plugin_dirs), ":".join(map(str, scope.plugin_dirs))


class _Host:
    """What all attachments share: the nf_tables socket, what was read with it, and the locks."""

    def __init__(self) -> None:
        self.locks = AttachmentLocks()
        self._nft = nft_socket()
        self.residence = Residence(self._nft, lambda: True, {})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.locks.close()
        self._nft.close()


class _Missing(NamedTuple):
    """A step that is to be carried out together with others of its kind."""

    work: "_Work"
    step: Step
    text: str


class _Work:
    """One attachment under way."""

    def __init__(self, cached: CachedAttachment) -> None:
        self.cached = cached
        self.listed = Served((), "")
        self.plans: list[Plan] = []
        self.condition = Condition.IN_ORDER
        self.differences: list[str] = []
        self.remaining: list[str] = []

    def outcome(self, *, dry_run: bool) -> RepairOutcome:
        condition = self.condition
        if condition == Condition.IN_ORDER and self.remaining:
            condition = Condition.UNREPAIRED
        elif condition == Condition.IN_ORDER and self.differences:
            condition = Condition.DIFFERS if dry_run else Condition.REPAIRED
        plugins = tuple(one.plugin.name for one in self.listed.plugins)
        return RepairOutcome(
            self.cached,
            plugins,
            condition,
            tuple(dict.fromkeys(self.differences)),
            tuple(dict.fromkeys(self.remaining)),
        )


class _Run:
    """One pass over all attachments."""

    def __init__(
        self, host: _Host, scope: Scope, overlays: Overlays, *, dry_run: bool, in_sandboxes: bool
    ) -> None:
        self._host = host
        self._overlays = overlays
        self._dry_run = dry_run
        self._in_sandboxes = in_sandboxes
        self._types, self._path = _types(scope)
        self._done: set[Step] = set()
        """Shared steps whose effect was found, or made."""

    def all(self, attachments: Sequence[CachedAttachment]) -> Iterator[RepairOutcome]:
        """Yield the outcome for each, those last for which a request was under way."""
        works: list[_Work] = []
        later: list[CachedAttachment] = []
        for start in range(0, len(attachments), _AT_ONCE):
            works += self._restored(attachments[start : start + _AT_ONCE], later.append)
        for one in later:
            works += self._restored([one], None)
        for work in works:
            _guarded(work, self._rest)
            yield work.outcome(dry_run=self._dry_run)

    def _restored(
        self, attachments: Sequence[CachedAttachment], put_off: Callable[[CachedAttachment], None] | None
    ) -> list[_Work]:
        """Restore the rules of some attachments together.

        :param put_off: takes those for which a request is under way; None: wait for its end.
        """
        locks = self._host.locks
        works: list[_Work] = []
        held: list[Attachment] = []
        try:
            for cached in attachments:
                if locks.take(cached.attachment, 0.0 if put_off else _BUSY):
                    held.append(cached.attachment)
                    works.append(_Work(cached))
                elif put_off:
                    put_off(cached)
                else:
                    works.append(_busy(cached))
            self._restore([item for work in works for item in _guarded(work, self._rules)])
        finally:
            for attachment in held:
                locks.release(attachment)
        return works

    # ------------------------------------------------------------------------------------- rules, of many

    def _rules(self, work: _Work) -> list[_Missing]:
        """Prepare the plans of an attachment; return its missing rules."""
        if work.remaining or not self._prepare(work):
            return []
        session = look.opened(work.listed.plugins[0].request, self._host.residence)
        if session is None:
            work.condition = Condition.GONE
            return []
        with session:
            for one in work.listed.plugins:
                if work.condition == Condition.IN_ORDER:
                    self._plan(session, work, one)
            if work.condition != Condition.IN_ORDER:
                return []
            steps = [step for plan in work.plans for step in plan if _is_restored(step)]
            return [item for step in steps for item in self._missing(session, work, step)]

    def _prepare(self, work: _Work) -> bool:
        """Read what the runtime remembers, if it still does; say whether a plugin of ours is in it."""
        work.listed = look.served(work.cached, self._types, self._path)
        if not work.listed.plugins:
            work.condition = Condition.FOREIGN
        elif not work.cached.is_kept():
            work.condition = Condition.GONE
        return work.condition == Condition.IN_ORDER

    def _plan(self, session: Session, work: _Work, one: ServedPlugin) -> None:
        """Add the plan of one plugin, unless the attachment turns out to be gone, or another program's."""
        try:
            plan = self._decided(session, work, one)
        except (CniError, OSError) as err:
            work.condition = look.condition(work.listed, look.facts_of(session, one))
            work.remaining.append(f"{one.plugin.name}: {told(err)}")
        else:
            work.plans.append(plan)

    def _decided(self, session: Session, work: _Work, one: ServedPlugin) -> Plan:
        plugin, request = one
        is_overlay = plugin.name == overlay_repair.PLUGIN
        config = None if is_overlay else plugin.parse(request)
        # Of an overlay, DEL asks for what one container needs.
        asked = request._replace(command="DEL") if is_overlay else request
        facts = look.facts_of(session, one, plugin.asks(asked, config))
        work.condition = look.condition(work.listed, facts)
        if work.condition != Condition.IN_ORDER:
            return ()
        if is_overlay:
            return self._overlays.plan(one, facts)
        return plugin.decide(request, config, look.lease(request), facts).whole

    def _missing(self, session: Session, work: _Work, step: Step) -> Iterator[_Missing]:
        try:
            text = _differs(session, step)
        except CniError as err:
            work.remaining.append(told(err))
            return
        if text:
            yield _Missing(work, step, text)

    def _restore(self, missing: list[_Missing]) -> None:
        """Carry out steps of one kind together."""
        if self._dry_run:
            for item in missing:
                item.work.differences.append(item.text)
            return
        kinds = dict.fromkeys(type(item.step) for item in missing)
        for kind in kinds:
            same = [item for item in missing if type(item.step) is kind]
            with Session(None, residence=self._host.residence) as session:
                _restore_together(session, same)

    # ------------------------------------------------------------------------------- everything, of one

    def _rest(self, work: _Work) -> list[_Missing]:
        """Compare the other steps of an attachment, and repair them at once; return nothing."""
        if work.condition != Condition.IN_ORDER or not work.plans:
            return []
        attachment = work.cached.attachment
        if not self._host.locks.take(attachment, _BUSY):
            work.remaining.append(_UNDER_WAY)
            return []
        try:
            session = look.opened(work.listed.plugins[0].request, self._host.residence)
            if session is None or not work.cached.is_kept():
                work.condition = Condition.GONE
            if session is not None:
                with session:
                    self._compare(session, work)
        finally:
            self._host.locks.release(attachment)
        return []

    def _compare(self, session: Session, work: _Work) -> None:
        for step in (step for plan in work.plans for step in plan):
            if work.condition != Condition.IN_ORDER:
                return
            if step in self._done or _is_restored(step):
                continue
            if step.not_repaired_because and not self._in_sandboxes:
                continue
            try:
                self._bring_in_line(session, work, step)
            except CniError as err:
                work.remaining.append(told(err))

    def _bring_in_line(self, session: Session, work: _Work, step: Step) -> None:
        text = _differs(session, step)
        if text and step.not_repaired_because:
            work.remaining.append(f"{text} ({step.not_repaired_because})")
        elif text and self._dry_run:
            work.differences.append(text)
        elif text:
            with apply.refusals(session, step):
                dispatch.carry_out(session, step)
            session.forget()
            still = _differs(session, step)
            (work.remaining if still else work.differences).append(still or text)
        if step.is_shared:
            self._done.add(step)


_UNDER_WAY = "a request for it is under way"


def _busy(cached: CachedAttachment) -> _Work:
    work = _Work(cached)
    work.remaining.append(_UNDER_WAY)
    return work


def _is_restored(step: Step) -> bool:
    """Say whether a step is carried out together with those of other attachments."""
    return not step.not_repaired_because and dispatch.find(type(step)).restore is not None


def _differs(session: Session, step: Step) -> str:
    with apply.refusals(session, step):
        return dispatch.differs(session, step)


def _restore_together(session: Session, same: list[_Missing]) -> None:
    """Carry out steps of one kind; if that is refused, half of them each, down to the one at fault."""
    restore: Callable[[Session, Sequence[Any]], None] | None = dispatch.find(type(same[0].step)).restore
    try:
        with apply.refusals(session, same[0].step):
            if restore:
                restore(session, [item.step for item in same])
    except CniError as err:
        if len(same) > 1:
            middle = len(same) // 2
            _restore_together(session, same[:middle])
            _restore_together(session, same[middle:])
        else:
            same[0].work.remaining.append(told(err))
    else:
        for item in same:
            item.work.differences.append(item.text)
    session.forget()


def _guarded(work: _Work, act: Callable[[_Work], list[_Missing]]) -> list[_Missing]:
    """Let one attachment fail without the others, whatever is in the cache or wrong with a plugin."""
    try:
        return act(work)
    except Exception as err:  # noqa: BLE001 (as above)
        work.remaining.append(told(err))
        return []
