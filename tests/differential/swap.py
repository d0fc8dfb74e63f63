"""What the live swaps ask: calls that must succeed, and what is left of a container after its DEL."""

from typing import Any

from tests import cni
from tests.cni import Answer
from tests.differential import snapshot
from tests.differential.fixture import Fixture
from tests.differential.suites import Suite

Config = dict[str, Any]


def answered(fixture: Fixture, suite: Suite, command: str, config: Config, box: str = "box1") -> Answer:
    netns = fixture.box(box).path
    variables = cni.environment(command, container=box, netns=netns, path=suite.directory)
    return fixture.call(suite, config["type"], variables, config)


def done(fixture: Fixture, suite: Suite, command: str, config: Config, box: str = "box1") -> Config:
    """The result of a call that must succeed."""
    answer = answered(fixture, suite, command, config, box)
    assert answer.code == 0, f"{suite.label} {command}: {answer.out!r}"
    return answer.document if answer.out else {}


def deleted_by_the_reference(fixture: Fixture, their: Suite, config: Config) -> None:
    """1.1.1 misses its iptables chain and says so once link and lease are gone; asked again it is content."""
    answer = answered(fixture, their, "DEL", config)
    if answer.code != 0 and their.label == "debian" and b"CNI-" in answer.out:
        answer = answered(fixture, their, "DEL", config)
    assert answer.code == 0, f"{their.label} DEL: {answer.out!r}"


def lease_names(fixture: Fixture) -> set[str]:
    """Leases only: no lock, no counters, nothing kept beside the network's directory."""
    return {
        path.name for path in (fixture.data / "net").glob("*") if path.name[0].isdigit() or ":" in path.name
    }


def container_links(fixture: Fixture) -> list[str]:
    """What the host and the first box have that was not there before."""
    facts = snapshot.take(fixture, rules=False)
    host_ends = [name for name in facts["host"]["links"] if name.startswith("veth")]
    return host_ends + [name for name in facts["box1"]["links"] if name != "lo"]


def host_routes(fixture: Fixture) -> list[str]:
    """Routes of the host to containers; its own have a prefix."""
    routes = snapshot.take(fixture, rules=False)["host"]["routes"]
    return [route for route in routes if "/" not in route.split()[1]]


def marks_in_rules(fixture: Fixture, result: Config) -> list[str]:
    """Which of the container's addresses, MAC and id some rule of the host still mentions."""
    rules = snapshot.ruleset(fixture)
    marks = [entry["address"].partition("/")[0] for entry in result["ips"]]
    marks += [interface["mac"] for interface in result["interfaces"] if "sandbox" in interface]
    return [mark for mark in (*marks, "box1") if mark in rules]


def chains_left(fixture: Fixture) -> list[str]:
    """The reference's own chains, which must go with the container."""
    lines = snapshot.ruleset(fixture).splitlines()
    return [line.strip() for line in lines if "CNI-" in line or "cni-br-iface-" in line]
