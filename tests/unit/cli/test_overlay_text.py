"""What `cnictl overlay` shows of a network, for people and for programs."""

import json
import re
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from cni_plugins.cli.overlay import document as documents
from cni_plugins.cli.overlay import text as page
from cni_plugins.cli.overlay.text import NetworkOutcome
from cni_plugins.cli.text import plain
from cni_plugins.contract.facts import NextHop
from cni_plugins.errors import InvalidNetworkConfig, KernelRefused
from cni_plugins.keeper import overview
from cni_plugins.kernel.overlay.peers import OverlayRoute
from cni_plugins.kernel.overlay.reach import Reach
from cni_plugins.upkeep.overlay import State, View
from cni_plugins.upkeep.overlay_configs import Configured
from cni_plugins.upkeep.overlay_probe import (
    Answers,
    Cause,
    Finding,
    Probe,
    findings,
    inner_ends,
    route_mtus,
)
from cni_plugins.vxlan.list_digest import list_digest
from cni_plugins.vxlan.peer_entries import peer_entries
from tests.unit.vxlan import hosts

HERE = Configured("net1", "/etc/cni/net.d/10.conf", {})
ALWAYS = {"directRouting": "always"}


def seen(state: State = State.IN_SYNC, *, routes: Any = None, **keys: Any) -> View:
    """Return what host h1 sees of three; to h2 and h3 there are ways without gateway."""
    overlay = hosts.parsed(**keys)
    host = hosts.local_host(overlay)
    routes_to = {peer.vtep: NextHop("eth0", None, host.local) for peer in host.others}
    entries = peer_entries(overlay, host, routes_to)
    view = View(overlay, host, entries, state, tables=reach_of(overlay, entries))
    planned = [
        OverlayRoute(item.dst, item.link, item.via, item.mtu, measured=False)
        for item in entries.routes
        if item.link
    ]
    present = planned if routes is None else routes
    return view._replace(routes={route.dst: route for route in present} if state != State.IDLE else {})


def reach_of(overlay: Any, entries: Any) -> Reach:
    """Return the tables of a kernel that has what the peers require."""
    to: dict[str, frozenset[Any]] = {}
    for mac, vtep in entries.fdb:
        to[mac] = to.get(mac, frozenset()) | {vtep}
    mtus = {name: 1450 for name in (overlay.vxlan, overlay.bridge) if name} | {"eth0": 1500}
    return Reach(to, frozenset(entries.behind), dict(entries.neighbours), mtus)


def route(dst: str, mtu: int, *, measured: bool = False, link: str = "vx25") -> OverlayRoute:
    net = ip_network(dst)
    return OverlayRoute(net, link, net.network_address, mtu, measured)


def probes(view: View, *measured: tuple[float | None, int | None, float | None]) -> tuple[Probe, ...]:
    return tuple(Probe(peer, *found) for peer, found in zip(view.host.others, measured, strict=True))


# ------------------------------------------------------------------------------------------------ lines


def test_sync_says_one_line_and_what_was_repaired() -> None:
    fine, idle = NetworkOutcome(HERE, seen()), NetworkOutcome(HERE, seen(State.IDLE))
    repaired = NetworkOutcome(HERE, seen(State.REPAIRED)._replace(differences=("a is missing", "b is stale")))
    broken = NetworkOutcome(HERE, error=InvalidNetworkConfig("no underlay"))
    assert list(page.sync_lines([fine, idle, repaired, broken])) == [
        "net1: in sync",
        "net1: idle, no container here",
        "net1: repaired",
        "  a is missing",
        "  b is stale",
    ]


def test_status_is_a_page() -> None:
    view = seen(State.DRIFTED)._replace(differences=("a is missing",))
    assert list(page.status_lines([NetworkOutcome(HERE, view)])) == [
        "net1: drifted",
        "  mode      l3, VNI 77, port 4789",
        "  underlay  eth0, 10.99.0.1, MTU 1500",
        "  MTU       1450",
        "  backend   static, 2 peers",
        "  entries   2 forwarding, 2 neighbours, 4 routes",
        f"  digest    {list_digest(view.overlay)}",
        "  drifted   a is missing",
    ]


def test_peers_are_a_table_in_the_order_of_their_addresses() -> None:
    view = seen(routes=[route("10.244.3.0/24", 1350, measured=True), route("10.244.2.0/24", 1450)])
    assert list(page.peers_lines([NetworkOutcome(HERE, view)])) == [
        "net1: in sync, mode l3, static, 2 peers",
        "NODE  VTEP       ADDRESSES      REACHED            MTU",
        "h1*   10.99.0.1  10.244.1.0/24  own host via eth0  1500",
        "h2    10.99.0.2  10.244.2.0/24  tunnel via vx25    1450",
        "h3    10.99.0.3  10.244.3.0/24  tunnel via vx25    1350 measured",
    ]


def test_a_peer_may_be_reached_in_two_ways() -> None:
    dual = {"network": ["10.244.0.0/16", "fd00::/16"], "peers": hosts.DUAL_PEERS}
    view = seen(**dual, directRouting="same-subnet")
    last = list(page.peers_lines([NetworkOutcome(HERE, view)]))[-1]
    assert last.endswith("  direct via eth0, tunnel via vx25  1500, 1450")


def test_stretched_networks_have_no_routes_and_groups_no_list() -> None:
    stretched = list(page.peers_lines([NetworkOutcome(HERE, seen(**hosts.STRETCHED))]))
    assert stretched[-1] == "h3    10.99.0.3  192.168.100.32/28  tunnel via vx25    1450"
    group = seen(backend=hosts.GROUP, underlay={"interface": "eth0"})
    heading, _, *rows = page.peers_lines([NetworkOutcome(HERE, group)])
    assert heading == "net1: in sync, mode l3, multicast, peers are discovered on demand"
    assert len(rows) == 1
    assert list(page.probe_lines([NetworkOutcome(HERE, group)], written=False)) == [heading]


def test_without_tunnel_there_is_no_number() -> None:
    assert "  mode      l3, never encapsulated" in page.status_lines([NetworkOutcome(HERE, seen(**ALWAYS))])


def test_measurements_are_a_table() -> None:
    view = seen(routes=[route("10.244.2.0/24", 1350, measured=True), route("10.244.3.0/24", 1450)])
    outcome = NetworkOutcome(HERE, view, probes(view, (0.000184, 1400, 0.0123), (None, None, None)))
    assert list(page.probe_lines([outcome], written=True)) == [
        "net1: in sync, mode l3, static, 2 peers",
        "NODE  VTEP       RTT      PATH MTU  INSIDE    ROUTE MTU",
        "h2    10.99.0.2  0.18 ms  1400      12.30 ms  1350 measured",
        "h3    10.99.0.3  -        -         -         1450",
    ]


@pytest.mark.parametrize(
    ("keys", "why"), [({}, "the first container creates them"), (hosts.STRETCHED, "mode l2 has none")]
)
def test_who_writes_where_there_are_no_routes_is_told_why(keys: dict[str, Any], why: str) -> None:
    view = seen(State.IDLE, **keys)
    outcome = NetworkOutcome(HERE, view, probes(view, (0.1, 1500, None), (0.1, 1500, None)))
    assert list(page.probe_lines([outcome], written=True))[-1] == f"no routes to write to: {why}"
    assert "no routes" not in "".join(page.probe_lines([outcome], written=False))


def test_nothing_that_a_file_says_moves_the_cursor() -> None:
    assert plain("h\x1b[2J\n\ud800ü2") == "h�[2J��ü2"


# ------------------------------------------------------------------------------------------------ sentences


def test_an_error_is_one_sentence_with_its_code() -> None:
    error = KernelRefused("add link: No space left", "errno 28")
    error.add_note("could not be taken back")
    [told] = page.faults([NetworkOutcome(HERE, seen()), NetworkOutcome(HERE, error=error)])
    assert told == "network net1: add link: No space left (errno 28; could not be taken back), code 100"
    [short] = page.faults([NetworkOutcome(HERE, error=InvalidNetworkConfig("bad: x is 1", "x is 1"))])
    assert short == "network net1: bad: x is 1, code 7"


def test_a_drift_says_how_many_and_what_repairs_it() -> None:
    view = seen(State.DRIFTED)._replace(differences=("a", "b"))
    assert list(page.drifts([NetworkOutcome(HERE, seen()), NetworkOutcome(HERE, view)])) == [
        "network net1: 2 differences, which cnictl overlay sync repairs"
    ]


def faulty(view: View, *texts: str) -> NetworkOutcome:
    found = zip(view.host.others, texts, strict=False)
    probed = (Probe(peer, None, None, None, (Finding(Cause.SILENT, text),)) for peer, text in found)
    return NetworkOutcome(HERE, view, tuple(probed))


def test_peers_with_the_same_fault_share_a_line_and_notes_have_none() -> None:
    note = Probe(hosts.local_host(hosts.parsed()).own, 0.1, 1500, None, (Finding(Cause.REFUSED, "x", False),))
    assert list(page.failed_probes([NetworkOutcome(HERE, seen(), (note,))])) == []
    assert list(page.failed_probes([faulty(seen(), "no answer", "deaf")])) == [
        "network net1: h2 (10.99.0.2): no answer",
        "network net1: h3 (10.99.0.3): deaf",
    ]


def test_many_faulty_peers_are_counted() -> None:
    peers = [{"node": f"h{n}", "vtep": f"10.99.0.{n}", "subnet": f"10.244.{n}.0/24"} for n in range(1, 21)]
    [told] = page.failed_probes([faulty(seen(peers=peers), *["no answer"] * 19)])
    assert told.startswith("network net1: h2 (10.99.0.2), h3 (10.99.0.3), ")
    assert told.endswith(", h11 (10.99.0.11), 9 more: no answer")


# ------------------------------------------------------------------------------------- what is in the kernel


def reached(view: View, number: int = 2) -> tuple[str, str]:
    """Return the columns REACHED and MTU of one peer."""
    row = list(page.peers_lines([NetworkOutcome(HERE, view)]))[number + 1]
    cells = [cell.strip() for cell in row.split("  ") if cell.strip()]
    return cells[3], cells[4]


def test_what_the_kernel_lacks_is_shown_instead_of_the_plan() -> None:
    view = seen()
    tables = view.tables
    neighbour, mac = ip_address("10.244.2.0"), "02:fe:0a:63:00:02"
    assert reached(view) == ("tunnel via vx25", "1450")
    assert reached(view._replace(routes={})) == ("no route", "-")
    others = {at: link for at, link in tables.neighbours.items() if at != neighbour}
    assert reached(view._replace(tables=tables._replace(neighbours=others))) == ("no neighbour", "1450")
    assert reached(view._replace(tables=tables._replace(to={}))) == ("no forwarding entry", "1450")
    elsewhere = tables._replace(to={**tables.to, mac: frozenset({ip_address("10.99.0.9")})})
    assert reached(view._replace(tables=elsewhere)) == ("tunnel via vx25 to 10.99.0.9", "1450")
    assert reached(seen(State.IDLE)) == ("-", "-")


def test_a_route_without_mtu_has_that_of_its_link() -> None:
    view = seen(routes=[route("10.244.2.0/24", 0), route("10.244.3.0/24", 0)])
    assert reached(view._replace(tables=view.tables._replace(mtus={"vx25": 1200})))[1] == "1200"


def test_of_a_stretched_network_the_entries_that_are_missing_are_counted() -> None:
    view = seen(**hosts.STRETCHED)
    assert reached(view) == ("tunnel via vx25", "1450")
    gone = min(view.tables.behind)
    partial = view._replace(tables=view.tables._replace(behind=view.tables.behind - {gone}))
    assert [reached(partial, number)[0] for number in (2, 3)].count(
        "tunnel via vx25 (lacks 1 of 16 forwarding entries)"
    ) == 1
    assert reached(view._replace(tables=view.tables._replace(mtus={}))) == ("no link vx25", "-")


def test_where_hosts_are_flooded_the_entry_for_all_counts() -> None:
    view = seen(**{**hosts.STRETCHED, "bum": "head-end"})
    assert reached(view) == ("tunnel via vx25", "1450")
    assert reached(view._replace(tables=view.tables._replace(to={}))) == ("no forwarding entry", "1450")


# ------------------------------------------------------------------------------------- what is wrong


def found(view: View, **answers: Any) -> list[tuple[Cause, bool]]:
    """Return what is wrong with h2, which answers all that is asked of it unless said otherwise."""
    peer = view.host.others[0]
    all_well = {
        "times": {peer.vtep: 0.1},
        "mtus": {peer.vtep: 1500},
        "ends": inner_ends(view),
        "near": {peer.vtep: 0.1},
        "far": {},
        "refused": {},
        "macs": {},
    }
    return [(one.cause, one.is_fault) for one in findings(view, Answers(**all_well | answers), peer)]


H2 = ip_address("10.99.0.2")
DEAF: dict[str, Any] = {"near": {}}


def test_each_answer_has_its_finding() -> None:
    view = seen()
    assert found(view) == []
    assert found(view, times={}, **DEAF) == [(Cause.SILENT, True)]
    assert found(view, times={}, mtus={}) == []  # it drops ICMP on the underlay
    assert found(view, **DEAF) == [(Cause.UNKNOWN, True)]
    assert found(view, **DEAF, far={H2: 0.1}) == [(Cause.ANOTHER_HOST, True)]
    assert found(view, **DEAF, macs={H2: "02:00:00:00:00:01"}) == [(Cause.WRONG_MAC, True)]
    assert found(view, **DEAF, refused={H2: 113}) == [(Cause.FILTERED, True)]
    assert found(view, mtus={H2: 1400}) == [(Cause.PATH_MTU, True)]
    assert found(view, mtus={H2: 1499}) == [(Cause.PATH_MTU, True)]
    assert found(view._replace(routes={}), **DEAF) == [(Cause.NO_ENTRY, True)]


def test_a_host_without_containers_is_no_fault_unless_all_are_to_stay() -> None:
    assert found(seen(), **DEAF, refused={H2: 111}) == [(Cause.REFUSED, False)]
    assert found(seen(keep=True), **DEAF, refused={H2: 111}) == [(Cause.REFUSED, True)]


def test_a_path_that_carries_less_than_a_stretched_network_sends_is_a_fault() -> None:
    view = seen(**hosts.STRETCHED)
    assert found(view) == []
    assert found(view, mtus={H2: 1400}) == [(Cause.PATH_MTU, True)]


def test_a_route_with_the_measured_mtu_is_none() -> None:
    view = seen(routes=[route("10.244.2.0/24", 1350, measured=True), route("10.244.3.0/24", 1450)])
    assert found(view, mtus={H2: 1400}) == []


# ------------------------------------------------------------------------------------------------ documents


def test_the_documents_have_the_keys_that_are_promised() -> None:
    view = seen(routes=[route("10.244.2.0/24", 1350, measured=True)])
    outcome = NetworkOutcome(HERE, view, probes(view, (0.0001234, 1400, 0.5), (None, None, None)))
    common = {
        "network": "net1",
        "file": "/etc/cni/net.d/10.conf",
        "state": "in sync",
        "differences": [],
        "error": None,
    }
    assert documents.sync([outcome]) == [common]
    assert documents.status([outcome]) == [
        {
            **common,
            "mode": "l3",
            "vni": 77,
            "port": 4789,
            "underlay": {"link": "eth0", "address": "10.99.0.1", "mtu": 1500},
            "mtu": 1450,
            "backend": "static",
            "peers": 2,
            "entries": {"fdb": 2, "neighbours": 2, "routes": 4},
            "digest": list_digest(view.overlay),
            "blocked": [],
        }
    ]
    way = {"to": "10.244.2.0/24", "how": "tunnel", "link": "vx25", "mtu": 1350, "measured": True}
    way |= {"vtep": "10.99.0.2", "lacks": None}
    [peers] = documents.peers([outcome])
    assert peers["peers"][:2] == [
        {"node": "h1", "vtep": "10.99.0.1", "addresses": ["10.244.1.0/24"], "own": True, "ways": []},
        {"node": "h2", "vtep": "10.99.0.2", "addresses": ["10.244.2.0/24"], "own": False, "ways": [way]},
    ]
    [probed] = documents.probe([outcome])
    answered = {"rtt_ms": 0.123, "path_mtu": 1400, "inside_ms": 500.0}
    assert probed["peers"][0] == {"node": "h2", "vtep": "10.99.0.2", **answered, "ways": [way]} | {
        "faults": [],
        "notes": [],
    }
    assert probed["peers"][1]["rtt_ms"] is None


@pytest.mark.parametrize(
    "document",
    [documents.sync, documents.status, documents.peers, documents.probe],
)
def test_a_network_at_fault_is_in_every_document(document: Any) -> None:
    error = InvalidNetworkConfig("no underlay", "eth0 has none")
    [network] = json.loads(json.dumps(document([NetworkOutcome(HERE, error=error)])))
    assert network["state"] == "at fault"
    assert network["error"] == {"code": 7, "msg": "no underlay", "details": "eth0 has none"}


def test_what_a_group_or_a_network_without_tunnel_has_not_is_null() -> None:
    [group] = documents.status(
        [NetworkOutcome(HERE, seen(backend=hosts.GROUP, underlay={"interface": "eth0"}))]
    )
    assert group["peers"] is None
    [direct] = documents.status([NetworkOutcome(HERE, seen(**ALWAYS))])
    assert (direct["vni"], direct["port"]) == (None, None)


# ------------------------------------------------------------------------- which MTU goes to which route


def mtus(*found: int | None) -> dict[Any, int | None]:
    return {ip_address(f"10.99.0.{number}"): mtu for number, mtu in enumerate(found, 2)}


def test_a_route_gets_what_its_path_leaves_and_keeps_it_where_nothing_was_measured() -> None:
    assert route_mtus(seen(), mtus(1400, None)) == {ip_network("10.244.2.0/24"): 1350}


def test_a_direct_route_loses_nothing_to_encapsulation() -> None:
    assert set(route_mtus(seen(**ALWAYS), mtus(1400, 1500)).values()) == {1400, 1500}


def test_a_route_to_many_hosts_gets_the_smallest() -> None:
    view = seen(peers=hosts.BARE, backend={"subnet": "10.244.1.0/24"})
    assert route_mtus(view, mtus(1500, 1400)) == {ip_network("10.244.0.0/16"): 1350}


def test_stretched_networks_have_no_route_to_give_it_to() -> None:
    assert route_mtus(seen(**hosts.STRETCHED), mtus(1400, 1400)) == {}


def test_a_peers_own_address_is_that_of_its_link_or_of_its_bridge() -> None:
    def ends(**keys: Any) -> list[str]:
        return [str(end) for end in inner_ends(seen(**keys)).values()]

    assert ends() == ["10.244.2.0", "10.244.3.0"]
    assert ends(**ALWAYS) == ["10.244.2.1", "10.244.3.1"]
    assert ends(**hosts.STRETCHED) == ["192.168.100.16", "192.168.100.32"]
    assert ends(peers=hosts.BARE, backend={"subnet": "10.244.1.0/24"}) == []


def test_a_list_that_was_cut_short_counts_whole() -> None:
    view = seen(State.DRIFTED)._replace(differences=("a is missing", "b is stale", "and 12 more"))
    (text,) = page.drifts([NetworkOutcome(HERE, view)])
    assert "14 differences" in text
    (text,) = page.drifts([NetworkOutcome(HERE, view._replace(differences=("a is missing",)))])
    assert "1 difference," in text


def test_one_is_not_many() -> None:
    overlay = hosts.parsed(peers=hosts.PEERS[:2])
    host = hosts.local_host(overlay)
    view = View(overlay, host, peer_entries(overlay, host, {}), State.IN_SYNC)
    lines = list(page.status_lines([NetworkOutcome(HERE, view)]))
    assert "  entries   1 forwarding, 1 neighbour, 3 routes" in lines


# ------------------------------------------------------------------------------------- what is documented

DOCUMENTED = Path(__file__).parents[3] / "docs" / "cnictl.md"


def documented(command: str) -> set[str]:
    """Return the keys of a command's documents that the page lists: `key`, or `key.part` of its objects."""
    text = (
        DOCUMENTED.read_text().partition("With `--json` all commands print a list")[2].partition("## lab")[0]
    )
    keys: set[str] = set()
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `") and cells[1].strip("`") in (command, "all"):
            keys.update(re.findall(r"`([^`]+)`", cells[0]))
    return keys


def keys_of(value: Any, start: str = "") -> set[str]:
    if isinstance(value, list):
        return {key for item in value for key in keys_of(item, start)}
    if not isinstance(value, dict):
        return set()
    own = {f"{start}{key}" for key in value}
    return own | {key for name, item in value.items() for key in keys_of(item, f"{start}{name}.")}


@pytest.mark.parametrize("command", ["sync", "status", "peers", "probe"])
def test_each_key_is_documented_and_each_documented_key_is_there(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overview, "state_of", lambda network: {"network": network, "state": "following"})
    stored = Configured("blue", "/etc/cni/net.d/11.conf", {"backend": {"type": "etcd"}})
    view = seen()
    probed = probes(view, (0.1, 1400, 0.5), (None, None, None))
    probed = tuple(
        one._replace(findings=(Finding(Cause.SILENT, "x"), Finding(Cause.REFUSED, "y", False)))
        for one in probed
    )
    given = [
        NetworkOutcome(HERE, view, probed),
        NetworkOutcome(HERE, error=InvalidNetworkConfig("no underlay")),
        NetworkOutcome(stored, error=InvalidNetworkConfig("no underlay")),
    ]
    assert keys_of(getattr(documents, command)(given)) == documented(command)
