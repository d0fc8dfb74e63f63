"""The same swap under containers with limits of bandwidth, and what both make for the same limits."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests import cni, namespaces
from tests.differential.fixture import Fixture, fresh_fixture
from tests.differential.suites import Suite
from tests.differential.swap import Config, answered, done

RECEIVED = {"ingressRate": 8_000_000, "ingressBurst": 800_000}
SENT = {"egressRate": 30_000_000, "egressBurst": 2_000_000}
LIMITS: dict[str, Config] = {
    "received": RECEIVED,
    "sent": SENT,
    "both": {**RECEIVED, **SENT},
    "odd numbers": {
        "ingressRate": 7_777_777,
        "ingressBurst": 999_999,
        "egressRate": 10**9 + 7,
        "egressBurst": 10**8,
    },
    "fast": {"ingressRate": 40 * 10**9, "ingressBurst": 10**9, **SENT},
    "of the container": {"runtimeConfig": {"bandwidth": {**RECEIVED, "egressRate": 0, "egressBurst": 0}}},
}
CUT: Config = {
    "ingressRate": 10**6,
    "ingressBurst": 34359738359,
    "egressRate": 10**6,
    "egressBurst": 4294967295,
}
"""The reference loses the upper bits of these."""


@pytest.fixture
def fixture() -> Iterator[Fixture]:
    with fresh_fixture() as made:
        yield made


def attached(fixture: Fixture, suite: Suite, limits: Config, ifname: str = "eth0") -> Config:
    """Attach a container by the suite's bridge, and return the config of bandwidth, next in the list."""
    common = {"cniVersion": "1.0.0", "name": "net"}
    main = {**common, "type": "bridge", "bridge": "br0", "isGateway": True, "ipam": pools(fixture)}
    return {
        **common,
        "type": "bandwidth",
        **limits,
        "prevResult": called(fixture, suite, "ADD", main, ifname),
    }


def called(fixture: Fixture, suite: Suite, command: str, config: Config, ifname: str = "eth0") -> Config:
    """The result of a call that must succeed, without the empty DNS settings that 1.1.1 prints."""
    netns = fixture.box("box1").path
    variables = cni.environment(command, container="box1", netns=netns, ifname=ifname, path=suite.directory)
    answer = fixture.call(suite, config["type"], variables, config)
    assert answer.code == 0, f"{suite.label} {command}: {answer.out!r}"
    result = answer.document if answer.out else {}
    return {key: value for key, value in result.items() if key != "dns" or value}


def limited(fixture: Fixture, suite: Suite, limits: Config, ifname: str = "eth0") -> Config:
    """Attach and limit a container; return the config that CHECK and DEL get."""
    config = attached(fixture, suite, limits, ifname)
    return {**config, "prevResult": called(fixture, suite, "ADD", config, ifname)}


def links(fixture: Fixture, kind: str) -> list[str]:
    with fixture.host.entered():
        shown = namespaces.run("ip", "-o", "link", "show", "type", kind)
    return [line.split(": ")[1].partition("@")[0] for line in shown.splitlines()]


def control(fixture: Fixture) -> list[str]:
    """Return what tc shows of qdiscs on veths and ifb links, without handles and names."""
    found = []
    with fixture.host.entered():
        for link in (*links(fixture, "veth"), *links(fixture, "ifb")):
            shown = namespaces.run("tc", "qdisc", "show", "dev", link)
            lines = [line.split() for line in shown.splitlines() if " noqueue " not in line]
            found += [" ".join(words[1:2] + words[3:]) for words in lines]
    return found


@pytest.mark.parametrize("limits", [*LIMITS.values(), CUT], ids=[*LIMITS, "cut"])
def test_ours_checks_and_deletes_what_the_reference_added(
    fixture: Fixture, their: Suite, ours: Suite, limits: Config
) -> None:
    config = limited(fixture, their, limits)
    done(fixture, ours, "CHECK", config)
    done(fixture, ours, "DEL", config)
    assert links(fixture, "ifb") == []
    assert redirections(fixture) == []
    done(fixture, ours, "DEL", config)


def redirections(fixture: Fixture) -> list[str]:
    with fixture.host.entered():
        shown = [
            namespaces.run("tc", "filter", "show", "dev", link, "ingress") for link in links(fixture, "veth")
        ]
    return [text for text in shown if text.strip()]


@pytest.mark.parametrize("limits", LIMITS.values(), ids=LIMITS)
def test_the_reference_checks_and_deletes_what_ours_added(
    fixture: Fixture, their: Suite, ours: Suite, limits: Config
) -> None:
    config = limited(fixture, ours, limits)
    done(fixture, their, "CHECK", config)
    done(fixture, their, "DEL", config)
    assert links(fixture, "ifb") == []
    done(fixture, ours, "DEL", config)
    assert control(fixture) == []


@pytest.mark.parametrize("limits", LIMITS.values(), ids=LIMITS)
def test_both_make_the_same_buckets(fixture: Fixture, their: Suite, ours: Suite, limits: Config) -> None:
    made = {}
    for suite in (their, ours):
        config = limited(fixture, suite, limits)
        made[suite] = [line for line in control(fixture) if line.startswith("tbf ")]
        assert config["prevResult"]["interfaces"][3:] == ifbs(fixture, config)
        done(fixture, suite, "DEL", config)
        done(fixture, suite, "DEL", {**config, "type": "bridge", "bridge": "br0", "ipam": pools(fixture)})
    assert made[their] == made[ours] != []


def pools(fixture: Fixture) -> Config:
    return {"type": "host-local", "dataDir": str(fixture.data), "ranges": [[{"subnet": "10.1.0.0/24"}]]}


def ifbs(fixture: Fixture, config: Config) -> list[dict[str, Any]]:
    """Return the ifb links as a result lists them."""
    return [{"mac": mac_of(fixture, name), "name": name} for name in links(fixture, "ifb")]


def mac_of(fixture: Fixture, name: str) -> str:
    with fixture.host.entered():
        words = namespaces.run("ip", "-o", "link", "show", name).split()
    return words[words.index("link/ether") + 1]


FAULTS = {
    "rate": "tc qdisc change dev {veth} root handle 1: tbf rate 9mbit burst 100000b limit 125000b",
    "burst": "tc qdisc change dev {veth} root handle 1: tbf rate 8mbit burst 90000b limit 125000b",
    "filter": "tc filter del dev {veth} ingress",
    "ifb": "ip link del {ifb}",
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_ours_finds_a_fault_in_what_the_reference_added(
    fixture: Fixture, newest: Suite, ours: Suite, fault: str
) -> None:
    config = limited(fixture, newest, {**RECEIVED, **SENT})
    [veth], [ifb] = links(fixture, "veth"), links(fixture, "ifb")
    with fixture.host.entered():
        namespaces.run(*fault.format(veth=veth, ifb=ifb).split())
    answer = answered(fixture, ours, "CHECK", config)
    assert (answer.code, answer.document["code"]) == (1, 103)


@pytest.mark.parametrize("netns", ["", "/run/netns/nowhere"])
@pytest.mark.parametrize("knows", [True, False], ids=["with prevResult", "without"])
def test_ours_deletes_what_the_reference_added_without_a_sandbox(
    fixture: Fixture, newest: Suite, ours: Suite, netns: str, knows: bool
) -> None:
    config = limited(fixture, newest, {**RECEIVED, **SENT})
    if not knows:
        del config["prevResult"]
    variables = {
        "CNI_COMMAND": "DEL",
        "CNI_CONTAINERID": "box1",
        "CNI_NETNS": netns,
        "CNI_IFNAME": "eth0",
        "CNI_PATH": str(ours.directory),
    }
    answer = fixture.call(ours, "bandwidth", variables, config)
    assert answer.code == 0, answer
    assert links(fixture, "ifb") == []


def test_a_second_add_by_ours_takes_over_what_the_reference_made(
    fixture: Fixture, their: Suite, ours: Suite
) -> None:
    config = attached(fixture, their, {**RECEIVED, **SENT})
    result = called(fixture, their, "ADD", config)
    made = control(fixture)
    assert called(fixture, ours, "ADD", config) == result
    assert control(fixture) == made
    doubled = {key: 2 * value for key, value in {**RECEIVED, **SENT}.items()}
    assert called(fixture, ours, "ADD", {**config, **doubled}) == result
    done(fixture, ours, "CHECK", {**config, **doubled, "prevResult": result})
    assert control(fixture) != made
    fewer = {key: value for key, value in config.items() if key not in SENT}
    assert called(fixture, ours, "ADD", fewer) == config["prevResult"]
    assert links(fixture, "ifb") == redirections(fixture) == []


def test_an_interface_limited_by_ours_keeps_its_limit_beside_one_of_the_reference(
    fixture: Fixture, newest: Suite, ours: Suite
) -> None:
    """The reference's link is found by no ifname: another interface must not take it along."""
    theirs = limited(fixture, newest, SENT)
    [ifb] = links(fixture, "ifb")
    second = limited(fixture, ours, SENT, "eth1")
    [own] = set(links(fixture, "ifb")) - {ifb}
    assert second["prevResult"]["interfaces"][-1]["name"] == own
    called(fixture, ours, "CHECK", second, "eth1")
    for known in (second, {key: value for key, value in second.items() if key != "prevResult"}):
        called(fixture, ours, "DEL", known, "eth1")
        assert links(fixture, "ifb") == [ifb]
    called(fixture, ours, "DEL", theirs)
    assert links(fixture, "ifb") == []
