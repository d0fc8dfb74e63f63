"""What the live swaps ask: calls that must succeed, and what is left of a container after its DEL."""

import json
from typing import Any

from tests.differential import netns, snapshot
from tests.differential.suites import Suite
from tests.differential.world import Answer, World, environment

Config = dict[str, Any]


def answered(world: World, suite: Suite, command: str, config: Config, box: str = "box1") -> Answer:
    env = environment(suite, command, box, "eth0", netns.path_of(world.box(box)))
    return world.call(suite, config["type"], env, json.dumps(config))


def done(world: World, suite: Suite, command: str, config: Config, box: str = "box1") -> Config:
    """The result of a call that must succeed."""
    answer = answered(world, suite, command, config, box)
    assert answer.code == 0, f"{suite.label} {command}: {answer.stdout}"
    return dict(json.loads(answer.stdout)) if answer.stdout else {}


def deleted_by_the_reference(world: World, their: Suite, config: Config) -> None:
    """1.1.1 misses its iptables chain and says so once link and lease are gone; asked again it is content."""
    answer = answered(world, their, "DEL", config)
    if answer.code != 0 and their.label == "debian" and "CNI-" in answer.stdout:
        answer = answered(world, their, "DEL", config)
    assert answer.code == 0, f"{their.label} DEL: {answer.stdout}"


def lease_names(world: World) -> set[str]:
    """Leases only: no lock, no counters, nothing kept beside the network's directory."""
    return {
        path.name for path in (world.data / "net").glob("*") if path.name[0].isdigit() or ":" in path.name
    }


def container_links(world: World) -> list[str]:
    """What the host and the first box have that was not there before."""
    facts = snapshot.take(world, rules=False)
    host_ends = [name for name in facts["host"]["links"] if name.startswith("veth")]
    return host_ends + [name for name in facts["box1"]["links"] if name != "lo"]


def host_routes(world: World) -> list[str]:
    """Routes of the host to containers; its own have a prefix."""
    routes = snapshot.take(world, rules=False)["host"]["routes"]
    return [route for route in routes if "/" not in route.split()[1]]


def marks_in_rules(world: World, result: Config) -> list[str]:
    """Which of the container's addresses, MAC and id some rule of the host still mentions."""
    rules = snapshot.ruleset(world)
    marks = [entry["address"].partition("/")[0] for entry in result["ips"]]
    marks += [interface["mac"] for interface in result["interfaces"] if "sandbox" in interface]
    return [mark for mark in (*marks, "box1") if mark in rules]


def chains_left(world: World) -> list[str]:
    """The reference's own chains, which must go with the container."""
    lines = snapshot.ruleset(world).splitlines()
    return [line.strip() for line in lines if "CNI-" in line or "cni-br-iface-" in line]
