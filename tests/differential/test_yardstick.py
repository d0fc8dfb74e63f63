"""The yardstick itself: one reference never differs from itself, and a faulty suite is always found out."""

from pathlib import Path

import pytest

from tests.differential import cases, compare, reference
from tests.differential.cases import Case
from tests.differential.compare import Difference
from tests.differential.difference_list import matches
from tests.differential.intention import Intended
from tests.differential.suites import Suite
from tests.differential.trace_cache import TraceCache

ALL = {case.name: case for case in cases.load()}

_INSIDE = "nsenter --net=$CNI_NETNS"
_MOVED = "ip link del eth0; ip link add m0 type veth peer name m1; ip link add link m0 name eth0 type macvlan"

SABOTAGES = {
    "a DEL that lies": (
        "bridge: default gateway",
        '[ "$CNI_COMMAND" = DEL ] && exit 0',
        "",
        "3:DEL > host > links > veth(box1:eth0)",
    ),
    "a port flag": (
        "bridge: default gateway",
        "",
        "ip -o link | grep -o 'veth[^@]*' | xargs -I= ip link set = type bridge_slave learning off",
        "1:ADD > host > links > veth(box1:eth0) > port > learning",
    ),
    "an address too many": (
        "bridge: default gateway",
        "",
        "ip address add 192.0.2.77/32 dev cni0",
        "1:ADD > host > links > cni0 > addresses",
    ),
    "a sysctl": (
        "bridge: default gateway",
        "",
        "echo 2 > /proc/sys/net/ipv6/conf/cni0/accept_ra",
        "1:ADD > host > sysctls",
    ),
    "a stray line": ("bridge: default gateway", "", "echo", "1:ADD > answer > layout"),
    "another exit code": ("bridge: default gateway", "", "exit 3", "1:ADD > answer > code"),
    "another mode": (
        "macvlan: default route",
        "",
        f"{_INSIDE} ip link set eth0 type macvlan mode private",
        "1:ADD > box1 > links > eth0 > mode",
    ),
    "another master": (
        "macvlan: default route",
        "",
        f"{_INSIDE} sh -c '{_MOVED}'",
        "1:ADD > box1 > links > eth0 > lower",
    ),
    "a route of the host": ("ptp: default route", "", "ip route del 10.1.0.2", "1:ADD > host > routes"),
    "the source of a route": (
        "ptp: default route",
        "",
        f"{_INSIDE} ip route replace 10.1.0.0/24 via 10.1.0.1",
        "1:ADD > box1 > routes",
    ),
}


@pytest.mark.parametrize("case", [case for case in ALL.values() if case.rules], ids=lambda case: case.name)
def test_one_reference_run_twice_does_not_differ(case: Case, newest: Suite) -> None:
    with TraceCache(()) as traces:
        first, second = (traces.recorded_anew(newest, case) for _ in range(2))
        assert not compare.differences(case.name, first.result(), second.result())


@pytest.mark.parametrize("name", SABOTAGES)
def test_a_faulty_suite_is_found_out(name: str, newest: Suite, tmp_path: Path) -> None:
    case_name, before, after, where = SABOTAGES[name]
    case = ALL[case_name]
    faulty = saboteur(newest, tmp_path, case.plugin, before, after)
    with TraceCache([(newest, case), (faulty, case)]) as traces:
        theirs, other = (traces.trace(suite, case).result() for suite in (newest, faulty))
    found = compare.differences(case.name, theirs, other)
    assert any(difference.path.startswith(where) for difference in found), found


def saboteur(suite: Suite, directory: Path, plugin: str, before: str, after: str) -> Suite:
    """The suite with a plugin that does something else as well."""
    for program in reference.PROGRAMS:
        (directory / program).symlink_to(suite.program(program).resolve())
    script = directory / plugin
    script.unlink()
    script.write_text(
        f"#!/bin/sh\n{before}\n{suite.program(plugin).resolve()}\ncode=$?\n{after}\nexit $code\n"
    )
    script.chmod(0o755)
    return Suite("saboteur", directory)


DIFFERENCE = Difference("bridge: a case", "1:ADD > host > links > cni0 > mtu", "1500", "1400")


@pytest.mark.parametrize(
    ("entry", "speaks"),
    [
        (Intended("because", "*mtu"), True),
        (Intended("because", "*mtu", "1500", "1400", ("bridge: *",), "v1.9"), True),
        (Intended("because", "*mtu", against="debian"), False),
        (Intended("because", "*mtu", theirs="9000"), False),
        (Intended("because", "*mtu", ours="9000"), False),
        (Intended("because", "*mtu", cases=("host-local: *",)), False),
        (Intended("because", "2:*"), False),
    ],
)
def test_an_entry_speaks_only_of_what_it_describes(entry: Intended, *, speaks: bool) -> None:
    assert matches(entry, DIFFERENCE, "v1.9") is speaks


def test_a_thing_one_side_lacks_is_told_once() -> None:
    theirs = {"1:ADD > host > links > cni0 > mtu": "1500"}
    ours = theirs | {f"1:ADD > host > links > stray > {key}": "1" for key in ("mtu", "kind", "flags")}
    assert compare.differences("a case", theirs, ours) == [
        Difference("a case", "1:ADD > host > links > stray", compare.ABSENT, "present")
    ]


def test_case_names_are_unique_and_every_plugin_is_in_the_table() -> None:
    assert len(ALL) == len(cases.load())
    assert {case.plugin for case in ALL.values()} == set(reference.PROGRAMS)
