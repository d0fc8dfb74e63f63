"""
The modes of macvlan proven on a wire: who reaches whom, on a switch of either kind.

What must come out stands here as a table, with the rules of the kernel it follows from; docs/macvlan.md shows
what did come out. CNI_WRITE_MATRIX=1 writes that instead of comparing it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.e2e.lab.plugin import Answer, Call, run
from tests.e2e.lab.state import State, assert_unchanged, observe, settled
from tests.e2e.lab.tools import REPOSITORY
from tests.e2e.lab.wire import (
    ECHO,
    GROUPS,
    MACHINES,
    SANDBOXES,
    SWITCH,
    Bed,
    Heard,
    mac,
    measure,
    netns,
    raise_bed,
    v4,
    v6,
    wire_up,
)

pytestmark = pytest.mark.needs("ip", "nft", "nsenter", "ping", "sysctl")

DOCS = REPOSITORY / "docs" / "macvlan.md"
BETWEEN_MARKERS = re.compile(r"(?<=<!-- matrix -->\n).*?(?=<!-- /matrix -->)", re.DOTALL)

HOSTS = ("h1", "h2")
HOST_OF = {"a": "h1", "b": "h1", "c": "h2"}
COLUMNS: dict[str, dict[str, Any]] = {
    "bridge": {"mode": "bridge"},
    "bridge, `hostAccess`": {"mode": "bridge", "hostAccess": True},
    "vepa": {"mode": "vepa"},
    "private": {"mode": "private"},
    "passthru": {"mode": "passthru"},
    "source": {"mode": "source", "allowedMACs": [mac(name) for name in ("h1", "h2", *SANDBOXES)]},
}
ROWS = {
    "container → container, same master": [("a", "b"), ("b", "a")],
    "container → container, other host": [("a", "c"), ("b", "c"), ("c", "a"), ("c", "b")],
    "container → own host": [("a", "h1"), ("b", "h1"), ("c", "h2")],
    "own host → container": [("h1", "a"), ("h1", "b"), ("h2", "c")],
    "container → other host": [("a", "h2"), ("b", "h2"), ("c", "h1")],
    "other host → container": [("h2", "a"), ("h2", "b"), ("h1", "c")],
    "container → plain machine": [("a", "m"), ("b", "m"), ("c", "m")],
    "plain machine → container": [("m", "a"), ("m", "b"), ("m", "c")],
    "host ↔ host, plain machine": [
        *(("h1", "h2"), ("h2", "h1"), ("h1", "m")),
        *(("h2", "m"), ("m", "h1"), ("m", "h2")),
    ],
}

ALL = "all"
UNICAST = "unicast"
BROADCAST = "unicast, broadcast"
GROUP = "group"
NONE = "\N{EN DASH}"
REFUSED = "n/a (refused)"
BROADCASTS = {"broadcast", "subnet broadcast"}
CELLS = {
    frozenset({*ECHO, *GROUPS}): ALL,
    frozenset(ECHO): UNICAST,
    frozenset({*ECHO, *BROADCASTS}): BROADCAST,
    frozenset(GROUPS): GROUP,
    frozenset[str](): NONE,
}

# Why, from drivers/net/macvlan.c:
# - macvlan_queue_xmit: a link in bridge mode gives a sibling what is for it, and all siblings what is for
#   all, which goes to the wire too. Every other mode sends everything to the wire. Nothing is given to the
#   host, so without a switch that reflects no container reaches its own.
# - What the host sends goes to the wire, where containers hear it only reflected. `hostAccess` makes the host
#   a sibling and leads unicast there, while a program names the interface for its broadcast and multicast.
#   The sibling hears broadcast; multicast it would hear with a member of its own.
# - macvlan_handle_frame, for one: goes to whose MAC it is, else to the host; with passthru always to the
#   container, which leaves the host nothing. Source links are passed over.
# - macvlan_handle_frame, for all: goes to every link and to the host. But if the sender is a link here, hence
#   reflected, it goes from vepa to all others and the host; from bridge to the host, as its siblings have it
#   already; from private, passthru and source back to the sender alone. So nobody here hears the ARP request
#   of those, but private and source links hear that of their host, which is no link, and answer.
# - macvlan_forward_source: a source link gets whatever a listed MAC has sent to the wire. What it sends
#   itself is not looked at, so one that is not listed hears it, and is not heard.
# - macvlan_common_newlink: no other link beside passthru (EINVAL).
EXPECTED: dict[str, dict[str, tuple[str, ...]]] = {
    "Ordinary switch": {
        "container → container, same master": (ALL, ALL, NONE, NONE, REFUSED, NONE),
        "container → container, other host": (ALL, ALL, ALL, ALL, ALL, ALL),
        "container → own host": (NONE, BROADCAST, NONE, NONE, NONE, NONE),
        "own host → container": (NONE, UNICAST, NONE, NONE, NONE, NONE),
        "container → other host": (ALL, ALL, ALL, ALL, GROUP, ALL),
        "other host → container": (ALL, ALL, ALL, ALL, GROUP, ALL),
        "container → plain machine": (ALL, ALL, ALL, ALL, ALL, GROUP),
        "plain machine → container": (ALL, ALL, ALL, ALL, ALL, NONE),
        "host ↔ host, plain machine": (ALL, ALL, ALL, ALL, GROUP, ALL),
    },
    "VEPA-capable switch": {
        "container → container, same master": (ALL, ALL, ALL, NONE, REFUSED, ALL),
        "container → container, other host": (ALL, ALL, ALL, ALL, ALL, ALL),
        "container → own host": (ALL, ALL, ALL, NONE, NONE, NONE),
        "own host → container": (ALL, ALL, ALL, ALL, GROUP, ALL),
        "container → other host": (ALL, ALL, ALL, ALL, GROUP, ALL),
        "other host → container": (ALL, ALL, ALL, ALL, GROUP, ALL),
        "container → plain machine": (ALL, ALL, ALL, ALL, ALL, GROUP),
        "plain machine → container": (ALL, ALL, ALL, ALL, ALL, NONE),
        "host ↔ host, plain machine": (ALL, ALL, ALL, ALL, GROUP, ALL),
    },
}

LEGEND = f"""\
Measured with two hosts and a plain machine on one switch; the masters are the hosts' links to it. Everyone
calls everyone: by ping, the reply of which must come back, over IPv4 and IPv6 (unicast); by broadcast; by
multicast of both families. Nobody knows anybody's MAC before a call. `{ALL}`: every call is heard;
`{BROADCAST}`: all but multicast; `{GROUP}`: broadcast and multicast, but no ping is answered; {NONE}: none.
In the `source` column `allowedMACs` lists everyone but the plain machine.
"""
HEADINGS = {
    "Ordinary switch": "**Ordinary switch**: never sends a frame back out of the port it came in by.",
    "VEPA-capable switch": "**VEPA-capable switch** (reflective relay, *hairpin*): out of that port too.",
}

FORWARD = 'for netns; do nsenter --net="/run/netns/$netns" sysctl -qw net.ipv4.ip_forward=1; done'
A_FEW = 50

T = TypeVar("T")
R = TypeVar("R")
Matrix = dict[str, dict[str, tuple[str, ...]]]


@dataclass(frozen=True)
class Wires:
    """A bed for each column, its containers attached."""

    beds: dict[str, Bed]
    untouched: dict[tuple[str, str], State]
    """What the hosts had before."""
    refused: Answer
    """What became of a second container beside passthru."""
    unfit: list[str]
    """Addresses of the containers that did not become fit for use."""
    matrix: Matrix


@pytest.fixture(scope="module")
def wires(dist: Path) -> Iterator[Wires]:
    with ExitStack() as stack:
        beds = {column: stack.enter_context(raise_bed(dist)) for column in COLUMNS}
        at_once(wire_up, beds.values())
        places = [(column, host) for column in COLUMNS for host in HOSTS]
        states = at_once(observe, [beds[column].machine(host) for column, host in places])
        # Containers begin at a switch that reflects, so that their probes for their own addresses come back.
        reflect(beds, on=True)
        at_once(lambda at: call(beds[at[0]], "ADD", *at).ok(), attachments())
        refused = call(beds["passthru"], "ADD", "passthru", "b")
        unfit = settled(lambda: unfit_addresses(beds), [])
        vepa = measured(beds)
        reflect(beds, on=False)
        matrix = {"Ordinary switch": measured(beds), "VEPA-capable switch": vepa}
        yield Wires(beds, dict(zip(places, states, strict=True)), refused, unfit, matrix)


@pytest.mark.parametrize("switch", EXPECTED)
@pytest.mark.parametrize("column", COLUMNS)
def test_who_reaches_whom_follows_from_the_kernels_rules(wires: Wires, switch: str, column: str) -> None:
    at = list(COLUMNS).index(column)
    found = {row: cells[at] for row, cells in wires.matrix[switch].items()}
    assert found == {row: cells[at] for row, cells in EXPECTED[switch].items()}


def test_the_docs_show_what_was_measured(wires: Wires) -> None:
    text = DOCS.read_text()
    shown = BETWEEN_MARKERS.search(text)
    assert shown, f"{DOCS} has no matrix markers"
    found = markdown(wires.matrix)
    if os.environ.get("CNI_WRITE_MATRIX") == "1":
        DOCS.write_text(text[: shown.start()] + found + text[shown.end() :])
    else:
        assert shown[0] == found, "CNI_WRITE_MATRIX=1 writes what was measured"


def test_addresses_survive_that_the_switch_reflects_what_is_told_of_them(wires: Wires) -> None:
    assert wires.unfit == []


def test_passthru_refuses_a_second_container(wires: Wires) -> None:
    assert wires.refused.document["code"] == 11, wires.refused
    assert "passthru" in wires.refused.document["msg"]
    assert links(wires.beds["passthru"], "b") == ["lo"]


def test_private_hides_containers_but_passes_who_knows_the_mac(wires: Wires) -> None:
    # macvlan_handle_frame keeps back what is for all, never what is for one.
    bed = wires.beds["private"]
    bed.reflect(on=True)
    for here, there in (("a", "b"), ("b", "a")):
        bed.introduce(here, there, address_of(bed, there))
    [heard] = measure({"private": bed}, {"private": (*MACHINES, *SANDBOXES)}, callers=["a"]).values()
    assert how(heard, "a", "b") == set(ECHO)


def test_del_leaves_the_hosts_as_they_were(wires: Wires) -> None:
    at_once(lambda at: call(wires.beds[at[0]], "DEL", *at).ok(), attachments())
    for column, container in attachments():
        assert links(wires.beds[column], container) == ["lo"]
    for (column, host), before in wires.untouched.items():
        assert_unchanged(wires.beds[column].machine(host), before)


@pytest.fixture
def bed(dist: Path) -> Iterator[Bed]:
    with raise_bed(dist) as bed:
        wire_up(bed)
        yield bed


def test_a_machine_reaches_who_took_over_a_containers_addresses(bed: Bed) -> None:
    call(bed, "ADD", "bridge", "a").ok()
    assert [pings(bed, "m", to) for to in (v4("a"), v6("a"))] == [True, True]
    call(bed, "DEL", "bridge", "a").ok()
    call(bed, "ADD", "bridge", "b", addresses_of="a").ok()
    assert [pings(bed, "m", to) for to in (v4("a"), v6("a"))] == [True, True]


def test_source_containers_do_not_send_on_what_is_for_others(bed: Bed) -> None:
    bed.host.run("sh", "-euc", FORWARD, "sh", netns("a"), netns("b"))
    for container in ("a", "b"):
        call(bed, "ADD", "source", container).ok()
    bed.reflect(on=True)
    for container in ("a", "b"):
        assert pings(bed, "h1", v4(container))
    before = frames_from(bed, "h1")
    assert pings(bed, "h2", v4("h1"))
    assert frames_from(bed, "h1") - before < A_FEW


def call(bed: Bed, command: str, column: str, container: str, addresses_of: str = "") -> Answer:
    """Call the plugin as the runtime of the container's host does."""
    name = addresses_of or container
    conf = {
        "cniVersion": "1.1.0",
        "name": "cniwire",
        "type": "macvlan",
        "master": "eth0",
        **COLUMNS[column],
        **({"mac": mac(container)} if column == "source" else {}),
        "ipam": {
            "type": "static",
            "addresses": [{"address": f"{v4(name)}/24"}, {"address": f"{v6(name)}/64"}],
        },
    }
    sandbox = f"/run/netns/{netns(container)}"
    return run(bed.machine(HOST_OF[container]), Call(command, conf, netns(container), sandbox))


def pings(bed: Bed, here: str, address: str) -> bool:
    return bed.machine(here).run("ping", "-c1", "-W1", address, check=False).returncode == 0


def frames_from(bed: Bed, name: str) -> int:
    """How many the switch has got from a machine."""
    counter = f"/sys/class/net/{name}/statistics/rx_packets"
    return int(bed.machine(SWITCH).run("cat", counter).stdout)


def present(column: str) -> tuple[str, ...]:
    """The containers that can be: passthru takes the master whole."""
    return ("a", "c") if column == "passthru" else SANDBOXES


def attachments() -> list[tuple[str, str]]:
    return [(column, container) for column in COLUMNS for container in present(column)]


def at_once(do: Callable[[T], R], things: Iterable[T]) -> list[R]:
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(do, things))


def how(heard: Heard, caller: str, hearer: str) -> set[str]:
    return {kind for one, other, kind in heard if (one, other) == (caller, hearer)}


def measured(beds: Mapping[str, Bed]) -> dict[str, tuple[str, ...]]:
    """A row for each relation, with a cell for each column."""
    heard = measure(beds, {column: (*MACHINES, *present(column)) for column in beds})
    return {
        row: tuple(cell(heard[column], column, pairs) for column in COLUMNS) for row, pairs in ROWS.items()
    }


def cell(heard: Heard, column: str, pairs: Iterable[tuple[str, str]]) -> str:
    """What all pairs of a relation have in common; each pair by itself if that is not all."""
    there = {*MACHINES, *present(column)}
    found = {pair: frozenset(how(heard, *pair)) for pair in pairs if there.issuperset(pair)}
    if not found:
        return REFUSED
    if len(set(found.values())) == 1:
        [kinds] = set(found.values())
        return CELLS.get(kinds, ", ".join(sorted(kinds)))
    return "; ".join(f"{one}→{other}: {', '.join(sorted(kinds))}" for (one, other), kinds in found.items())


def markdown(matrix: Matrix) -> str:
    head = ["|  | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    parts = [LEGEND]
    for switch, rows in matrix.items():
        lines = (f"| {row} | {' | '.join(cells)} |" for row, cells in rows.items())
        parts.append("\n".join([HEADINGS[switch], "", *head, *lines, ""]))
    return "\n".join(parts)


def reflect(beds: Mapping[str, Bed], *, on: bool) -> None:
    for bed in beds.values():
        bed.reflect(on=on)


def unfit_addresses(beds: Mapping[str, Bed]) -> list[str]:
    """Addresses of containers which the kernel still probes for, or has found at somebody else's."""
    return [
        f"{column}, {container}: {line}"
        for column, container in attachments()
        for line in beds[column]
        .host.run("ip", "-n", netns(container), "-6", "-o", "addr", "show", "tentative")
        .stdout.splitlines()
    ]


def links(bed: Bed, name: str) -> list[str]:
    listed = bed.host.run("ip", "-j", "-n", netns(name), "link").stdout
    return [link["ifname"] for link in json.loads(listed)]


def address_of(bed: Bed, name: str) -> str:
    listed = bed.host.run("ip", "-j", "-n", netns(name), "link", "show", "eth0").stdout
    [link] = json.loads(listed)
    return str(link["address"])
