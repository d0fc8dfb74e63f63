"""The yardstick itself: one reference never differs from itself, and a faulty suite is always found out."""

from pathlib import Path

import pytest

from tests.differential import cases, compare, reference, story
from tests.differential.cases import Case
from tests.differential.compare import Difference
from tests.differential.intended import Intended
from tests.differential.ledger import matches
from tests.differential.suites import Suite

ALL = {case.name: case for case in cases.load()}

SABOTAGES = {
    "a DEL that lies": ('[ "$CNI_COMMAND" = DEL ] && exit 0', "", "3:DEL > host > links > veth(box1:eth0)"),
    "a port flag": (
        "",
        "ip -o link | grep -o 'veth[^@]*' | xargs -I= ip link set = type bridge_slave learning off",
        "1:ADD > host > links > veth(box1:eth0) > port > learning",
    ),
    "an address too many": (
        "",
        "ip address add 192.0.2.77/32 dev cni0",
        "1:ADD > host > links > cni0 > addresses",
    ),
    "a sysctl": ("", "echo 2 > /proc/sys/net/ipv6/conf/cni0/accept_ra", "1:ADD > host > sysctls"),
    "a stray line": ("", "echo", "1:ADD > answer > layout"),
    "another exit code": ("", "exit 3", "1:ADD > answer > code"),
}


@pytest.mark.parametrize("case", [case for case in ALL.values() if case.rules], ids=lambda case: case.name)
def test_one_reference_run_twice_does_not_differ(case: Case, newest: Suite) -> None:
    assert not compare.differences(case.name, story.tell(newest, case), story.tell(newest, case))


@pytest.mark.parametrize("name", SABOTAGES)
def test_a_faulty_suite_is_found_out(name: str, newest: Suite, tmp_path: Path) -> None:
    before, after, where = SABOTAGES[name]
    case = ALL["bridge: default gateway"]
    found = compare.differences(
        case.name, story.tell(newest, case), story.tell(saboteur(newest, tmp_path, before, after), case)
    )
    assert any(difference.path.startswith(where) for difference in found), found


def saboteur(suite: Suite, directory: Path, before: str, after: str) -> Suite:
    """The suite with a bridge that does something else as well."""
    for program in reference.PROGRAMS:
        (directory / program).symlink_to(suite.program(program).resolve())
    bridge = directory / "bridge"
    bridge.unlink()
    bridge.write_text(
        f"#!/bin/sh\n{before}\n{suite.program('bridge').resolve()}\ncode=$?\n{after}\nexit $code\n"
    )
    bridge.chmod(0o755)
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
