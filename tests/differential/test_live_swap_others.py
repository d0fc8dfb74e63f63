"""The same swap under running containers of macvlan and ptp."""

from collections.abc import Iterator

import pytest

from tests.differential import netns, probes
from tests.differential.suites import Suite
from tests.differential.swap import (
    Config,
    answered,
    chains_left,
    container_links,
    deleted_by_the_reference,
    done,
    host_routes,
    lease_names,
    marks_in_rules,
)
from tests.differential.world import WIRE, World, fresh_world

_V4, _DUAL = ("10.1.0.0/24",), ("10.1.0.0/24", "fd00:1::/64")

FLAVOURS: dict[str, tuple[Config, tuple[str, ...]]] = {
    "macvlan": ({"type": "macvlan", "master": WIRE}, _V4),
    "macvlan, dual stack": ({"type": "macvlan", "master": WIRE}, _DUAL),
    "macvlan, layer 2": ({"type": "macvlan", "master": WIRE, "mtu": 1400, "mac": "02:11:22:33:44:88"}, ()),
    "macvlan, mode private": ({"type": "macvlan", "master": WIRE, "mode": "private", "mtu": 1400}, _V4),
    "macvlan, mode passthru": ({"type": "macvlan", "master": WIRE, "mode": "passthru"}, _V4),
    "ptp": ({"type": "ptp", "mtu": 1400}, _V4),
    "ptp, masquerade with iptables": ({"type": "ptp", "ipMasq": True, "ipMasqBackend": "iptables"}, _V4),
    "ptp, masquerade with nftables": ({"type": "ptp", "ipMasq": True, "ipMasqBackend": "nftables"}, _V4),
    "ptp, dual-stack masquerade": ({"type": "ptp", "ipMasq": True}, _DUAL),
}

FAULTS = {
    "macvlan": "ip link set eth0 address 02:00:00:00:00:09",
    "macvlan, mode private": "ip link set eth0 type macvlan mode bridge",
    "macvlan, layer 2": "ip link set eth0 down",
    "ptp": "ip route del default",
    "ptp, dual-stack masquerade": "ip -6 route del default",
}


@pytest.fixture
def world() -> Iterator[World]:
    with fresh_world() as made:
        made.lay_wire()
        yield made


@pytest.fixture(params=FLAVOURS)
def config(request: pytest.FixtureRequest, world: World) -> Config:
    return flavoured(world, request.param)


def flavoured(world: World, name: str) -> Config:
    keys, subnets = FLAVOURS[name]
    whole = {"cniVersion": "1.0.0", "name": "net", **keys}
    if not subnets:
        return whole
    routes = [{"dst": "::/0" if ":" in subnet else "0.0.0.0/0"} for subnet in subnets]
    ranges = [[{"subnet": subnet}] for subnet in subnets]
    ipam = {"type": "host-local", "dataDir": str(world.data), "ranges": ranges, "routes": routes}
    return {**whole, "ipam": ipam}


def leftovers(world: World) -> list[str]:
    """What may not outlive a container: its links, the host's routes to it, its leases."""
    return [*container_links(world), *host_routes(world), *lease_names(world)]


def test_ours_checks_and_deletes_what_the_reference_added(
    world: World, their: Suite, ours: Suite, config: Config
) -> None:
    result = done(world, their, "ADD", config)
    done(world, ours, "CHECK", config | {"prevResult": result})
    done(world, ours, "DEL", config | {"prevResult": result})
    assert leftovers(world) == []
    assert marks_in_rules(world, {"ips": [], **result}) == []
    assert chains_left(world) == []
    done(world, ours, "DEL", config)


def test_ours_deletes_what_the_reference_added_without_prev_result(
    world: World, their: Suite, ours: Suite, config: Config
) -> None:
    result = done(world, their, "ADD", config)
    done(world, ours, "DEL", config)
    assert leftovers(world) == []
    assert marks_in_rules(world, {"ips": [], **result}) == []
    assert chains_left(world) == []


@pytest.mark.parametrize("name", FAULTS)
def test_ours_finds_a_fault_in_what_the_reference_added(
    world: World, newest: Suite, ours: Suite, name: str
) -> None:
    config = flavoured(world, name)
    result = done(world, newest, "ADD", config)
    with netns.entered(world.box("box1")):
        netns.run("sh", "-c", FAULTS[name])
    assert answered(world, ours, "CHECK", config | {"prevResult": result}).code == 1


def test_the_reference_checks_and_deletes_what_ours_added(
    world: World, their: Suite, ours: Suite, config: Config
) -> None:
    result = done(world, ours, "ADD", config)
    done(world, their, "CHECK", config | {"prevResult": result})
    deleted_by_the_reference(world, their, config | {"prevResult": result})
    assert leftovers(world) == []
    done(world, ours, "DEL", config | {"prevResult": result})
    assert marks_in_rules(world, {"ips": [], **result}) == []


@pytest.mark.parametrize("name", ["macvlan", "ptp", "ptp, masquerade with iptables"])
def test_containers_from_before_and_after_a_swap_reach_each_other(
    world: World, their: Suite, ours: Suite, name: str
) -> None:
    config = flavoured(world, name)
    results = {"box1": done(world, their, "ADD", config), "box2": done(world, ours, "ADD", config, "box2")}
    addresses = {box: [result["ips"][0]["address"].partition("/")[0]] for box, result in results.items()}
    assert set(probes.neighbours(world, addresses).values()) == {"own address"}


def test_a_swap_between_two_adds_keeps_both_containers_masqueraded(
    world: World, their: Suite, ours: Suite
) -> None:
    config = flavoured(world, "ptp, masquerade with iptables")
    results = {"box1": done(world, their, "ADD", config), "box2": done(world, ours, "ADD", config, "box2")}
    addresses = {box: [result["ips"][0]["address"].partition("/")[0]] for box, result in results.items()}
    assert set(probes.masquerade(world, addresses).values()) == {"host"}
    done(world, ours, "DEL", config | {"prevResult": results["box1"]})
    assert set(probes.masquerade(world, {"box2": addresses["box2"]}).values()) == {"host"}


def test_a_master_held_by_the_reference_in_mode_passthru_is_not_given_twice(
    world: World, newest: Suite, ours: Suite
) -> None:
    config = flavoured(world, "macvlan, mode passthru")
    done(world, newest, "ADD", config)
    refused = answered(world, ours, "ADD", config, "box2")
    assert refused.code == 1
    assert "eth0" in refused.stdout


def test_gc_of_ours_frees_the_leases_of_the_reference(world: World, newest: Suite, ours: Suite) -> None:
    config = flavoured(world, "macvlan") | {"cniVersion": "1.1.0"}
    done(world, newest, "ADD", config)
    done(world, ours, "GC", config | {"cni.dev/valid-attachments": []})
    assert lease_names(world) == set()
