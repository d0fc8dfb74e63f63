import json
from pathlib import Path
from typing import Any

import pytest

from cni_plugins.cli.failure import Failed
from cni_plugins.cli.overlay import flannel_export, flannel_import
from cni_plugins.cli.overlay.flannel_import import Environment, Made, Target
from cni_plugins.registries.store import Unusable
from cni_plugins.upkeep.overlay_configs import Configured
from tests.memory_store import MemoryCluster

TARGET = Target("blue", "/etc/cni/blue.peers.json", None)


def store_of(backend: dict[str, Any], **hosts: dict[str, Any]) -> MemoryCluster:
    cluster = MemoryCluster()
    cluster.put("config", json.dumps({"Network": "10.5.0.0/16", "Backend": backend}).encode())
    for number, host in enumerate(hosts.values(), 1):
        attrs = {"PublicIP": f"192.0.2.{number}", "BackendType": backend["Type"], **host}
        cluster.put(f"subnets/10.5.{number}.0-24", json.dumps(attrs).encode())
    return cluster


def made(
    cluster: MemoryCluster, target: Target = TARGET, *, is_file: bool = False, network: str = ""
) -> Made:
    found = flannel_import.read(cluster.store())
    return flannel_import.make(found, Environment(network), target, is_file=is_file)


VXLAN_HOST = {"BackendData": {"VNI": 1, "VtepMAC": "8e:11:22:33:44:55"}}


def test_a_vxlan_network_becomes_one_conflist_that_the_plugin_accepts() -> None:
    cluster = store_of({"Type": "vxlan"}, a=VXLAN_HOST)
    conflist = made(cluster).conflist
    assert conflist["name"] == "blue"
    assert conflist["plugins"][0] == {
        "type": "vxlan",
        "vni": 1,
        "port": 8472,
        "network": "10.5.0.0/16",
        "subnetLen": 24,
        "ipMasq": True,
        "backend": {
            "type": "static",
            "peers": [
                {
                    "mac": "8e:11:22:33:44:55",
                    "node": "192.0.2.1",
                    "subnet": "10.5.1.0/24",
                    "vtep": "192.0.2.1",
                }
            ],
        },
    }
    conf = {"cniVersion": "1.0.0", "name": "blue", **conflist["plugins"][0]}
    [record] = flannel_export.records(Configured("blue", "blue.conflist", conf), ())
    assert record.mac == "8e:11:22:33:44:55"


def test_options_of_the_backend_have_their_equivalents() -> None:
    backend = {"Type": "vxlan", "VNI": 7, "Port": 4789, "MTU": 1400, "DirectRouting": True}
    plugin = made(store_of(backend)).conflist["plugins"][0]
    assert (plugin["vni"], plugin["port"], plugin["mtu"]) == (7, 4789, 1350)
    assert plugin["directRouting"] == "same-subnet"


def test_host_gw_becomes_plain_routes() -> None:
    cluster = store_of({"Type": "host-gw", "MTU": 1400}, a={}, b={"BackendType": "vxlan"})
    result = made(cluster, is_file=True)
    plugin = result.conflist["plugins"][0]
    assert plugin["directRouting"] == "always"
    assert plugin["mtu"] == 1400
    assert {"vni", "port"}.isdisjoint(plugin)
    assert plugin["backend"] == {"type": "static", "peersFile": "/etc/cni/blue.peers.json"}
    assert result.peers == {"peers": [{"node": "192.0.2.1", "subnet": "10.5.1.0/24", "vtep": "192.0.2.1"}]}
    assert result.left_out == ["subnets/10.5.2.0-24 is left out: 192.0.2.2 has backend 'vxlan', not host-gw"]


def test_what_has_no_equivalent_is_refused() -> None:
    with pytest.raises(Failed, match="Backend.Type is udp"):
        made(store_of({"Type": "udp"}))
    live = Target("blue", "", {"type": "etcd"})
    with pytest.raises(Failed, match="only vxlan can be shared"):
        made(store_of({"Type": "host-gw"}), live)
    with pytest.raises(Failed, match="this host's flannel has network 10.6.0.0/16, and etcd 10.5.0.0/16"):
        made(store_of({"Type": "vxlan"}), network="10.6.0.0/16")
    with pytest.raises(Unusable, match="no flannel network"):
        made(MemoryCluster())
    with pytest.raises(Failed, match="invalid network name"):
        flannel_import.require_name("a b")


def test_the_environment_of_flanneld_is_read(tmp_path: Path) -> None:
    file = tmp_path / "subnet.env"
    assert flannel_import.read_environment(file) == Environment()
    file.write_text("FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.1.1/24\nnonsense\n")
    assert flannel_import.read_environment(file) == Environment("10.5.0.0/16")
    file.write_bytes(b"\xff")
    with pytest.raises(Failed, match=r"subnet\.env"):
        flannel_import.read_environment(file)


def test_files_are_roots_and_never_overwritten(tmp_path: Path) -> None:
    result = made(store_of({"Type": "vxlan"}, a=VXLAN_HOST), is_file=True)
    lines = list(flannel_import.written(result, "blue", tmp_path))
    assert lines == [f"{tmp_path}/blue.conflist", f"{tmp_path}/blue.peers.json"]
    assert [(tmp_path / "blue.peers.json").stat().st_mode & 0o777] == [0o600]
    assert json.loads((tmp_path / "blue.peers.json").read_text()) == result.peers
    with pytest.raises(Failed, match="File exists"):
        list(flannel_import.written(result, "blue", tmp_path))


def test_each_host_of_the_list_is_exported_or_named() -> None:
    cluster = store_of({"Type": "vxlan"}, a=VXLAN_HOST)
    peers = [
        {"node": "one", "vtep": "192.0.2.11", "subnet": "10.5.11.0/24"},
        {"node": "two", "vtep": "192.0.2.12", "subnet": "10.5.1.0/24"},
    ]
    network = {"vni": 1, "port": 8472, "network": "10.5.0.0/16"}
    conf = {"type": "vxlan", **network, "backend": {"type": "static", "peers": peers}}
    configured = Configured("blue", "blue.conflist", conf)
    listed = flannel_export.records(configured, ())
    outcomes = list(flannel_export.export(cluster.store(), configured, listed, dry_run=False))
    assert [(one.text, one.is_fault) for one in outcomes] == [
        ("one (192.0.2.11): added subnets/10.5.11.0-24", False),
        ("two (192.0.2.12): node 192.0.2.1 (192.0.2.1) has subnet 10.5.1.0/24", True),
    ]
    assert [record.node for record in flannel_export.records(configured, ["two", "two"])] == ["two"]
    with pytest.raises(Failed, match="has no node three, only one, two"):
        flannel_export.records(configured, ["three"])
