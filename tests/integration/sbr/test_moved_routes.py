"""Routes keep all that they have when they move to a table, and when a refused ADD moves them back."""

import threading
import time
from typing import Any

import pytest

from cni_plugins.engine import registry
from cni_plugins.kernel.ip import rules as kernel_rules
from cni_plugins.sbr.plugin import PLUGIN
from tests.integration.sbr.conftest import MAINS, Network, routes, routing, rules, static
from tests.integration.sbr.test_sbr import refusing

FOUR = {
    "metrics": "10.10.0.0/16 via 10.2.0.1 dev net1 mtu lock 1300 advmss 1200 hoplimit 9 window 5000",
    "more metrics": "10.11.0.0/16 via 10.2.0.1 dev net1 initcwnd 20 initrwnd 30 quickack 1 features ecn",
    "times": "10.25.0.0/16 via 10.2.0.1 dev net1 rtt 300ms rttvar 200ms rto_min 40ms ssthresh 9 reordering 5",
    "congestion control": "10.12.0.0/16 via 10.2.0.1 dev net1 congctl reno",
    "onlink": "10.13.0.0/16 via 10.99.0.1 dev net1 onlink",
    "source": "10.14.0.0/16 via 10.2.0.1 dev net1 src 10.2.0.2",
    "metric": "10.15.0.0/16 via 10.2.0.1 dev net1 metric 4294967295",
    "type of service": "10.16.0.0/16 tos 0x10 via 10.2.0.1 dev net1",
    "scope link": "10.17.0.0/16 dev net1 scope link",
    "protocol": "10.18.0.0/16 via 10.2.0.1 dev net1 proto static",
    "several next hops": "10.19.0.0/16 proto static nexthop via 10.2.0.1 dev net1 weight 3 "
    "nexthop via 10.99.0.1 dev net1 weight 200 onlink",
    "IPv6 gateway": "10.20.0.0/16 via inet6 fe80::7 dev net1",
    "next hop object": "10.21.0.0/16 nhid 7",
    "group of next hop objects": "10.22.0.0/16 nhid 9",
    "a single address": "10.23.0.1 dev net1 scope link",
    "realm": "10.24.0.0/16 via 10.2.0.1 dev net1 realm 5",
    "multicast": "multicast 239.1.0.0/16 dev net1",
}
SIX = {
    "metrics": "2001:db8:10::/48 via fd00:2::1 dev net1 mtu 1300 advmss 1200 hoplimit 9",
    "link-local gateway": "2001:db8:11::/48 via fe80::7 dev net1",
    "source": "2001:db8:12::/48 via fd00:2::1 dev net1 src fd00:2::2",
    "metric": "2001:db8:13::/48 via fd00:2::1 dev net1 metric 5",
    "preference": "2001:db8:14::/48 via fd00:2::1 dev net1 pref high",
    "several next hops": "2001:db8:15::/48 nexthop via fd00:2::1 dev net1 "
    "nexthop via fd00:2::9 dev net1 weight 7",
    "onlink": "2001:db8:16::/48 via 2001:db8:99::1 dev net1 onlink",
    "neighbours": "2001:db8:17::/64 dev net1",
    "next hop object": "2001:db8:18::/48 nhid 8",
}
OBJECTS = (
    "nexthop add id 7 via 10.2.0.1 dev net1",
    "nexthop add id 8 via fd00:2::1 dev net1",
    "nexthop add id 71 via 10.2.0.77 dev net1",
    "nexthop add id 9 group 7,2/71,3",
)


def prepared(bed: Any, sandbox: Any, *commands: str) -> Network:
    """Return a network whose main plugin has been called, with routes that others added since."""
    network = Network(bed, MAINS["macvlan"], static("10.2.0.2/24", "fd00:2::2/64"))
    network.attach(sandbox)
    for command in (*OBJECTS, *commands):
        sandbox.run("ip", *command.split())
    return network


def described(sandbox: Any, family: str, table: str, start: str) -> list[str]:
    """Return a route as `ip` prints it, without protocol and table."""
    shown = sandbox.run("ip", "-oneline", family, "-details", "route", "show", "table", table)
    found = []
    for line in shown.splitlines():
        words = line.replace("\\", " ").split()
        for key in ("proto", "table"):
            if key in words:
                at = words.index(key)
                del words[at : at + 2]
        if start in words[:2]:
            found.append(" ".join(words))
    return found


def moves(bed: Any, sandbox: Any, family: str, route: str, table: str) -> None:
    network = prepared(bed, sandbox, f"{family} route add {route}")
    start = next(word for word in route.split() if word != "multicast")
    before = described(sandbox, family, "main", start)
    assert len(before) == 1
    assert network.call("ADD", network.sbr, sandbox)[0] == 0
    assert described(sandbox, family, "main", start) == []
    assert described(sandbox, family, table, start) == before
    assert network.call("DEL", network.sbr, sandbox) == (0, None)
    assert described(sandbox, family, table, start) == []


@pytest.mark.parametrize("route", FOUR.values(), ids=FOUR)
def test_an_ipv4_route_keeps_all_that_it_has(bed: Any, sandbox: Any, route: str) -> None:
    moves(bed, sandbox, "-4", route, "100")


@pytest.mark.parametrize("route", SIX.values(), ids=SIX)
def test_an_ipv6_route_keeps_all_that_it_has(bed: Any, sandbox: Any, route: str) -> None:
    moves(bed, sandbox, "-6", route, "101")


def test_a_refused_add_puts_every_kind_of_route_back(
    bed: Any, sandbox: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the same order, where several lead to one destination."""
    added = [f"-4 route add {route}" for route in FOUR.values()] + [
        f"-6 route add {route}" for route in SIX.values()
    ]
    appended = (f"-4 route append 10.10.0.0/16 via 10.2.0.{last} dev net1" for last in (9, 5, 7))
    network = prepared(bed, sandbox, *added, *appended)
    before = routing(sandbox)
    monkeypatch.setitem(registry.PLUGINS, "sbr", lambda: PLUGIN._replace(decide=refusing))
    code, error = network.call("ADD", network.sbr, sandbox)
    assert (code, error["msg"]) == (1, "link not0there not found")
    assert "could not be undone" not in error.get("details", "")
    assert routing(sandbox) == before


def test_routes_to_one_destination_keep_their_order(bed: Any, sandbox: Any) -> None:
    appended = (f"route append 10.10.0.0/16 via 10.2.0.{last} dev net1" for last in (9, 5, 7))
    network = prepared(bed, sandbox, *appended)
    assert network.call("ADD", network.sbr, sandbox)[0] == 0
    listed = [line.split()[2] for line in routes(sandbox, "-4", 100) if line.startswith("10.10.0.0/16")]
    assert listed == ["10.2.0.9", "10.2.0.5", "10.2.0.7"]


def test_an_ipv6_route_that_the_kernel_joined_with_another_links_is_separated(
    bed: Any, sandbox: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference leaves it in the main table, where it takes half of the container's connections."""
    network = Network(bed, MAINS["macvlan"], static("fd00:2::2/64", routes=[{"dst": "::/0"}]))
    network.attach(sandbox)
    before = routing(sandbox)
    default = sandbox.run("ip", "-6", "route", "show", "default")
    assert "dev eth0" in default
    assert "dev net1" in default
    with monkeypatch.context() as patched:
        patched.setitem(registry.PLUGINS, "sbr", lambda: PLUGIN._replace(decide=refusing))
        assert network.call("ADD", network.sbr, sandbox)[0] == 1
        assert routing(sandbox) == before
    assert network.call("ADD", network.sbr, sandbox)[0] == 0
    default = sandbox.run("ip", "-6", "route", "show", "default")
    assert "dev eth0" in default
    assert "dev net1" not in default
    assert "default via fd00:2::1 metric 1024 pref medium" in routes(sandbox, "-6", 100)
    assert network.check(sandbox) == [(0, None), (0, None)]
    again = ("default", "via", "fd00:2::1", "dev", "net1", "onlink")
    sandbox.run("ip", "-6", "route", "append", *again)
    code, error = network.call("CHECK", network.sbr, sandbox)
    assert (code, error["msg"]) == (1, "route ::/0 out of net1 in the sandbox is in the main table again")


def test_a_route_that_is_another_links_as_well_stays(bed: Any, sandbox: Any) -> None:
    shared = "10.10.0.0/16 nexthop via 10.2.0.1 dev net1 nexthop via 10.1.0.1 dev eth0"
    network = prepared(bed, sandbox, f"route add {shared}")
    before = sandbox.run("ip", "route", "show", "10.10.0.0/16")
    assert network.call("ADD", network.sbr, sandbox)[0] == 0
    assert sandbox.run("ip", "route", "show", "10.10.0.0/16") == before
    assert network.call("DEL", network.sbr, sandbox) == (0, None)
    assert sandbox.run("ip", "route", "show", "10.10.0.0/16") == before


def test_a_default_route_of_its_own_replaces_that_through_the_gateway(bed: Any, sandbox: Any) -> None:
    network = prepared(
        bed,
        sandbox,
        "route add default via 10.2.0.77 dev net1 metric 10",
        "-6 route append default via fd00:2::77 dev net1",
    )
    sandbox.run("ip", "-4", "route", "add", "default", "via", "10.2.0.78", "dev", "net1", "metric", "11")
    assert network.call("ADD", network.sbr, sandbox)[0] == 0
    four = [line for line in routes(sandbox, "-4", 100) if line.startswith("default")]
    assert four == [
        "default via 10.2.0.1",
        "default via 10.2.0.77 metric 10",
        "default via 10.2.0.78 metric 11",
    ]
    six = [line for line in routes(sandbox, "-6", 101) if line.startswith("default")]
    assert six == ["default via fd00:2::77 metric 1024 pref medium"]


def test_what_a_router_has_advertised_is_copied_and_stays(bed: Any, sandbox: Any) -> None:
    """The kernel would add it to the main table again; the copy has no lifetime that nobody renews."""
    network = prepared(
        bed,
        sandbox,
        "-6 route add default via fe80::7 dev net1 proto ra metric 512 expires 600",
        "-6 route add 2001:db8:10::/64 dev net1 expires 600",
    )
    assert network.call("ADD", network.sbr, sandbox)[0] == 0
    main = routes(sandbox, "-6", "main")
    assert any(line.startswith("default via fe80::7 proto ra") and "expires" in line for line in main)
    assert any(line.startswith("2001:db8:10::/64") and "expires" in line for line in main)
    copied = routes(sandbox, "-6", 101)
    assert "default via fe80::7 metric 512 pref medium" in copied
    assert "2001:db8:10::/64 metric 1024 pref medium" in copied
    assert network.check(sandbox) == [(0, None), (0, None)]


def test_routes_of_an_ip_version_without_address_stay(bed: Any, sandbox: Any) -> None:
    """The reference removes them, and nothing leads to a table with them."""
    network = Network(bed, MAINS["macvlan"], static("10.2.0.2/24"))
    network.attach(sandbox)
    sandbox.run("ip", "address", "add", "2001:db8::2/64", "dev", "net1", "nodad")
    before = routes(sandbox, "-6", "main")
    assert network.call("ADD", network.sbr, sandbox)[0] == 0
    assert routes(sandbox, "-6", "main") == before
    assert rules(sandbox) == {("10.2.0.2", 100)}


def test_two_adds_in_one_sandbox_at_once_choose_different_tables(
    bed: Any, sandbox: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each takes its time between the choice of its tables and their use."""
    networks = []
    for number in (2, 3, 4):
        addresses = [{"address": f"10.{number}.0.2/24", "gateway": f"10.{number}.0.1"}]
        ipam = {"type": "static", "addresses": addresses}
        main = {"type": "bridge", "bridge": f"br{number}", "isGateway": True}
        network = Network(bed, main, ipam, name=f"net{number}", ifname=f"net{number}")
        network.attach(sandbox)
        networks.append(network)
    genuine = kernel_rules.free_tables

    def slow(*arguments: Any) -> tuple[int, ...]:
        found = genuine(*arguments)
        time.sleep(0.2)
        return found

    monkeypatch.setattr(kernel_rules, "free_tables", slow)
    answers: list[tuple[int, Any]] = []
    threads = [
        threading.Thread(target=lambda it=network: answers.append(it.call("ADD", it.sbr, sandbox)))
        for network in networks
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [code for code, _ in answers] == [0, 0, 0]
    assert {table for _, table in rules(sandbox)} == {100, 101, 102}
    for network in networks:
        assert network.check(sandbox) == [(0, None), (0, None)]
