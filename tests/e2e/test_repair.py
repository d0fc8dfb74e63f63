"""The frozen cnictl and its agent repair what cnitool's containers have lost, at the usual places."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.lab.agent import PROGRAM, Agent, running, wait_for
from tests.e2e.lab.host import Host
from tests.e2e.lab.plugin import BIN
from tests.e2e.lab.state import observe
from tests.e2e.lab.tools import program

pytestmark = [pytest.mark.needs("cnitool", "nft", "setpriv", "nsenter"), pytest.mark.timeout(180)]

POOLS = {"type": "host-local", "ranges": [[{"subnet": "10.87.0.0/24"}], [{"subnet": "fd00:87::/64"}]]}
LISTS: dict[str, dict[str, Any]] = {
    "cniebridge": {
        "type": "bridge",
        "bridge": "cniebr0",
        "isGateway": True,
        "ipMasq": True,
        "macspoofchk": True,
        "ipam": POOLS,
    },
    "cnieptp": {
        "type": "ptp",
        "ipMasq": True,
        "ipMasqBackend": "iptables",
        "ipam": {"type": "host-local", "subnet": "10.88.0.0/24"},
    },
}


def cnitool(node: Host, verb: str, network: str, netns: str) -> None:
    tool = program("cnitool")
    assert tool is not None
    node.run(tool, verb, network, netns, env={"CNI_PATH": BIN})


@pytest.fixture
def attached(node: Host) -> Iterator[Host]:
    """A node with a container in each of two networks."""
    for number, (name, plugin) in enumerate(LISTS.items()):
        document = {"cniVersion": "1.0.0", "name": name, "plugins": [plugin]}
        node.write(f"/etc/cni/net.d/{number}.conflist", json.dumps(document))
    paths = node.netns(*LISTS)
    for name, path in zip(LISTS, paths, strict=True):
        cnitool(node, "add", name, path)
    yield node
    for name, path in zip(LISTS, paths, strict=True):
        cnitool(node, "check", name, path)
        cnitool(node, "del", name, path)
    assert node.run("nft", "list", "tables").stdout.find("cni_plugins") < 0


def rules(node: Host) -> list[str]:
    """Return the lines of the ruleset, sorted, as tables are listed in the order in which they were made."""
    lines = node.run("nft", "list", "ruleset").stdout.splitlines()
    return sorted(line.split("counter packets")[0] for line in lines)


def ours(node: Host) -> list[str]:
    return [line for line in rules(node) if "cnie" in line or "cni-plugins" in line]


def test_the_command_repairs_a_flushed_ruleset(attached: Host) -> None:
    before = ours(attached)
    done = attached.run(PROGRAM, "repair")
    assert done.stdout == "2 attachments: 2 in order\n"
    attached.run("nft", "flush", "ruleset")
    dry = attached.run(PROGRAM, "repair", "--dry-run", check=False)
    assert dry.returncode == 1
    assert dry.stderr == "cnictl: attachments: 2 differ, which cnictl repair repairs\n"
    assert ours(attached) == []
    one = attached.run(PROGRAM, "repair", "--network", "cnieptp", "--json")
    [entry] = json.loads(one.stdout)["attachments"]
    assert (entry["network"], entry["state"], entry["plugins"]) == ("cnieptp", "repaired", ["ptp"])
    rest = attached.run(PROGRAM, "repair")
    assert rest.stdout.splitlines()[-1] == "2 attachments: 1 in order, 1 repaired"
    assert ours(attached) == before


def test_what_nobody_remembers_is_an_error(node: Host) -> None:
    assert node.run(PROGRAM, "repair").stdout == "0 attachments\n"
    done = node.run(PROGRAM, "repair", "--network", "cnienone", check=False)
    assert done.returncode == 1
    assert done.stderr == "cnictl: no runtime remembers an attachment of network cnienone\n"


def test_a_dead_container_is_left_alone(attached: Host) -> None:
    path = "/var/lib/cni/results"
    name = next(name for name in attached.run("ls", path).stdout.split() if name.startswith("cniebridge-"))
    text = attached.path(f"{path}/{name}").read_text()
    attached.write(f"{path}/{name}", text.replace("/run/netns/cniebridge", "/run/netns/cniegone"))
    attached.run("nft", "flush", "ruleset")
    done = attached.run(PROGRAM, "repair")
    assert "gone: no such container" in done.stdout
    assert not [line for line in rules(attached) if "cniebridge" in line]
    attached.write(f"{path}/{name}", text)
    attached.run(PROGRAM, "repair")


def test_the_agent_repairs_by_itself(attached: Host) -> None:
    before = ours(attached)
    with running(attached, "--workers", "2") as agent:
        wait_for("the first look", lambda: agent.page()["repair"]["looks"])
        for _ in range(2):
            attached.run("nft", "flush", "ruleset")
            wait_for("all rules", lambda: ours(attached) == before, 20)
        wait_for("the counts", lambda: agent.page()["repair"]["repairs"] >= 2)
        assert agent.page()["repair"]["failures"] == 0
        assert "repair=repaired network=cniebridge container=" in agent.journal()
        assert "after=nft what=" in agent.journal()
        shown = attached.run(PROGRAM, "agent", "status").stdout
        assert "\nrepaired " in shown
        assert_stays_quiet(attached, agent)


def assert_stays_quiet(node: Host, agent: Agent) -> None:
    """Containers that come and go through the agent leave it nothing to repair."""
    done = agent.page()["repair"]
    [path] = node.netns("cniemore")
    for _ in range(5):
        cnitool(node, "add", "cniebridge", path)
        cnitool(node, "del", "cniebridge", path)
    state = observe(node)
    assert agent.page()["repair"] == done
    assert observe(node) == state


def test_an_agent_that_must_not_repair_does_not(attached: Host) -> None:
    with running(attached, "--workers", "2", "--no-repair") as agent:
        attached.run("nft", "flush", "ruleset")
        assert agent.look().pss > 0
        assert ours(attached) == []
    attached.run(PROGRAM, "repair")
