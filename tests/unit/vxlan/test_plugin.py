"""What the plugin asks of the kernel, and what STATUS makes of the answers."""

import json
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from cni_plugins.contract.facts import Asks, NextHop
from cni_plugins.engine import registry
from cni_plugins.errors import CniError, LimitedConnectivity, NotAvailable
from cni_plugins.ownership import OVERLAY_ALIAS, network_tag
from cni_plugins.steps.forwarded import Flow
from cni_plugins.steps.overlay import DelProxied
from cni_plugins.vxlan.config import newest, parse
from cni_plugins.vxlan.plugin import PLUGIN, asks, status
from tests.unit.vxlan.hosts import BARE, GROUP, PEERS, STRETCHED, facts, link, parsed, request

UNDERLAY = link("eth0", "10.99.0.1/24")
ALIAS = f"{OVERLAY_ALIAS}{network_tag('net1')} net: net1"
H1, H2, H3 = map(ip_address, BARE)
NEAR = {peer: NextHop("eth0", None, H1) for peer in (H2, H3)}


def asked(command: str, **keys: Any) -> Asks:
    given = request(command, keys=keys)
    return asks(given, parse(given))


def test_the_registry_knows_it() -> None:
    assert registry.plugin("vxlan") is PLUGIN
    assert "vxlan" in registry.NAMES


def test_add_asks_for_its_names_and_its_place() -> None:
    host_end = request().attachment.host_end
    assert asked("ADD") == Asks(host=(host_end, "vx25", "vxbr25"), sandbox=("eth0",), addressed=True)
    assert asked("CHECK") == Asks(sandbox=("eth0",), addressed=True)


def test_ways_are_asked_for_where_they_matter() -> None:
    assert asked("ADD", directRouting="same-subnet").routes_to == (H1, H2, H3)
    far = ip_address("192.0.2.9")
    assert asked("ADD", underlay={"canReach": "192.0.2.9"}).routes_to == (far,)
    assert asked("CHECK", directRouting="always", underlay={"canReach": "192.0.2.9"}).routes_to == (
        H1,
        H2,
        H3,
        far,
    )


def test_the_default_route_is_asked_for_where_nobody_knows_the_hosts() -> None:
    assert asked("ADD", backend=GROUP).default_route
    assert not asked("ADD").default_route


def test_del_and_gc_ask_for_nothing_of_the_config() -> None:
    host_end = request().attachment.host_end
    for overlay in (None, parsed(directRouting="same-subnet")):
        assert asks(request("DEL"), overlay) == Asks(host=(host_end,), sandbox=("eth0",))
        assert asks(request("GC"), overlay) == Asks(owned=True)


def test_status_asks_what_could_be_in_the_way() -> None:
    expected = Asks(
        host=("vx25", "vxbr25"),
        kinds=("vxlan",),
        unsupported_kinds=("vxlan",),
        addressed=True,
        udp_port=4789,
        full="vxbr25",
        nf_tables=True,
        filters_frames=True,
        forwarded=(
            Flow("vxbr25", "vx25", (4,), "vxbr25"),
            Flow("vx25", "vxbr25", (4,), "vxbr25"),
        ),
    )
    assert asked("STATUS") == expected
    told = asked("STATUS", directRouting="always")
    assert (told.host, told.unsupported_kinds, told.udp_port) == (("vxbr25",), (), 0)
    assert told.forwarded == (Flow("vxbr25", "", (4,), "vxbr25"),)
    assert not asked("STATUS", sourceGuard=False).filters_frames


@pytest.mark.parametrize(
    ("more", "error"),
    [({"filters_frames": False}, NotAvailable), ({"dropped_by": ("chain x drops",)}, LimitedConnectivity)],
)
def test_frames_that_cannot_be_checked_and_packets_that_are_dropped_are_told(
    more: dict[str, Any], error: type[Exception]
) -> None:
    asked_for = request("STATUS")
    with pytest.raises(error):
        status(asked_for, parse(asked_for), facts(UNDERLAY, **more))


# ------------------------------------------------------------------------------------------------- STATUS


def there(*links: Any, **more: Any) -> Any:
    return facts(UNDERLAY, *links, **more)


def test_a_host_that_is_ready() -> None:
    own = {
        "vx25": link("vx25", kind="vxlan", alias=ALIAS),
        "vxbr25": link("vxbr25", kind="bridge", alias=ALIAS),
    }
    for keys in ({}, STRETCHED):
        status(request("STATUS"), parsed(**keys), there())
        status(request("STATUS"), parsed(**keys), there(host=own))
    same = link("vx25", kind="vxlan", vxlan=(77, 4789), alias=ALIAS)
    other_port = link("x", kind="vxlan", vxlan=(77, 8472))
    other_vni = link("y", kind="vxlan", vxlan=(78, 4789))
    status(request("STATUS"), parsed(), there(of_kinds=(same, other_port, other_vni)))
    status(request("STATUS"), parsed(directRouting="always"), there(routes_to=NEAR, udp_port_taken=False))


NOT_READY: list[tuple[dict[str, Any], Any, str]] = [
    ({}, there(nf_tables=False), "this kernel has no nf_tables"),
    ({}, there(unsupported_kinds=("vxlan",)), "this kernel has no VXLAN links"),
    (
        {},
        facts(link("eth0", "10.98.0.1/24")),
        "no underlay: this host has no address that is the VTEP of a peer",
    ),
    ({"backend": {"self": "h9"}}, there(), "there is no peer h9"),
    ({"mtu": 1500}, there(), "invalid MTU 1500: eth0 leaves 1450"),
    ({}, there(link("docker0", "10.244.9.1/24")), "link docker0 has 10.244.9.1/24"),
    ({}, there(link("vxbr25", "10.244.9.1/24", alias=ALIAS)), "link vxbr25 has 10.244.9.1/24"),
    ({"directRouting": "always"}, there(routes_to={H2: NEAR[H2]}), "peer h3 (10.99.0.3) is not reachable"),
    ({}, there(udp_port_taken=True), "UDP port 4789 is in use by another socket"),
    (
        {},
        there(of_kinds=(link("flannel.77", kind="vxlan", vxlan=(77, 4789)),)),
        "VNI 77 with port 4789 is in use by link flannel.77",
    ),
    ({}, there(host={"vx25": link("vx25", kind="veth")}), '"vx25" already exists but is not the vxlan of'),
    ({}, there(host={"vx25": link("vx25", kind="vxlan")}), '"vx25" already exists but is not the vxlan of'),
    (
        {},
        there(host={"vxbr25": link("vxbr25", kind="bridge", alias=ALIAS.replace("net1", "net2"))})._replace(
            host={"vxbr25": link("vxbr25", kind="bridge", alias=f"{OVERLAY_ALIAS}{network_tag('net2')} x")}
        ),
        '"vxbr25" already exists but is not the bridge of',
    ),
]


@pytest.mark.parametrize(("keys", "known", "message"), NOT_READY)
def test_what_keeps_an_add_from_succeeding(keys: dict[str, Any], known: Any, message: str) -> None:
    with pytest.raises(NotAvailable) as caught:
        status(request("STATUS"), parsed(**keys), known)
    assert message in caught.value.msg
    assert caught.value.details
    assert caught.value.code == 50


def test_an_underlay_that_is_down() -> None:
    with pytest.raises(LimitedConnectivity, match="eth0 is down"):
        status(request("STATUS"), parsed(), facts(UNDERLAY._replace(up=False)))


def test_status_says_what_is_wrong_in_words() -> None:
    with pytest.raises(CniError) as caught:
        status(request("STATUS"), parsed(), facts(link("eth0", "10.98.0.1/24")))
    assert "eth0 has 10.98.0.1/24" in caught.value.details


def test_del_reads_no_peers() -> None:
    """It needs none, and works the same without."""
    missing = {"peersFile": "/nowhere/peers.json"}
    given = request("DEL", keys={"backend": missing})
    assert parse(given).roster.records is None
    asking = request("DEL", keys={"backend": {**missing, "subnet": "fd00:1::/64"}, "network": "fd00::/16"})
    told = link("eth0", "fd00:1::2/64")
    for asked_of, stops in ((given, False), (asking, True)):
        plan = PLUGIN.delete(asked_of, parse(asked_of), facts()._replace(sandbox={"eth0": told}))
        assert any(isinstance(step, DelProxied) for step in plan) is stops
    with pytest.raises(CniError):
        parse(request("ADD", keys={"backend": missing}))


def test_the_newest_list_is_the_same_unless_its_file_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "peers.json"
    path.write_text(json.dumps(PEERS))
    given = request(keys={"backend": {"peersFile": str(path)}})
    overlay = parse(given)
    assert newest(given, overlay) is overlay
    path.write_text(json.dumps(PEERS[:2]))
    assert [str(record.vtep) for record in newest(given, overlay).roster.records or ()] == BARE[:2]
    path.write_text("[]")
    with pytest.raises(CniError):
        newest(given, overlay)
    in_config = parse(request())
    assert newest(request(), in_config) is in_config
