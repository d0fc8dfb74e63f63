"""The same swap under running containers of macvlan and ptp."""

from collections.abc import Iterator

import pytest

from tests import namespaces
from tests.differential import probes
from tests.differential.fixture import WIRE, Fixture, fresh_fixture
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
def fixture() -> Iterator[Fixture]:
    with fresh_fixture() as made:
        made.add_wire()
        yield made


@pytest.fixture(params=FLAVOURS)
def config(request: pytest.FixtureRequest, fixture: Fixture) -> Config:
    return flavoured(fixture, request.param)


def flavoured(fixture: Fixture, name: str) -> Config:
    keys, subnets = FLAVOURS[name]
    whole = {"cniVersion": "1.0.0", "name": "net", **keys}
    if not subnets:
        return whole
    routes = [{"dst": "::/0" if ":" in subnet else "0.0.0.0/0"} for subnet in subnets]
    ranges = [[{"subnet": subnet}] for subnet in subnets]
    ipam = {"type": "host-local", "dataDir": str(fixture.data), "ranges": ranges, "routes": routes}
    return {**whole, "ipam": ipam}


def leftovers(fixture: Fixture) -> list[str]:
    """What may not outlive a container: its links, the host's routes to it, its leases."""
    return [*container_links(fixture), *host_routes(fixture), *lease_names(fixture)]


def test_ours_checks_and_deletes_what_the_reference_added(
    fixture: Fixture, their: Suite, ours: Suite, config: Config
) -> None:
    result = done(fixture, their, "ADD", config)
    done(fixture, ours, "CHECK", config | {"prevResult": result})
    done(fixture, ours, "DEL", config | {"prevResult": result})
    assert leftovers(fixture) == []
    assert marks_in_rules(fixture, {"ips": [], **result}) == []
    assert chains_left(fixture) == []
    done(fixture, ours, "DEL", config)


def test_ours_deletes_what_the_reference_added_without_prev_result(
    fixture: Fixture, their: Suite, ours: Suite, config: Config
) -> None:
    result = done(fixture, their, "ADD", config)
    done(fixture, ours, "DEL", config)
    assert leftovers(fixture) == []
    assert marks_in_rules(fixture, {"ips": [], **result}) == []
    assert chains_left(fixture) == []


@pytest.mark.parametrize("name", FAULTS)
def test_ours_finds_a_fault_in_what_the_reference_added(
    fixture: Fixture, newest: Suite, ours: Suite, name: str
) -> None:
    config = flavoured(fixture, name)
    result = done(fixture, newest, "ADD", config)
    with fixture.box("box1").entered():
        namespaces.run("sh", "-c", FAULTS[name])
    assert answered(fixture, ours, "CHECK", config | {"prevResult": result}).code == 1


def test_the_reference_checks_and_deletes_what_ours_added(
    fixture: Fixture, their: Suite, ours: Suite, config: Config
) -> None:
    result = done(fixture, ours, "ADD", config)
    done(fixture, their, "CHECK", config | {"prevResult": result})
    deleted_by_the_reference(fixture, their, config | {"prevResult": result})
    assert leftovers(fixture) == []
    done(fixture, ours, "DEL", config | {"prevResult": result})
    assert marks_in_rules(fixture, {"ips": [], **result}) == []


@pytest.mark.parametrize("name", ["macvlan", "ptp", "ptp, masquerade with iptables"])
def test_containers_from_before_and_after_a_swap_reach_each_other(
    fixture: Fixture, their: Suite, ours: Suite, name: str
) -> None:
    config = flavoured(fixture, name)
    results = {
        "box1": done(fixture, their, "ADD", config),
        "box2": done(fixture, ours, "ADD", config, "box2"),
    }
    addresses = {box: [result["ips"][0]["address"].partition("/")[0]] for box, result in results.items()}
    assert set(probes.neighbours(fixture, addresses).values()) == {"own address"}


def test_a_swap_between_two_adds_keeps_both_containers_masqueraded(
    fixture: Fixture, their: Suite, ours: Suite
) -> None:
    config = flavoured(fixture, "ptp, masquerade with iptables")
    results = {
        "box1": done(fixture, their, "ADD", config),
        "box2": done(fixture, ours, "ADD", config, "box2"),
    }
    addresses = {box: [result["ips"][0]["address"].partition("/")[0]] for box, result in results.items()}
    assert set(probes.masquerade(fixture, addresses).values()) == {"host"}
    done(fixture, ours, "DEL", config | {"prevResult": results["box1"]})
    assert set(probes.masquerade(fixture, {"box2": addresses["box2"]}).values()) == {"host"}


def test_a_master_held_by_the_reference_in_mode_passthru_is_not_given_twice(
    fixture: Fixture, newest: Suite, ours: Suite
) -> None:
    config = flavoured(fixture, "macvlan, mode passthru")
    done(fixture, newest, "ADD", config)
    refused = answered(fixture, ours, "ADD", config, "box2")
    assert refused.code == 1
    assert b"eth0" in refused.out


def test_gc_of_ours_frees_the_leases_of_the_reference(fixture: Fixture, newest: Suite, ours: Suite) -> None:
    config = flavoured(fixture, "macvlan") | {"cniVersion": "1.1.0"}
    done(fixture, newest, "ADD", config)
    done(fixture, ours, "GC", config | {"cni.dev/valid-attachments": []})
    assert lease_names(fixture) == set()
