"""Hosts of flannel and ours in one network: real flanneld, etcd, and containers that reach each other."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from cni_plugins.registries.network_registry import Refused
from cni_plugins.vxlan.identity import vtep_mac
from tests.e2e.lab.flannel import CNICTL, ENDPOINT, FLANNELD, NETWORK, Fleet, pinging, raise_fleet, until
from tests.e2e.lab.overlay import Node, raise_bed
from tests.e2e.lab.plugin import Call, run
from tests.servers.etcd import PROGRAM as ETCD

pytestmark = [
    pytest.mark.needs("ip", "bridge", "nsenter", "ping", "iptables"),
    pytest.mark.skipif(not FLANNELD.exists(), reason=f"no {FLANNELD} (.ci/servers builds it where Go is)"),
    pytest.mark.skipif(not ETCD.exists(), reason=f"no {ETCD} (.ci/servers fetches it)"),
]

IMPORT = (*CNICTL, "overlay", "import", "flannel", "--etcd", ENDPOINT)
EXPORT = (
    *CNICTL,
    "overlay",
    "export",
    "flannel",
    "blue",
    "--etcd",
    ENDPOINT,
    "--conf",
    "/etc/cni/blue.conflist",
)


@pytest.fixture
def fleet(dist: Path, tmp_path: Path) -> Iterator[Fleet]:
    """Four hosts: flannel's are the first two, ours the others, none of which has joined."""
    with raise_bed(dist, (0, 0, 0, 0)) as bed, raise_fleet(bed, tmp_path) as made:
        made.start_flannel(1)
        made.start_flannel(2)
        yield made


def routes_of(node: Node) -> dict[str, str]:
    listed = json.loads(node.host.run("ip", "-j", "route", "show", "dev", "flannel.1").stdout)
    return {route["dst"]: route.get("gateway", "") for route in listed}


def entries_for(node: Node, vtep: str) -> list[str]:
    """Return the MAC addresses that flannel's host believes to be behind an underlay address."""
    lines = node.host.run("bridge", "fdb", "show", "dev", "flannel.1").stdout.splitlines()
    return [line.split()[0] for line in lines if f"dst {vtep} " in line]


def subnet_of(fleet: Fleet, number: int) -> str:
    return fleet.key_of(number)[0].replace("-", "/")


def test_containers_of_flannels_hosts_and_of_ours_reach_each_other(fleet: Fleet) -> None:
    fleet.start_ours(3)
    fleet.start_ours(4)
    for number in (1, 2, 3, 4):
        fleet.attach(number)
    fleet.require_reach()
    name, value = fleet.key_of(3)
    assert value["lease"] == 0
    assert value["BackendData"] == {"VNI": 1, "VtepMAC": vtep_mac_of(fleet, 3)}
    assert routes_of(fleet.bed.node(1))[name.replace("-", "/")]
    mtus = {
        json.loads(one.run("ip", "-j", "link", "show", "eth0").stdout)[0]["mtu"]
        for one in fleet.containers.values()
    }
    assert mtus == {1450}
    for number in (1, 3):
        node = fleet.bed.node(number)
        others = [one.addresses[0] for at, one in fleet.containers.items() if at != number]
        until(
            lambda node=node, others=others: all(
                node.host.run("ping", "-nc1", "-W2", to, check=False).returncode == 0 for to in others
            ),
            f"h{number} itself reaches containers",
        )
    assert fleet.containers[3].check().code == 0


def vtep_mac_of(fleet: Fleet, number: int) -> str:
    from ipaddress import ip_address

    return vtep_mac(ip_address(fleet.bed.node(number).vteps[4]))


def test_a_host_of_ours_joins_and_leaves_and_the_others_lose_nothing(fleet: Fleet) -> None:
    fleet.start_ours(3)
    fleet.attach(1)
    fleet.attach(3)
    fleet.require_reach()
    one = fleet.bed.node(1)
    with pinging(fleet.containers[1], fleet.containers[3].addresses[0]) as counts:
        fleet.start_ours(4)
        fleet.attach(4)
        fleet.require_reach()
        subnet = subnet_of(fleet, 4)
        assert subnet in routes_of(one)
        fleet.detach(4)
        fleet.stop_ours(4)
        fleet.release(4, by=3)
        until(lambda: subnet not in routes_of(one), "flannel's host has no route to it")
        until(lambda: not entries_for(one, fleet.bed.node(4).vteps[4]), "nor an entry")
    sent, lost = counts
    assert sent > 100
    assert lost == 0
    assert set(fleet.keys()) == {fleet.key_of(number)[0] for number in (1, 2, 3)}


@pytest.mark.parametrize("gone", [False, True])
def test_flanneld_restarts_with_another_mac(fleet: Fleet, gone: bool) -> None:
    fleet.start_ours(3)
    fleet.attach(1)
    fleet.attach(3)
    fleet.require_reach()
    name, before = fleet.key_of(1)
    fleet.stop_flannel(1, how=signal.SIGKILL)
    assert fleet.reaches(3, 1)
    if gone:
        fleet.bed.node(1).host.run("ip", "link", "delete", "flannel.1")
    fleet.start_flannel(1)
    until(lambda: fleet.key_of(1)[1]["BackendData"] != before["BackendData"] or not gone, "another MAC")
    assert fleet.key_of(1)[0] == name
    fleet.require_reach()
    assert fleet.containers[3].check().code == 0


def test_a_converted_host_keeps_its_subnet_for_good(fleet: Fleet) -> None:
    fleet.start_ours(3)
    for number in (1, 2, 3):
        fleet.attach(number)
    fleet.require_reach()
    name, before = fleet.key_of(1)
    assert before["lease"] != 0
    with pinging(fleet.containers[2], fleet.containers[3].addresses[0]) as counts:
        fleet.convert(1)
        fleet.start_ours(1)
        fleet.attach(1)
        fleet.require_reach()
        fleet.expire(before["lease"])
        after, value = fleet.key_of(1)
        assert (after, value["lease"]) == (name, 0)
        assert value["BackendData"]["VtepMAC"] == vtep_mac_of(fleet, 1)
        fleet.require_reach()
    assert counts[1] == 0
    fleet.detach(1)
    fleet.stop_ours(1)
    fleet.bed.node(1).host.run("rm", "-rf", "/etc/cni/net.d", "/run/cni-plugins")
    fleet.start_flannel(1)
    assert fleet.key_of(1)[0] == name
    fleet.attach(1)
    fleet.require_reach()


def test_a_host_on_which_flannel_still_is_does_not_join(fleet: Fleet) -> None:
    before = fleet.key_of(1)
    with pytest.raises(Refused, match="flannel is still here"):
        fleet.start_ours(1)
    fleet.stop_ours(1)
    assert fleet.key_of(1) == before


# ------------------------------------------------------------------------------------- static lists of peers


def test_an_imported_list_of_peers_works_and_its_export_outlives_flannels_lease(fleet: Fleet) -> None:
    fleet.attach(2)
    name, before = fleet.key_of(1)
    node = fleet.bed.node(1)
    importing = [*IMPORT, "--name", "blue", "--output", "/etc/cni"]
    imported = node.host.run(*importing)
    assert imported.stdout.split() == ["/etc/cni/blue.conflist", "/etc/cni/blue.peers.json"]
    conflist = json.loads(node.host.path("/etc/cni/blue.conflist").read_text())
    plugin = {"cniVersion": "1.1.0", "name": "blue", **conflist["plugins"][0]}
    assert (plugin["vni"], plugin["port"], plugin["network"]) == (1, 8472, NETWORK)
    again = node.host.run(*importing, check=False)
    assert (again.returncode, again.stderr) == (1, "cnictl: /etc/cni/blue.conflist: File exists\n")

    refused = run(node.host, Call("STATUS", plugin))
    assert "flannel.1" in json.dumps(refused.document)
    fleet.stop_flannel(1)
    node.host.run("ip", "link", "delete", "flannel.1")
    fleet.bed.node(1).host.netns("ovkefl1")
    added = run(node.host, Call("ADD", plugin, "ovkefl1", "/run/netns/ovkefl1")).ok().document
    address = added["ips"][0]["address"].split("/")[0]
    until(
        lambda: not fleet.containers[2].unreached([address]),
        "the converted host is reached with flannel's MAC",
    )

    words = [*EXPORT, node.vteps[4]]
    said = f"{node.vteps[4]} ({node.vteps[4]})"
    assert node.host.run(*words, "--dry-run").stdout == f"{said}: would be replaced subnets/{name}\n"
    assert fleet.key_of(1)[1] == before
    assert node.host.run(*words).stdout == f"{said}: replaced subnets/{name}\n"
    assert node.host.run(*words).stdout == f"{said}: is there\n"
    assert fleet.key_of(1)[1]["lease"] == 0
    fleet.expire(before["lease"])
    assert not fleet.containers[2].unreached([address])
    run(node.host, Call("DEL", plugin, "ovkefl1", "/run/netns/ovkefl1")).ok()


def test_a_converted_host_is_cut_off_when_its_lease_ends_and_export_brings_it_back(fleet: Fleet) -> None:
    node, other = fleet.bed.node(1), fleet.bed.node(2)
    name, value = fleet.key_of(1)
    subnet = name.replace("-", "/")
    node.host.run(*IMPORT, "--name", "blue", "--output", "/etc/cni")
    fleet.stop_flannel(1)
    assert subnet in routes_of(other)
    fleet.expire(value["lease"])
    until(lambda: subnet not in routes_of(other), "the route to the converted host is gone")
    assert f"added subnets/{name}" in node.host.run(*EXPORT).stdout
    until(lambda: subnet in routes_of(other), "the route is back")
    # The other host's key was replaced too: its flanneld renews it at once, and goes on.
    until(lambda: fleet.key_of(2)[1]["lease"] != 0, "flanneld has renewed its lease")
    assert fleet.daemons[2].poll() is None


def test_what_cannot_be_imported_or_exported_is_a_sentence(fleet: Fleet) -> None:
    node = fleet.bed.node(3)
    cases = [
        (["import", "flannel", "--etcd", "nonsense"], "endpoint 'nonsense' must have the form"),
        (["import", "flannel", "--etcd", "http://10.99.0.254:1"], "cnictl: etcd: "),
        (["import", "flannel", "--etcd", ENDPOINT, "--prefix", "/other"], "there is no flannel network"),
        (["import", "flannel", "--etcd", ENDPOINT, "--name", "a/b"], "invalid network name"),
        (["import", "flannel", "--etcd", ENDPOINT, "--ca-file", "/nowhere"], "caFile"),
        (["export", "flannel", "blue", "--etcd", ENDPOINT], "no overlay network"),
    ]
    for words, said in cases:
        done = node.host.run(*CNICTL, "overlay", *words, check=False)
        assert (done.returncode, done.stdout) == (1, ""), words
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr
    other = {
        "cniVersion": "1.0.0",
        "name": "blue",
        "type": "vxlan",
        "network": "10.6.0.0/16",
        "backend": {"type": "static", "peers": [{"vtep": node.vteps[4], "subnet": "10.6.1.0/24"}]},
    }
    node.host.write("/etc/cni/net.d/blue.conf", json.dumps(other))
    done = node.host.run(*CNICTL, "overlay", "export", "flannel", "blue", "--etcd", ENDPOINT, check=False)
    assert done.returncode == 1
    assert "network is 10.6.0.0/16, flannel's Network 10.5.0.0/16" in done.stderr
    assert "port is 4789, flannel's 8472" in done.stderr


def test_a_live_import_is_the_config_of_a_mixed_fleet(fleet: Fleet) -> None:
    node = fleet.bed.node(3)
    done = node.host.run(
        *CNICTL, "overlay", "import", "flannel", "--etcd", ENDPOINT, "--live", "--name", "blue"
    )
    assert done.stderr == ""
    [plugin, _] = json.loads(done.stdout)["plugins"]
    assert plugin["backend"] == {"type": "etcd", "layout": "flannel", "endpoints": [ENDPOINT]}
