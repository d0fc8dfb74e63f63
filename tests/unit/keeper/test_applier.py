"""When a network is looked at, and what is told of it."""

import time
from collections.abc import Mapping
from typing import Any

import pytest

from cni_plugins.errors import InvalidNetworkConfig, TryAgainLater
from cni_plugins.keeper import followed
from cni_plugins.keeper.applier import Applier
from cni_plugins.keeper.followed import Followed
from cni_plugins.kernel.links.notifications import Notice, What
from cni_plugins.ownership import network_mark
from cni_plugins.upkeep.overlay import State
from cni_plugins.upkeep.overlay_configs import Configured


class Rig:
    def __init__(self) -> None:
        self.calls: list[str] = []
        self.answers: list[Any] = []
        self.lines: list[tuple[str, str]] = []
        self.reported: list[tuple[bool, str]] = []
        self.applier = Applier(self, self.sync)
        self.blue = network("blue")
        self.applier.follow(self.blue, self)
        self.run_until_quiet()
        self.calls.clear()

    def sync(self, name: str, _conf: Any) -> Any:
        self.calls.append(name)
        answer = self.answers.pop(0) if self.answers else State.IN_SYNC
        if isinstance(answer, Exception):
            raise answer
        return Seen(answer)

    def note(self, pairs: Mapping[str, str], text: str) -> None:
        self.lines.append((pairs["keeper"], text))

    warn = note

    def applied(self, *, changed: bool, trouble: str = "") -> None:
        self.reported.append((changed, trouble))

    def run_until_quiet(self) -> None:
        end = time.monotonic() + 5
        while (
            (due := self.applier.due()) is not None and due - time.monotonic() < 1 and time.monotonic() < end
        ):
            time.sleep(max(0.0, due - time.monotonic()))
            self.applier.act()

    def notice(self, *notices: Notice) -> bool:
        found = self.applier.notice(notices)
        self.run_until_quiet()
        return found


class Seen:
    def __init__(self, state: State) -> None:
        self.state = state
        self.differences = ("a link is missing",) if state != State.IN_SYNC else ()


def network(name: str, **backend: Any) -> Followed:
    conf = {
        "name": name,
        "network": "10.0.0.0/16",
        "backend": {"type": "etcd", "endpoints": ["http://192.0.2.1:1"], **backend},
    }
    found = followed.of(Configured(name, "file", conf))
    assert found is not None
    return found


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_news_are_applied_at_once(rig: Rig) -> None:
    rig.answers = [State.REPAIRED]
    rig.applier.news("blue")
    rig.applier.act()
    assert rig.calls == ["blue"]
    assert rig.lines == [("applied", "a link is missing")]
    assert rig.reported[-1] == (True, "")
    rig.applier.news("unknown")
    assert rig.applier.due() is None


@pytest.mark.parametrize("number", [0, 1])
def test_a_link_that_is_gone_is_brought_back(rig: Rig, number: int) -> None:
    rig.answers = [State.REPAIRED]
    rig.notice(Notice(What.LINK_GONE, 7, rig.blue.links[number]))
    assert rig.calls == ["blue"]
    assert rig.lines[0][0] == "repaired"


def test_what_belongs_to_others_is_left_alone(rig: Rig) -> None:
    assert not rig.notice(
        Notice(What.LINK_GONE, 7, "veth0"),
        Notice(What.ROUTE_GONE, metric=5),
        Notice(What.NEIGHBOUR_GONE, 7),
        Notice(What.LINK, 8, "eth0", b"1"),
    )
    assert rig.calls == []


def test_routes_neighbours_and_addresses_of_the_network_are_ours(rig: Rig) -> None:
    rig.notice(Notice(What.ROUTE_GONE, metric=network_mark("blue")))
    assert len(rig.calls) == 1
    rig.notice(Notice(What.LINK, 7, rig.blue.links[0], b"1"))  # it was created: by us
    assert len(rig.calls) == 1
    rig.notice(Notice(What.NEIGHBOUR_GONE, 7))
    rig.notice(Notice(What.ADDRESS_GONE, 7))
    rig.notice(Notice(What.LINK, 7, rig.blue.links[0], b"0"))  # it was changed
    assert len(rig.calls) >= 3


def test_lost_notifications_are_a_reason_to_look_at_everything(rig: Rig) -> None:
    assert rig.notice(Notice(What.ANYTHING))
    assert rig.calls == ["blue"]


def test_addresses_of_the_host_are_told(rig: Rig) -> None:
    assert rig.notice(Notice(What.ADDRESS, 2))
    assert rig.notice(Notice(What.ADDRESS_GONE, 2))
    assert rig.calls == []


def test_trouble_is_told_once_and_reported(rig: Rig) -> None:
    rig.answers = [InvalidNetworkConfig("bad", "key is x")] * 2
    for _ in range(2):
        rig.applier.news("blue")
        rig.applier.act()
    assert rig.lines == [("not-applied", "bad (key is x)")]
    assert rig.reported[-1] == (False, "bad (key is x)")
    rig.applier.news("blue")
    rig.applier.act()
    assert rig.reported[-1] == (False, "")


def test_a_snapshot_that_is_not_there_yet_is_no_trouble(rig: Rig) -> None:
    rig.answers = [TryAgainLater("not known yet")]
    rig.applier.news("blue")
    rig.applier.act()
    assert rig.reported[-1] == (False, "")
    assert rig.lines == []


def test_a_fault_of_ours_in_one_network_ends_nothing(rig: Rig) -> None:
    rig.answers = [RuntimeError("oops")]
    rig.applier.news("blue")
    rig.applier.act()
    assert "internal error: RuntimeError('oops')" in rig.reported[-1][1]


def test_what_keeps_being_removed_is_brought_back_ever_later_but_news_do_not_wait(rig: Rig) -> None:
    rig.answers = [State.REPAIRED] * 20
    end = time.monotonic() + 3
    while time.monotonic() < end:
        rig.applier.notice([Notice(What.LINK_GONE, 7, rig.blue.links[0])])
        rig.applier.act()
        time.sleep(0.02)
    assert len(rig.calls) <= 4
    count = len(rig.calls)
    rig.applier.news("blue")
    rig.applier.act()
    assert len(rig.calls) == count + 1


def test_a_network_that_is_forgotten_is_left_alone(rig: Rig) -> None:
    rig.applier.forget("blue")
    rig.applier.news("blue")
    rig.notice(Notice(What.LINK_GONE, 7, rig.blue.links[0]))
    assert rig.calls == []
