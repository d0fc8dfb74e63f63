"""A worker's answer is the cold road's, byte for byte."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.integration.agent.rig import Agent, Answer, call
from tests.integration.conftest import Bed

LOOPBACK = {"cniVersion": "1.1.0", "name": "lo", "type": "loopback"}
STATIC = {
    "cniVersion": "1.1.0",
    "name": "n",
    "type": "static",
    "ipam": {"type": "static", "addresses": [{"address": "10.1.0.2/24"}]},
}


class Roads:
    """The same call on both roads, which must agree."""

    def __init__(self, agent: Agent, warm: Path, cold: Path) -> None:
        self._agent, self._warm, self._cold = agent, warm, cold

    def both(self, name: str, command: str, conf: Any, warm_conf: Any = None, **more: Any) -> Answer:
        texts = [
            one if isinstance(one, bytes) else json.dumps(one).encode() for one in (warm_conf or conf, conf)
        ]
        served = self._agent.page()["served"]
        answer = call(self._warm / name, command, texts[0], **self._agent.variables(), **more)
        assert self._agent.page()["served"] == served + 1, answer
        assert answer == call(self._cold / name, command, texts[1], **more)
        return answer


@pytest.fixture
def roads(agent: Agent, warm: Path, cold: Path) -> Roads:
    return Roads(agent, warm, cold)


def test_an_ipam_plugin(roads: Roads) -> None:
    answer = roads.both("static", "ADD", STATIC)
    assert json.loads(answer.out)["ips"] == [{"address": "10.1.0.2/24"}]
    for command in ("DEL", "CHECK", "STATUS", "GC"):
        prev = {"prevResult": json.loads(answer.out)} if command == "CHECK" else {}
        assert roads.both("static", command, {**STATIC, **prev}) == (0, b"", b"")


def test_leases(roads: Roads, tmp_path: Path) -> None:
    confs = []
    for road in ("cold", "warm"):
        ipam = {"type": "host-local", "subnet": "10.1.0.0/30", "dataDir": str(tmp_path / road)}
        confs.append({**STATIC, "type": "host-local", "ipam": ipam})
    for command, code in (("STATUS", 0), ("ADD", 0), ("STATUS", 1), ("DEL", 0), ("DEL", 0)):
        assert roads.both("host-local", command, *confs).code == code
    # What it leased is told by the address in the result, and was given back.
    assert not (tmp_path / "warm" / "n" / "10.1.0.2").exists()


@pytest.mark.parametrize(
    "stdin",
    [
        b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"cniVersion": 1}', b"[" * 50_000, b'{"name": "\\ud800"}',
        json.dumps({**STATIC, "cniVersion": "9.9.9"}).encode(), json.dumps({**STATIC, "name": ""}).encode(),
        json.dumps({**STATIC, "name": "a b"}).encode(), json.dumps({**STATIC, "ipam": 7}).encode(),
        json.dumps({**STATIC, "ipam": {"type": "static", "addresses": [{"address": "x"}]}}).encode(),
        json.dumps({**STATIC, "prevResult": []}).encode(), b" " * (1 << 20),
    ],
    ids=lambda stdin: stdin[:60].decode(errors="replace"),
)  # fmt: skip
@pytest.mark.parametrize("command", ["ADD", "DEL", "GC"])
def test_bad_configs(roads: Roads, stdin: bytes, command: str) -> None:
    roads.both("static", command, stdin)


@pytest.mark.parametrize(
    "variables",
    [
        {"CNI_COMMAND": "NONSENSE"},
        {"CNI_COMMAND": "add"},
        {"CNI_CONTAINERID": ""},
        {"CNI_CONTAINERID": "../c1"},
        {"CNI_CONTAINERID": "c" * 300},
        {"CNI_IFNAME": ""},
        {"CNI_IFNAME": "much-too-long-name"},
        {"CNI_IFNAME": "a/b"},
        {"CNI_NETNS": ""},
        {"CNI_PATH": ""},
        {"CNI_ARGS": "nonsense"},
        {"CNI_ARGS": "IP=10.9.9.9"},
    ],
    ids=str,
)
def test_bad_environments(roads: Roads, variables: dict[str, str]) -> None:
    given = dict(variables)
    roads.both("static", given.pop("CNI_COMMAND", "ADD"), STATIC, **given)


def test_an_environment_that_is_no_text(roads: Roads) -> None:
    answer = roads.both("static", "ADD", STATIC, environment={"CNI_ARGS": b"\xff"})
    assert json.loads(answer.out)["code"] == 4


@pytest.mark.parametrize("name", ["bridge", "loopback", "host-local"])
def test_a_config_for_somebody_else(roads: Roads, name: str) -> None:
    assert roads.both(name, "ADD", STATIC).code == 1


def test_a_name_that_is_no_plugin(roads: Roads, warm: Path, cold: Path) -> None:
    for directory in (warm, cold):
        link = directory / "ipvlan"
        link.symlink_to(directory / "bridge")
    answer = roads.both("ipvlan", "ADD", {**STATIC, "type": "ipvlan"})
    assert json.loads(answer.out)["code"] == 7


def test_a_sandbox_that_is_none(roads: Roads) -> None:
    assert roads.both("loopback", "ADD", LOOPBACK, CNI_NETNS="/nowhere").code == 1
    assert roads.both("loopback", "ADD", LOOPBACK, CNI_NETNS="/etc/passwd").code == 1
    assert roads.both("loopback", "DEL", LOOPBACK, CNI_NETNS="/nowhere").code == 0


def test_the_environment_of_one_call_is_not_the_next_ones(roads: Roads) -> None:
    assert roads.both("static", "ADD", STATIC, CNI_ARGS="IP=10.1.0.9/24").code == 0
    assert b"10.1.0.9" not in roads.both("static", "ADD", STATIC).out


def test_loopback_in_a_sandbox(roads: Roads, bed: Bed) -> None:
    sandbox = bed.sandbox()
    answer = roads.both("loopback", "ADD", LOOPBACK, CNI_NETNS=sandbox.path)
    conf = {**LOOPBACK, "prevResult": json.loads(answer.out)}
    assert roads.both("loopback", "CHECK", conf, CNI_NETNS=sandbox.path) == (0, b"", b"")
    assert roads.both("loopback", "DEL", conf, CNI_NETNS=sandbox.path) == (0, b"", b"")


def test_a_bridge_with_addresses(bed: Bed, start: Any, warm: Path, cold: Path, tmp_path: Path) -> None:
    inside = ["nsenter", f"--net={bed.host.path}"]
    roads = Roads(start(inside=inside), warm, cold)
    roads._agent.wait()
    sandbox = bed.sandbox()
    ends = {"inside": inside, "CNI_NETNS": sandbox.path}
    results = []
    for road in (warm, cold):
        conf = bed.conf(
            isGateway=True, ipMasq=True, ipam=bed.host_local("10.1.0.0/24", dataDir=str(tmp_path / "l"))
        )
        variables = roads._agent.variables() if road is warm else {}
        answer = call(road / "bridge", "ADD", json.dumps(conf).encode(), **variables, **ends)
        assert answer.code == 0, answer
        assert sandbox.addresses("eth0")
        results.append(json.loads(answer.out))
        full = {**conf, "prevResult": results[-1]}
        roads.both("bridge", "CHECK", full, **ends)
        roads.both("bridge", "CHECK", {**full, "mtu": 9000}, **ends)
        roads.both("bridge", "ADD", conf, **ends)  # it is there already
        roads.both(
            "bridge",
            "GC",
            {**conf, "cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}]},
            **ends,
        )
        assert roads.both("bridge", "STATUS", conf, **ends) == (0, b"", b"")
        assert roads.both("bridge", "DEL", full, **ends) == (0, b"", b"")
        assert sandbox.link("eth0") is None
    assert [result["interfaces"] for result in results] == [results[0]["interfaces"]] * 2
