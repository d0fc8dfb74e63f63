"""The agent repairs by itself what other programs remove, and only then."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.agent.rig import Agent
from tests.integration.upkeep.conftest import Node

BRIDGE = {"type": "bridge", "bridge": "br0", "isGateway": True, "ipMasq": True, "macspoofchk": True}


def bridge(node: Node, **more: Any) -> dict[str, Any]:
    return {**BRIDGE, "ipam": node.bed.host_local("10.1.0.0/24", "fd00:1::/64"), **more}


@pytest.fixture
def start(node: Node, tmp_path: Path) -> Iterator[Callable[..., Agent]]:
    """Start agents in the node's namespace, which end with the test."""
    if not shutil.which("nsenter"):
        pytest.skip("not installed: nsenter")
    made: list[Agent] = []

    def starting(**options: Any) -> Agent:
        directory = tmp_path / f"agent{len(made)}"
        directory.mkdir()
        places = {
            "cache_dir": (str(node.cache),),
            "plugin_dir": (str(node.executables),),
            "conf_dir": str(node.conf_dir),
        }
        inside = ("nsenter", f"--net={node.bed.host.path}")
        one = Agent(directory, inside=inside, **{"repair": True, **places, **options})
        made.append(one)
        one.wait()
        if options.get("repair", True):
            wait_for(lambda: counts(one)["looks"] > 0)
        return one

    yield starting
    for one in made:
        assert one.stop() == 0


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.02)


def counts(agent: Agent) -> dict[str, int]:
    found: dict[str, int] = agent.page()["repair"]
    return found


def lines(agent: Agent, word: str) -> list[str]:
    return [line for line in agent.journal() if word in line]


def test_a_flush_is_repaired_and_told(node: Node, start: Callable[..., Agent]) -> None:
    first = node.add([bridge(node)])
    second = node.add([bridge(node)], container="c2")
    before = node.ruleset()
    agent = start()
    node.bed.host.run("nft", "flush", "ruleset")
    wait_for(lambda: node.ruleset() == before)
    wait_for(lambda: counts(agent)["repairs"] == 1)
    assert counts(agent) == {"looks": 2, "repairs": 1, "steps": 4, "failures": 0}
    told = lines(agent, "repair=repaired")
    assert len(told) == 2
    for line, container in zip(sorted(told), ("c1", "c2"), strict=True):
        assert f"network=net1 container={container} ifname=eth0 plugin=bridge after=nft what=" in line
        assert "masquerade" in line
    node.check(first, second)


@pytest.mark.parametrize(
    "command",
    [
        "nft flush table inet cni_plugins",
        "nft flush chain bridge cni_plugins source_guard",
        "nft delete table bridge cni_plugins",
        "nft flush set bridge cni_plugins allowed",
        "nft insert rule inet cni_plugins masq_postrouting accept",
    ],
)
def test_whatever_another_program_changes_of_ours_is_repaired(
    node: Node, start: Callable[..., Agent], command: str
) -> None:
    one = node.add([bridge(node)])
    before = node.ruleset()
    agent = start()
    node.bed.host.run(*command.split())
    wait_for(lambda: counts(agent)["repairs"] == 1)
    assert node.ruleset() == before
    node.check(one)


def test_iptables_rules_come_back(node: Node, start: Callable[..., Agent], needs: Any) -> None:
    needs("iptables-restore")
    one = node.add([bridge(node, ipMasqBackend="iptables")])
    before = node.ruleset()
    agent = start()
    node.bed.host.run("iptables", "-t", "nat", "-F")
    wait_for(lambda: counts(agent)["repairs"] == 1)
    assert node.ruleset() == before
    node.check(one)


def test_what_was_removed_before_the_agent_started_comes_back(
    node: Node, start: Callable[..., Agent]
) -> None:
    """As after a reboot with containers that a runtime restored, or an upgrade."""
    one = node.add([bridge(node)])
    before = node.ruleset()
    node.bed.host.run("nft", "flush", "ruleset")
    agent = start()
    wait_for(lambda: counts(agent)["repairs"] == 1)
    assert node.ruleset() == before
    agent.process.send_signal(signal.SIGHUP)
    agent.wait(times=2)
    node.bed.host.run("nft", "flush", "ruleset")
    wait_for(lambda: node.ruleset() == before)
    node.check(one)


def test_own_changes_and_those_of_other_tables_start_nothing(node: Node, start: Callable[..., Agent]) -> None:
    """Neither a look nor a process: the watcher reads the notifications and waits again."""
    node.add([bridge(node)])
    agent = start()
    watcher = _watcher(agent)
    wait_for(lambda: not _children(watcher))
    script = "; ".join(
        f"add table ip other{number}; add chain ip other{number} POSTROUTING;"
        f" add rule ip other{number} POSTROUTING accept"
        for number in range(50)
    )
    seen: set[int] = set()
    node.bed.host.run("nft", script)
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        seen |= _children(watcher)
        time.sleep(0.005)
    assert seen == set()
    assert counts(agent)["repairs"] == 0


def test_an_agent_without_repairs_has_no_process_for_them(node: Node, start: Callable[..., Agent]) -> None:
    node.add([bridge(node)])
    agent = start(repair=False)
    assert len(_children(agent.process.pid)) == 2
    node.bed.host.run("nft", "flush", "ruleset")
    time.sleep(1.0)
    assert node.bed.host.run("nft", "list", "ruleset") == ""


def test_the_agent_is_idle_while_nothing_happens(node: Node, start: Callable[..., Agent]) -> None:
    node.add([bridge(node)])
    agent = start()
    watcher = _watcher(agent)
    wait_for(lambda: not _children(watcher))
    before = _ticks(watcher)
    time.sleep(1.5)
    assert _ticks(watcher) == before
    assert _children(watcher) == set()


def test_two_programs_do_not_fight(node: Node, start: Callable[..., Agent]) -> None:
    """Another one removes the rules each time they are there: repairs become rare, and this is said once."""
    node.add([bridge(node)])
    agent = start()
    script = "while true; do nft list table inet cni_plugins >/dev/null 2>&1 && nft flush ruleset; done"
    with node.bed.inside():
        other = subprocess.Popen(["sh", "-c", script], process_group=0)
    try:
        agent.wait("keeps being removed")
        told = len(lines(agent, "repair=repaired"))
        done = counts(agent)["repairs"]
        time.sleep(5.0)
        assert counts(agent)["repairs"] <= done + 2
        assert len(lines(agent, "keeps being removed")) == 1
        assert "keeps being removed by nft;" in lines(agent, "keeps being removed")[0]
        assert len(lines(agent, "repair=repaired")) == told
    finally:
        os.killpg(other.pid, signal.SIGKILL)
        other.wait()


def test_the_rules_of_a_container_that_is_deleted_meanwhile_do_not_stay(
    node: Node, start: Callable[..., Agent]
) -> None:
    """As by a DEL that had removed its rules before they came back, and then removed the interface."""
    one = node.add([bridge(node)])
    stays = node.add([bridge(node)], container="c2")
    agent = start()
    node.bed.host.run("nft", "flush", "ruleset")
    wait_for(lambda: counts(agent)["repairs"] == 1)
    one.sandbox.run("ip", "link", "del", "eth0")
    one.file.unlink()
    wait_for(lambda: "id: c1" not in node.bed.host.run("nft", "list", "ruleset"))
    agent.wait("deleted meanwhile")
    node.check(stays)


def test_what_cannot_be_repaired_is_told_once(node: Node, start: Callable[..., Agent]) -> None:
    address = {"type": "static", "addresses": [{"address": "10.1.0.9/24"}]}
    twice = bridge(node, macspoofchk=False, ipam=address)
    node.add([twice])
    node.add([twice], container="c2")
    agent = start()
    agent.wait("repair=not-repaired")
    wait_for(lambda: counts(agent)["failures"] >= 2)
    assert len(lines(agent, "repair=not-repaired")) == 1
    assert "belongs to another" in lines(agent, "repair=not-repaired")[0]


def test_a_killed_watcher_is_replaced(node: Node, start: Callable[..., Agent]) -> None:
    one = node.add([bridge(node)])
    agent = start()
    wait_for(lambda: _watcher(agent) != 0)  # 0 would be the process group of the tests
    watcher = _watcher(agent)
    assert watcher > 0
    os.kill(watcher, signal.SIGKILL)
    wait_for(lambda: _watcher(agent) not in (0, watcher))
    before = node.ruleset()
    node.bed.host.run("nft", "flush", "ruleset")
    wait_for(lambda: node.ruleset() == before)
    node.check(one)


def _children(pid: int) -> set[int]:
    try:
        return {int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}
    except OSError:
        return set()


def _watcher(agent: Agent) -> int:
    """Return the child of the agent that is no worker; 0 if there is none."""
    workers = {worker["pid"] for worker in agent.page()["workers"]}
    return next(iter(_children(agent.process.pid) - workers), 0)


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
