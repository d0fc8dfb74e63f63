"""The pages of a lab, for eyes and for programs."""

import json

import pytest

from cni_plugins.cli.lab import text
from cni_plugins.cli.lab.build import Attached, LabRemoval
from cni_plugins.cli.lab.ping import Count, Report
from cni_plugins.cli.lab.topology import LabOptions, plan

ALL, SOME, NONE, NOT_ASKED = Count(2, 2), Count(4, 1), Count(3, 0), Count()


def report(
    *rows: tuple[Count, ...], missing: tuple[tuple[str, str], ...] = (), late: int = 0, reach: int = 1
) -> Report:
    return Report(rows, Count(2, 2), Count(4, 3), missing, late, 0.0004, reach)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (LabOptions(hosts=1), "1 host with 1 container each, l3, static, underlay IPv4"),
        (
            LabOptions(containers=2, mode="l2", zero_control=True, underlay=6),
            "3 hosts with 2 containers each, l2, static, underlay IPv6, no control plane, bum head-end",
        ),
        (
            LabOptions(backend="multicast", mtu=1400),
            "3 hosts with 1 container each, l3, multicast, underlay IPv4, MTU 1400",
        ),
        (
            LabOptions(hosts=2, direct_routing="off", dual_stack=True),
            "2 hosts with 1 container each, l3, static, underlay IPv4, direct routing off, dual stack",
        ),
    ],
)
def test_the_first_line_says_what_is_not_as_usual(options: LabOptions, line: str) -> None:
    assert text.head(plan(options)) == f"lab cnilab: {line}"


def test_a_few_hosts_make_a_table_of_words() -> None:
    lab = plan(LabOptions(hosts=2))
    assert list(text.answered(lab, report((ALL, SOME), (NONE, NOT_ASKED)), 0.25)) == [
        "answered  2 of 2 between containers, 3 of 4 from hosts, in 0.25 s, the slowest in 0.4 ms",
        "",
        "FROM  h1   h2",
        "h1    ok   1/4",
        "h2    \N{EN DASH}",
    ]


def test_many_hosts_make_a_sign_for_each_pair() -> None:
    lab = plan(LabOptions(hosts=17))
    rows = [(ALL,) * 17] * 16 + [(ALL, SOME, NONE, *[NOT_ASKED] * 13, ALL)]
    page = list(text.answered(lab, report(*rows, reach=16), 0.25))
    assert page[2].startswith("one character per pair:")
    assert page[3] == "h1   ................."
    assert page[-1] == "h17  ./-             ."


def test_who_answered_late_and_who_was_not_asked_is_said() -> None:
    lab = plan(LabOptions(hosts=3, mode="l2"))
    page = list(text.answered(lab, report((ALL,) * 3, (ALL,) * 3, (ALL,) * 3, late=2, reach=1), 0.25))
    assert page[1] == "          2 only at the second ping"
    assert page[2:5] == [
        "          each pinged only 1 host: the kernel's neighbour table is too small",
        "          for all: sysctl -w net.ipv4.neigh.default.gc_thresh3=32",
        "",
    ]


def test_of_many_that_did_not_answer_some_are_named() -> None:
    missing = tuple(("demo-h1", f"10.0.0.{number}") for number in range(12))
    page = list(
        text.answered(plan(LabOptions(hosts=2)), report((NONE, NONE), (NONE, NONE), missing=missing), 1)
    )
    assert page[-11:-1] == [f"no answer: from demo-h1 to 10.0.0.{number}" for number in range(10)]
    assert page[-1] == "          and 2 more"


def test_what_there_is_of_a_lab_names_what_is_missing() -> None:
    lab = plan(LabOptions("demo", hosts=1, containers=2))
    there = ["demo-sw", "demo-h1", "demo-h1-c1"]
    made = [Attached("demo-h1-c1", ["10.244.1.2", "fd00::2"], 0.1)]
    assert list(text.shown(lab, made, there))[2:] == [
        "demo-h1  10.99.0.1  10.244.1.0/24",
        "  demo-h1-c1  10.244.1.2 fd00::2",
        "  demo-h1-c2  not attached  (there is no such namespace)",
    ]


def test_a_clean_removal_says_that_nothing_is_left() -> None:
    assert list(text.removed("demo", LabRemoval(2), 5, 0.5)) == [
        "detached  2 containers",
        "left      nothing of the overlay on any host",
        "removed   lab demo, 5 namespaces and its files, in 0.50 s",
    ]


def test_what_a_plugin_refused_or_left_is_named() -> None:
    removal = LabRemoval(1, ("DEL of demo-h1-c1: no",), ("h1: link vx1",))
    assert not removal.is_clean
    assert list(text.removed("demo", removal, 5, 0.5))[:4] == [
        "detached  1 container",
        "          DEL of demo-h1-c1: no",
        "left      on hosts:",
        "          h1: link vx1",
    ]


def test_nothing_is_claimed_of_a_lab_that_nothing_is_known_of() -> None:
    page = list(text.removed("demo", None, 5, 0.5))
    assert page[0] == "detached  nothing: the containers of this lab are not known"
    assert not any(line.startswith("left") for line in page)


def test_programs_get_the_same_as_json() -> None:
    lab = plan(LabOptions("demo", hosts=2))
    made = [Attached("demo-h1-c1", ["10.244.1.2"], 0.1)]
    given = report((ALL, SOME), (NONE, NOT_ASKED), missing=(("demo-h2", "10.244.1.2"),))
    page = json.loads(json.dumps(text.document(lab, made, given, {"ping": 0.5})))
    assert page["hosts"][0]["containers"] == [
        {"container": "demo-h1-c1", "addresses": ["10.244.1.2"], "seconds": 0.1}
    ]
    assert page["hosts"][1]["containers"] == []
    assert page["answers"]["matrix"] == [[True, False], [False, None]]
    assert page["answers"]["missing"] == [["demo-h2", "10.244.1.2"]]
    assert page["answers"]["whole"] is False
    assert "answers" not in text.document(lab, made, None, {})
