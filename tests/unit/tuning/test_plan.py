"""From request, config and facts to the exact plan and result."""

from ipaddress import ip_interface
from pathlib import Path
from typing import Any

import pytest

from cni_plugins.contract.facts import Asks, Facts, LinkFacts
from cni_plugins.contract.plugin import Decision
from cni_plugins.errors import InvalidNetworkConfig, NotAvailable, StateDrifted
from cni_plugins.protocol.request import Request
from cni_plugins.protocol.result import Interface, IPConfig, Result
from cni_plugins.steps.links import SetMac, SetMtu
from cni_plugins.steps.step import SANDBOX
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
from cni_plugins.tuning import allow_list
from cni_plugins.tuning.plugin import PLUGIN

MAC = "02:11:22:33:44:55"
OWN, HOST_END = Interface("eth0", "02:00:00:00:00:01", "/ns", 1500), Interface("veth1", mtu=1500)
NAMESAKE = Interface("eth0", "02:00:00:00:00:02", "/other", 1500)
PREVIOUS = Result(
    (Interface("br0"), HOST_END, OWN, NAMESAKE), (IPConfig(ip_interface("fd00::2/64"), interface=2),)
)
KEYS = {
    "sysctl": {"net.core.somaxconn": "5"},
    "mac": MAC,
    "promisc": True,
    "mtu": 1400,
    "allmulti": False,
    "txQLen": 0,
}
DIR = "/run/cni/tuning"


@pytest.fixture(autouse=True)
def _no_list(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(allow_list, "PATH", str(tmp_path / "absent"))


def request(command: Any = "ADD", previous: Result | None = PREVIOUS, **keys: Any) -> Request:
    conf = {"name": "net1", "type": "tuning", **keys}
    return Request(
        command, "net1", container_id="c1", netns="/ns", ifname="eth0", conf=conf, prev_result=previous
    )


ME = request().attachment


def decided(asked: Request, facts: Facts | None = None) -> Decision:
    return PLUGIN.decide(asked, PLUGIN.parse(asked), Result(), facts or Facts())


def with_peer(name: str) -> Facts:
    return Facts(sandbox={"eth0": LinkFacts("eth0", 2, "veth", "", 1500, up=True, peer=name)})


@pytest.mark.parametrize("command", ["ADD", "CHECK"])
def test_everything_in_the_references_order_after_the_backup(command: str) -> None:
    plan, result, lasting = decided(request(command, **KEYS))
    wanted = LinkSettings(MAC, promisc=True, mtu=1400, allmulti=False, tx_queue_len=0)
    assert plan == (
        RecordSettings(DIR, ME, ((("core", "somaxconn"), "5"),), wanted),
        WriteSysctl(("core", "somaxconn"), "5"),
        SetMac(SANDBOX, "eth0", MAC),
        SetPromisc("eth0", on=True),
        SetMtu(SANDBOX, "eth0", 1400),
        SetAllmulti("eth0", on=False),
        SetTxQueueLen("eth0", 0),
    )
    changed = OWN._replace(mac=MAC, mtu=1400)
    assert result == PREVIOUS._replace(interfaces=(Interface("br0"), HOST_END, changed, NAMESAKE))
    assert lasting == ()


@pytest.mark.parametrize(
    "keys", [{}, {"promisc": False}, {"mac": "", "mtu": 0, "mtuBothEnds": True, "sysctl": {}}]
)
def test_nothing_to_set_is_no_step(keys: dict[str, Any]) -> None:
    assert decided(request(**keys)) == Decision((), PREVIOUS)


def test_sysctls_keep_their_order() -> None:
    names = [f"net.core.{letter}" for letter in "zayb"]
    plan = decided(request(sysctl=dict.fromkeys(names, "1"))).plan
    assert [step.key[-1] for step in plan[1:]] == ["z", "a", "y", "b"]
    assert plan[0] == RecordSettings(DIR, ME, tuple((step.key, "1") for step in plan[1:]), LinkSettings())


def test_the_ipv6_mtu_comes_after_that_of_the_link() -> None:
    late, early = "net.ipv6.conf.IFNAME.mtu", "net.ipv6.conf.other.mtu"
    plan = decided(request(sysctl={late: "1300", early: "1300"}, mtu=1400, txQLen=5)).plan
    assert plan[1:] == (
        WriteSysctl(("ipv6", "conf", "other", "mtu"), "1300"),
        SetMtu(SANDBOX, "eth0", 1400),
        WriteSysctl(("ipv6", "conf", "eth0", "mtu"), "1300"),
        SetTxQueueLen("eth0", 5),
    )
    alone = decided(request(sysctl={late: "1300", early: "1300"})).plan
    assert [step.key[2] for step in alone[1:]] == ["eth0", "other"]


def test_both_ends() -> None:
    asked = request(mtu=1400, mtuBothEnds=True)
    assert PLUGIN.asks(asked, PLUGIN.parse(asked)) == Asks(sandbox=("eth0",))
    plan, result, _ = decided(asked, with_peer("veth1"))
    assert plan == (
        RecordSettings(DIR, ME, (), LinkSettings(mtu=1400, host_mtu=1400)),
        SetMtu(SANDBOX, "eth0", 1400),
        SetHostEndMtu("eth0", "veth1", 1400),
    )
    changed = (Interface("br0"), HOST_END._replace(mtu=1400), OWN._replace(mtu=1400), NAMESAKE)
    assert result.interfaces == changed


@pytest.mark.parametrize(("command", "error"), [("ADD", InvalidNetworkConfig), ("CHECK", StateDrifted)])
def test_both_ends_need_a_host_end(command: str, error: type[Exception]) -> None:
    with pytest.raises(error, match="eth0 is not a veth with its other end in the host"):
        decided(request(command, mtu=1400, mtuBothEnds=True), with_peer(""))


@pytest.mark.parametrize("previous", [Result(), Result((Interface("cali1"),)), Result((NAMESAKE,))])
def test_a_result_that_does_not_list_the_interface_stays_as_it_is(previous: Result) -> None:
    assert decided(request(previous=previous, **KEYS)).result == previous


@pytest.mark.parametrize(
    ("command", "previous", "mtu", "refused"),
    [
        ("ADD", PREVIOUS, 1279, True),
        ("ADD", PREVIOUS, 1280, False),
        ("CHECK", PREVIOUS, 1279, False),
        ("ADD", PREVIOUS._replace(ips=(IPConfig(ip_interface("10.0.0.2/24"), interface=2),)), 1279, False),
        ("ADD", PREVIOUS._replace(ips=(IPConfig(ip_interface("fd00::2/64"), interface=3),)), 1279, False),
        ("ADD", Result(ips=(IPConfig(ip_interface("fd00::2/64")),)), 1279, True),
    ],
)
def test_an_mtu_too_small_for_the_own_addresses(
    command: str, previous: Result, mtu: int, *, refused: bool
) -> None:
    asked = request(command, previous, mtu=mtu)
    if refused:
        with pytest.raises(InvalidNetworkConfig, match="invalid MTU 1279, IPv6 needs 1280"):
            decided(asked)
    else:
        assert SetMtu(SANDBOX, "eth0", mtu) in decided(asked).plan


@pytest.mark.parametrize("config", [None, "parsed"])
def test_del_needs_the_directories_only(config: str | None) -> None:
    asked = request("DEL", previous=None, dataDir="/d", **KEYS)
    tuning = PLUGIN.parse(asked) if config else None
    assert PLUGIN.asks(asked, tuning) == Asks()
    assert PLUGIN.delete(asked, tuning, Facts()) == (RestoreSettings(("/d", DIR), ME),)
    assert PLUGIN.delete(request("DEL", dataDir=5), None, Facts()) == (RestoreSettings((DIR,), ME),)


def test_gc() -> None:
    asked = request("GC", dataDir="/d")._replace(valid_attachments=(("c1", "eth0"),))
    assert PLUGIN.asks(asked, None) == Asks()
    assert PLUGIN.collect(asked, Facts()) == (DelStaleBackups(("/d", DIR), "net1", frozenset((ME.tag,))),)


def test_status() -> None:
    asked = request("STATUS", dataDir="/d", **KEYS)
    tuning = PLUGIN.parse(asked)
    assert PLUGIN.asks(asked, tuning) == Asks(backup_dir="/d")
    PLUGIN.status(asked, tuning, Facts())
    with pytest.raises(NotAvailable, match="dataDir cannot be used: /d belongs to user 5"):
        PLUGIN.status(asked, tuning, Facts(backup_dir_fault="/d belongs to user 5"))


def test_names_of_settings_in_errors() -> None:
    assert "net.core.somaxconn to '5'" in WriteSysctl(("core", "somaxconn"), "5").phrase()
    assert "net/ipv4/conf/eth0.5/x to ''" in WriteSysctl(("ipv4", "conf", "eth0.5", "x"), "").phrase()
