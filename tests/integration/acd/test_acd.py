"""An address that answers on the wire is not given out: macvlan, a bridge with an uplink, an overlay."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import Bed, Namespace


class Lan:
    """The bed of a host whose eth0 leads to another machine with addresses of its own."""

    def __init__(self, bed: Bed) -> None:
        self.bed, self.host, self.far = bed, bed.host, bed.sandbox()
        for where in (self.host, self.far):
            where.skip_dad()
        self.host.run(
            "ip", "link", "add", "eth0", "type", "veth", "peer", "name", "far0", "netns", self.far.path
        )
        self.host.run("ip", "link", "set", "eth0", "up")
        self.far.run("ip", "link", "set", "far0", "up")

    def take(self, *addresses: str) -> None:
        """Give addresses to the other machine."""
        for address in addresses:
            nodad = ("nodad",) if ":" in address else ()
            self.far.run("ip", "address", "add", address, "dev", "far0", *nodad)

    @property
    def far_mac(self) -> str:
        link = self.far.link("far0")
        assert link is not None
        return str(link["address"])

    def macvlan(self, **keys: Any) -> dict[str, Any]:
        return {
            "cniVersion": "1.1.0",
            "name": "net1",
            "type": "macvlan",
            "master": "eth0",
            "acd": True,
            **keys,
        }

    def bridge(self, **keys: Any) -> dict[str, Any]:
        if self.host.link("br0") is None:
            self.host.run("ip", "link", "add", "br0", "type", "bridge")
            self.host.run("ip", "link", "set", "br0", "up")
            self.host.run("ip", "link", "set", "eth0", "master", "br0")
        return self.bed.conf(acd=True, **keys)

    def conf(self, kind: str, **keys: Any) -> dict[str, Any]:
        return self.macvlan(**keys) if kind == "macvlan" else self.bridge(**keys)


@pytest.fixture
def lan(bed: Bed) -> Lan:
    return Lan(bed)


KINDS = pytest.mark.parametrize("kind", ["macvlan", "bridge"])
SUBNETS = ("10.1.0.0/24", "fd00:1::/64")


def given(result: dict[str, Any]) -> list[str]:
    return [ip["address"].split("/")[0] for ip in result["ips"]]


@KINDS
@pytest.mark.parametrize(
    ("subnet", "others", "expected"),
    [
        (SUBNETS[0], ("10.1.0.2/24", "10.1.0.3/24"), "10.1.0.4"),
        (SUBNETS[1], ("fd00:1::2/64", "fd00:1::3/64"), "fd00:1::4"),
    ],
)
def test_the_next_address_that_nobody_has_is_given_out(
    lan: Lan, kind: str, subnet: str, others: tuple[str, ...], expected: str
) -> None:
    lan.take(*others)
    sandbox = lan.bed.sandbox()
    conf = lan.conf(kind, ipam=lan.bed.host_local(subnet))
    result = lan.bed.add(conf, sandbox)
    assert given(result) == [expected]
    assert lan.bed.leased() == {expected}
    assert {one.split("/")[0] for one in sandbox.addresses("eth0")} == {expected}
    assert all(sandbox.reaches(other.split("/")[0]) for other in others)
    assert lan.bed.call("CHECK", {**conf, "prevResult": result}, sandbox)[0] == 0
    assert lan.bed.call("DEL", {**conf, "prevResult": result}, sandbox)[0] == 0
    assert lan.bed.leased() == set()


@KINDS
def test_both_families_are_asked_about(lan: Lan, kind: str) -> None:
    lan.take("fd00:1::2/64", "10.1.0.3/24")
    result = lan.bed.add(lan.conf(kind, ipam=lan.bed.host_local(*SUBNETS)), lan.bed.sandbox())
    assert given(result) == ["10.1.0.4", "fd00:1::4"]


@KINDS
def test_an_address_that_was_asked_for_is_refused_with_who_has_it(lan: Lan, kind: str) -> None:
    lan.take("10.1.0.77/24")
    sandbox = lan.bed.sandbox()
    conf = lan.conf(kind, ipam=lan.bed.host_local(SUBNETS[0]), runtimeConfig={"ips": ["10.1.0.77/24"]})
    before = lan.bed.state()
    code, error = lan.bed.call("ADD", conf, sandbox)
    assert code == 1
    assert error["code"] == 102
    assert f"10.1.0.77 is in use: {lan.far_mac} answers" in error["msg"]
    assert lan.bed.leased() == set()
    assert sandbox.link("eth0") is None
    if kind == "bridge":
        assert {link["ifname"] for link in lan.bed.state()["links"]} == {
            link["ifname"] for link in before["links"]
        }


@KINDS
def test_an_address_of_a_container_beside_it_is_asked_about_as_well(lan: Lan, kind: str) -> None:
    """Two networks on one wire, whose leases do not know of each other."""
    first, second = lan.bed.sandbox(), lan.bed.sandbox()
    lan.bed.add(lan.conf(kind, ipam=lan.bed.host_local(SUBNETS[0])), first)
    other = {**lan.conf(kind, ipam=lan.bed.host_local(SUBNETS[0])), "name": "net2"}
    assert given(lan.bed.add(other, second, container="c2")) == ["10.1.0.3"]


def test_a_bridge_without_uplink_costs_no_probe(lan: Lan, monkeypatch: pytest.MonkeyPatch) -> None:
    from cni_plugins.kernel.ip import conflicts

    monkeypatch.setattr(conflicts, "answering", lambda *_: pytest.fail("asked"))
    conf = lan.bed.conf(acd=True, ipam=lan.bed.host_local(SUBNETS[0]))
    assert given(lan.bed.add(conf, lan.bed.sandbox())) == ["10.1.0.2"]
    assert given(lan.bed.add(conf, lan.bed.sandbox(), container="c2")) == ["10.1.0.3"]


def test_neighbours_are_told_of_an_address_after_it_was_asked_about(lan: Lan) -> None:
    lan.take("10.1.0.9/24")
    lan.far.run("sh", "-c", "echo 1 >/proc/sys/net/ipv4/conf/far0/arp_accept")
    sandbox = lan.bed.sandbox()
    lan.bed.add(lan.macvlan(ipam=lan.bed.host_local(SUBNETS[0])), sandbox)
    link = sandbox.link("eth0")
    assert link is not None
    entries = {entry["dst"]: entry.get("lladdr") for entry in lan.far.ip("neighbour", "show", "dev", "far0")}
    assert entries.get("10.1.0.2") == link["address"]


def _peers(path: Path) -> None:
    peers = [
        {"node": "near", "vtep": "10.99.0.1", "blocks": ["192.168.100.0/26"]},
        {"node": "far", "vtep": "10.99.0.2", "blocks": ["192.168.100.64/26"]},
    ]
    path.write_text(json.dumps({"peers": peers}))


@pytest.fixture
def overlay(lan: Lan, tmp_path: Path) -> tuple[Lan, dict[str, Any]]:
    """A stretched overlay over eth0; the other machine is a host of it, and has an address by hand."""
    lan.host.run("ip", "address", "add", "10.99.0.1/24", "dev", "eth0")
    lan.take("10.99.0.2/24")
    _peers(tmp_path / "peers.json")
    conf = {
        "cniVersion": "1.1.0",
        "name": "net1",
        "type": "vxlan",
        "mode": "l2",
        "bum": "head-end",
        "subnet": "192.168.100.0/24",
        "acd": True,
        "vni": 4200001,
        "backend": {"type": "static", "peersFile": str(tmp_path / "peers.json")},
        "ipam": {"type": "host-local", "dataDir": str(lan.bed.leases)},
    }
    vxlan = ("type", "vxlan", "id", "4200001", "dstport", "4789", "local", "10.99.0.2", "nolearning")
    lan.far.run("ip", "link", "add", "vx0", *vxlan)
    lan.far.run("bridge", "fdb", "append", "00:00:00:00:00:00", "dev", "vx0", "dst", "10.99.0.1")
    lan.far.run("ip", "link", "set", "vx0", "up", "mtu", "1450")
    return lan, conf


def test_an_address_that_answers_on_another_host_of_an_overlay_is_not_given_out(
    overlay: tuple[Lan, dict[str, Any]],
) -> None:
    lan, conf = overlay
    sandbox: Namespace = lan.bed.sandbox()
    lan.far.run("ip", "address", "add", "192.168.100.3/24", "dev", "vx0")
    result = lan.bed.add(conf, sandbox)
    assert given(result) == ["192.168.100.4"]
    assert lan.bed.call("CHECK", {**conf, "prevResult": result}, sandbox)[0] == 0
    assert lan.bed.call("DEL", {**conf, "prevResult": result}, sandbox)[0] == 0


def test_the_host_of_an_overlay_asks_for_ipv6_as_well(
    overlay: tuple[Lan, dict[str, Any]], tmp_path: Path
) -> None:
    lan, conf = overlay
    ranges = [[{"subnet": "fd00:100::/64", "rangeStart": "fd00:100::3"}]]
    blocks = [{"node": "near", "vtep": "10.99.0.1", "blocks": ["fd00:100::/120"]}]
    blocks += [{"node": "far", "vtep": "10.99.0.2", "blocks": ["fd00:100::100/120"]}]
    (tmp_path / "peers.json").write_text(json.dumps({"peers": blocks}))
    lan.far.run("ip", "address", "add", "fd00:100::3/64", "dev", "vx0", "nodad")
    conf = {**conf, "subnet": "fd00:100::/64", "ipam": {**conf["ipam"], "ranges": ranges}}
    assert given(lan.bed.add(conf, lan.bed.sandbox())) == ["fd00:100::4"]


def test_an_overlay_in_which_no_probe_reaches_another_host_is_refused(
    overlay: tuple[Lan, dict[str, Any]],
) -> None:
    lan, conf = overlay
    code, error = lan.bed.call("ADD", {**conf, "bum": "none"}, lan.bed.sandbox())
    assert (code, error["code"]) == (1, 7)
    assert "acd is true, but with bum none no probe reaches another host" in error["msg"]


def test_mode_source_hears_nobody_and_is_refused(lan: Lan) -> None:
    conf = lan.macvlan(mode="source", allowedMACs=["02:00:00:00:00:01"], ipam=lan.bed.host_local(SUBNETS[0]))
    code, error = lan.bed.call("ADD", conf, lan.bed.sandbox())
    assert (code, error["code"]) == (1, 7)
    assert "acd is of no use in mode source" in error["msg"]


@pytest.mark.parametrize("mode", ["bridge", "vepa", "private", "passthru"])
def test_every_other_mode_of_macvlan_hears_who_has_an_address(lan: Lan, mode: str) -> None:
    lan.take("10.1.0.2/24", "fd00:1::2/64")
    sandbox = lan.bed.sandbox()
    result = lan.bed.add(lan.macvlan(mode=mode, ipam=lan.bed.host_local(*SUBNETS)), sandbox)
    assert given(result) == ["10.1.0.3", "fd00:1::3"]
    assert all(sandbox.reaches(address) for address in ("10.1.0.2", "fd00:1::2"))


def test_a_refused_step_after_the_probe_leaves_nothing(lan: Lan, monkeypatch: pytest.MonkeyPatch) -> None:
    from cni_plugins.kernel import dispatch
    from cni_plugins.steps.ip import EnsureAddress

    carry_out = dispatch.carry_out

    def refuse(session: Any, step: Any) -> str:
        if isinstance(step, EnsureAddress):
            raise OSError(13, "Permission denied")
        return carry_out(session, step)

    monkeypatch.setattr(dispatch, "carry_out", refuse)
    sandbox = lan.bed.sandbox()
    conf = lan.macvlan(ipam=lan.bed.host_local(SUBNETS[0]))
    before = lan.bed.state()
    code, error = lan.bed.call("ADD", conf, sandbox)
    assert (code, error["code"]) == (1, 100)
    assert sandbox.link("eth0") is None
    assert lan.bed.state() == before
