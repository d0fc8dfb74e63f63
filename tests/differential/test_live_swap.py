"""Replace the executables under running containers: what one suite added, the other checks and deletes.

Added by the reference and deleted by ours, nothing stays. Added by ours and deleted by the reference,
link and lease go; the element in our nft set, of which the reference knows nothing, goes with our next
DEL or GC on that network.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import namespaces
from tests.differential import probes
from tests.differential.fixture import Fixture, fresh_fixture
from tests.differential.suites import Suite
from tests.differential.swap import (
    Config,
    answered,
    chains_left,
    container_links,
    deleted_by_the_reference,
    done,
    lease_names,
    marks_in_rules,
)

FLAVOURS: dict[str, Config] = {
    "plain": {},
    "masquerade with iptables": {"ipMasq": True, "ipMasqBackend": "iptables"},
    "masquerade with nftables": {"ipMasq": True, "ipMasqBackend": "nftables"},
    "dual-stack masquerade": {"ipMasq": True, "ranges": ["10.1.0.0/24", "fd00:1::/64"]},
    "spoof check": {"macspoofchk": True},
    "everything": {
        "ipMasq": True,
        "macspoofchk": True,
        "hairpinMode": True,
        "ranges": ["10.1.0.0/24", "fd00:1::/64"],
    },
}


@pytest.fixture
def fixture() -> Iterator[Fixture]:
    with fresh_fixture() as made:
        yield made


@pytest.fixture(params=FLAVOURS)
def flavour(request: pytest.FixtureRequest) -> Config:
    return FLAVOURS[request.param]


def bridge_config(fixture: Fixture, flavour: Config) -> Config:
    subnets = flavour.get("ranges", ["10.1.0.0/24"])
    ipam = {
        "type": "host-local",
        "dataDir": str(fixture.data),
        "ranges": [[{"subnet": subnet}] for subnet in subnets],
    }
    keys = {key: value for key, value in flavour.items() if key != "ranges"}
    return {
        "cniVersion": "1.0.0",
        "name": "net",
        "type": "bridge",
        "isDefaultGateway": True,
        **keys,
        "ipam": ipam,
    }


def ipam_config(fixture: Fixture) -> Config:
    ranges = [[{"subnet": "10.1.0.0/24", "rangeEnd": "10.1.0.40"}]]
    ipam = {"type": "host-local", "dataDir": str(fixture.data), "ranges": ranges}
    return {"cniVersion": "1.0.0", "name": "net", "type": "bridge", "ipam": ipam}


def test_ours_deletes_what_the_reference_added(
    fixture: Fixture, their: Suite, ours: Suite, flavour: Config
) -> None:
    config = bridge_config(fixture, flavour)
    result = done(fixture, their, "ADD", config)
    done(fixture, ours, "DEL", config | {"prevResult": result})
    assert container_links(fixture) == []
    assert lease_names(fixture) == set()
    assert marks_in_rules(fixture, result) == []
    assert chains_left(fixture) == []
    done(fixture, ours, "DEL", config)


def test_ours_deletes_what_the_reference_added_without_prev_result(
    fixture: Fixture, their: Suite, ours: Suite, flavour: Config
) -> None:
    config = bridge_config(fixture, flavour)
    result = done(fixture, their, "ADD", config)
    done(fixture, ours, "DEL", config)
    assert container_links(fixture) == []
    assert lease_names(fixture) == set()
    assert marks_in_rules(fixture, result) == []
    assert chains_left(fixture) == []


def test_ours_checks_what_the_reference_added(
    fixture: Fixture, their: Suite, ours: Suite, flavour: Config
) -> None:
    config = bridge_config(fixture, flavour)
    result = done(fixture, their, "ADD", config)
    probes.settle(fixture)
    done(fixture, ours, "CHECK", config | {"prevResult": result})


def test_ours_finds_a_fault_in_what_the_reference_added(fixture: Fixture, their: Suite, ours: Suite) -> None:
    config = bridge_config(fixture, {})
    result = done(fixture, their, "ADD", config)
    with fixture.box("box1").entered():
        namespaces.run("ip", "route", "del", "default")
    assert answered(fixture, ours, "CHECK", config | {"prevResult": result}).code == 1


def test_the_reference_deletes_what_ours_added(
    fixture: Fixture, their: Suite, ours: Suite, flavour: Config
) -> None:
    config = bridge_config(fixture, flavour)
    result = done(fixture, ours, "ADD", config)
    deleted_by_the_reference(fixture, their, config | {"prevResult": result})
    assert container_links(fixture) == []
    assert lease_names(fixture) == set()


def test_what_the_reference_could_not_delete_goes_with_our_next_del(
    fixture: Fixture, their: Suite, ours: Suite, flavour: Config
) -> None:
    config = bridge_config(fixture, flavour)
    result = done(fixture, ours, "ADD", config)
    deleted_by_the_reference(fixture, their, config | {"prevResult": result})
    done(fixture, ours, "DEL", config | {"prevResult": result})
    assert marks_in_rules(fixture, result) == []


def test_what_the_reference_could_not_delete_goes_with_our_next_gc(
    fixture: Fixture, their: Suite, ours: Suite, flavour: Config
) -> None:
    config = bridge_config(fixture, flavour)
    result = done(fixture, ours, "ADD", config)
    deleted_by_the_reference(fixture, their, config | {"prevResult": result})
    done(fixture, ours, "GC", config | {"cniVersion": "1.1.0", "cni.dev/valid-attachments": []})
    assert marks_in_rules(fixture, result) == []


def test_the_reference_checks_what_ours_added(fixture: Fixture, their: Suite, ours: Suite) -> None:
    config = bridge_config(fixture, {})
    result = done(fixture, ours, "ADD", config)
    done(fixture, their, "CHECK", config | {"prevResult": result})


def test_a_swap_between_two_adds_keeps_both_containers_masqueraded(
    fixture: Fixture, their: Suite, ours: Suite
) -> None:
    config = bridge_config(fixture, {"ipMasq": True})
    results = {
        "box1": done(fixture, their, "ADD", config),
        "box2": done(fixture, ours, "ADD", config, "box2"),
    }
    addresses = {box: [result["ips"][0]["address"].partition("/")[0]] for box, result in results.items()}
    assert set(probes.masquerade(fixture, addresses).values()) == {"host"}
    assert set(probes.neighbours(fixture, addresses).values()) == {"own address"}
    done(fixture, ours, "DEL", config | {"prevResult": results["box1"]})
    assert set(probes.masquerade(fixture, {"box2": addresses["box2"]}).values()) == {"host"}


def test_interleaved_adds_never_give_an_address_twice(fixture: Fixture, their: Suite, ours: Suite) -> None:
    config = ipam_config(fixture) | {"type": "host-local"}
    turns = zip(itertools.cycle((their, ours)), range(12), strict=False)
    given = [
        done(fixture, suite, "ADD", config, f"box{number}")["ips"][0]["address"] for suite, number in turns
    ]
    assert given == [f"10.1.0.{last}/24" for last in range(2, 14)]
    assert counter(fixture) == "10.1.0.13"


def test_addresses_freed_by_one_are_reused_by_the_other(fixture: Fixture, their: Suite, ours: Suite) -> None:
    config = ipam_config(fixture) | {"type": "host-local"}
    for number, suite in zip(range(39), itertools.cycle((ours, their)), strict=False):
        done(fixture, suite, "ADD", config, f"box{number}")
    assert answered(fixture, ours, "ADD", config, "late").code == 1
    assert answered(fixture, their, "ADD", config, "late").code == 1
    done(fixture, their, "DEL", config, "box4")
    done(fixture, ours, "DEL", config, "box5")
    freed = [
        done(fixture, suite, "ADD", config, box)["ips"][0]["address"]
        for suite, box in ((ours, "a"), (their, "b"))
    ]
    assert freed == ["10.1.0.6/24", "10.1.0.7/24"]


def test_lease_files_are_the_same_bytes(fixture: Fixture, newest: Suite, ours: Suite) -> None:
    config = ipam_config(fixture) | {"type": "host-local"}
    for suite, box in ((newest, "box1"), (ours, "box2")):
        done(fixture, suite, "ADD", config, box)
    modes = {name: (fixture.data / "net" / name).stat().st_mode for name in lease_names(fixture)}
    assert len(set(modes.values())) == 1
    assert text(fixture.data / "net" / "10.1.0.2") == "box1\r\neth0"
    assert text(fixture.data / "net" / "10.1.0.3") == "box2\r\neth0"


def test_a_lease_is_checked_by_the_other(fixture: Fixture, their: Suite, ours: Suite) -> None:
    config = ipam_config(fixture) | {"type": "host-local"}
    for first, second, box in ((their, ours, "box1"), (ours, their, "box2")):
        result = done(fixture, first, "ADD", config, box)
        done(fixture, second, "CHECK", config | {"prevResult": result}, box)


def counter(fixture: Fixture) -> str:
    return text(fixture.data / "net" / "last_reserved_ip.0")


def text(path: Path) -> str:
    return path.read_bytes().decode()
