"""What `cnictl overlay` shows of a network, for people and for programs."""

import json
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from cni_plugins.cli.overlay import document as documents
from cni_plugins.cli.overlay import text as page
from cni_plugins.cli.overlay.text import NetworkOutcome
from cni_plugins.cli.text import plain
from cni_plugins.contract.facts import NextHop
from cni_plugins.errors import InvalidNetworkConfig, KernelRefused
from cni_plugins.kernel.overlay.peers import OverlayRoute
from cni_plugins.upkeep.overlay import Probe, State, View, inner_ends, route_mtus
from cni_plugins.upkeep.overlay_configs import Configured
from cni_plugins.vxlan.peer_entries import peer_entries
from tests.unit.vxlan import hosts

HERE = Configured("net1", "/etc/cni/net.d/10.conf", {})
ALWAYS = {"directRouting": "always"}


def seen(state: State = State.IN_SYNC, *, routes: Any = None, **keys: Any) -> View:
    """Return what host h1 sees of three; to h2 and h3 there are ways without gateway."""
    overlay = hosts.parsed(**keys)
    host = hosts.local_host(overlay)
    routes_to = {peer.vtep: NextHop("eth0", None, host.local) for peer in host.others}
    view = View(overlay, host, peer_entries(overlay, host, routes_to), state)
    return view if routes is None else view._replace(routes={route.dst: route for route in routes})


def route(dst: str, mtu: int, *, measured: bool = False, link: str = "vx25") -> OverlayRoute:
    return OverlayRoute(ip_network(dst), link, None, mtu, measured)


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


def test_only_a_peer_that_gave_no_answer_at_all_is_silent() -> None:
    view = seen()
    heard = NetworkOutcome(HERE, view, probes(view, (None, None, 0.1), (0.1, 1500, None)))
    silent = NetworkOutcome(HERE, view, probes(view, (0.1, 1500, 0.1), (None, None, None)))
    assert list(page.unanswered([heard])) == []
    assert list(page.unanswered([silent])) == ["network net1: no answer from h3 (10.99.0.3)"]


def test_many_silent_peers_are_counted() -> None:
    peers = [{"node": f"h{n}", "vtep": f"10.99.0.{n}", "subnet": f"10.244.{n}.0/24"} for n in range(1, 21)]
    view = seen(peers=peers)
    [told] = page.unanswered([NetworkOutcome(HERE, view, probes(view, *[(None, None, None)] * 19))])
    assert told.startswith("network net1: no answer from h2 (10.99.0.2), h3 (10.99.0.3), ")
    assert told.endswith(", h11 (10.99.0.11), 9 more")


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
        }
    ]
    way = {"to": "10.244.2.0/24", "how": "tunnel", "link": "vx25", "mtu": 1350, "measured": True}
    [peers] = documents.peers([outcome])
    assert peers["peers"][:2] == [
        {"node": "h1", "vtep": "10.99.0.1", "addresses": ["10.244.1.0/24"], "own": True, "ways": []},
        {"node": "h2", "vtep": "10.99.0.2", "addresses": ["10.244.2.0/24"], "own": False, "ways": [way]},
    ]
    [probed] = documents.probe([outcome])
    answered = {"rtt_ms": 0.123, "path_mtu": 1400, "inside_ms": 500.0}
    assert probed["peers"][0] == {"node": "h2", "vtep": "10.99.0.2", **answered, "ways": [way]}
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
