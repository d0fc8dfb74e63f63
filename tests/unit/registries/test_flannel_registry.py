import json
from collections.abc import Callable

import pytest

from cni_plugins.contract.model import load
from cni_plugins.contract.registry_config import RegistrySection
from cni_plugins.registries import flannel_registry
from cni_plugins.registries.flannel_registry import FlannelRegistry, Mismatch
from cni_plugins.registries.layouts import registry_of
from cni_plugins.registries.network_registry import (
    AllTaken,
    Member,
    NetworkRegistry,
    Part,
    Refused,
    TakenByOther,
    records_of,
)
from cni_plugins.registries.store import Unusable
from tests.memory_store import MemoryCluster

ME, OTHER = Member("h1", "a" * 32), Member("h2", "b" * 32)
NETWORK = {"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}
SMALL = {"Network": "10.5.0.0/22", "SubnetLen": 24, "SubnetMin": "10.5.1.0", "SubnetMax": "10.5.2.0"}
CONF = {
    "name": "blue",
    "type": "vxlan",
    "network": "10.5.0.0/16",
    "vni": 1,
    "port": 8472,
    "backend": {"type": "etcd", "endpoints": ["http://192.0.2.9:2379"], "layout": "flannel"},
}


@pytest.fixture
def cluster() -> MemoryCluster:
    made = MemoryCluster()
    made.put("config", json.dumps(NETWORK).encode())
    return made


def registry(cluster: MemoryCluster, conf: dict[str, object] | None = None) -> FlannelRegistry:
    return FlannelRegistry(cluster.store(), "blue", conf)


def flannel_host(cluster: MemoryCluster, subnet: str, address: str, **more: object) -> None:
    attrs = {
        "PublicIP": address,
        "PublicIPv6": None,
        "BackendType": "vxlan",
        "BackendData": {"VNI": 1, "VtepMAC": "8e:11:22:33:44:55"},
    }
    cluster.put(f"subnets/{subnet}", json.dumps({**attrs, **more}).encode())


def record(vtep: str = "192.0.2.1", subnet: str = "10.5.7.0/24", **more: object) -> dict[str, object]:
    return {"node": "h1", "vtep": vtep, "subnet": subnet, **more}


def parsed(found: dict[str, bytes]) -> dict[str, dict[str, object]]:
    return {node: json.loads(text) for node, text in found.items()}


def value(cluster: MemoryCluster, subnet: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(cluster.items[f"subnets/{subnet}"].value)
    return found


# ------------------------------------------------------------------------------------------------- reading


def test_flannel_hosts_are_peers_with_the_mac_they_announce(cluster: MemoryCluster) -> None:
    flannel_host(cluster, "10.5.52.0-24", "192.0.2.2")
    flannel_host(cluster, "10.5.53.0-24&fd00:0:0:35::-64", "192.0.2.3")
    assert parsed(registry(cluster).records()) == {
        "192.0.2.2": {
            "node": "192.0.2.2",
            "vtep": "192.0.2.2",
            "subnet": "10.5.52.0/24",
            "mac": "8e:11:22:33:44:55",
        },
        "192.0.2.3": {
            "node": "192.0.2.3",
            "vtep": "192.0.2.3",
            "subnet": "10.5.53.0/24",
            "mac": "8e:11:22:33:44:55",
        },
    }


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"BackendType": "wireguard"}, "192.0.2.2 has backend 'wireguard', not vxlan"),
        ({"BackendData": {"VNI": 7, "VtepMAC": "8e:11:22:33:44:55"}}, "192.0.2.2 has VNI 7, not 1"),
        ({"BackendData": {"VNI": 1}}, "192.0.2.2 has no VtepMAC"),
        ({"BackendData": {"VNI": 1, "VtepMAC": "nonsense"}}, "invalid MAC address 'nonsense'"),
        ({"BackendData": {"VNI": "1"}}, "VNI: expected a whole number, got '1'"),
        ({"PublicIP": "192.0.2.256"}, "Octet 256"),
        ({"PublicIP": None}, "PublicIP is missing"),
        ({"CniPlugins": []}, "CniPlugins: expected an object, got []"),
    ],
)
def test_what_is_no_peer_is_left_out_with_a_reason(
    cluster: MemoryCluster, more: dict[str, object], why: str
) -> None:
    flannel_host(cluster, "10.5.52.0-24", "192.0.2.2", **more)
    flannel_host(cluster, "10.5.53.0-24", "192.0.2.3")
    blue = registry(cluster)
    assert list(blue.records()) == ["192.0.2.3"]
    assert why in blue.ignored["10.5.52.0-24"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("10.5.52.0-24", b"{"),
        ("10.5.52.0-24", b"[1]"),
        ("10.5.52.0-24", b"\xff"),
        ("10.5.52.0-24", b"[" * 100_000),
        ("10.5.52.1-24", b"{}"),
        ("10.5.52.0-64", b"{}"),
        ("nonsense", b"{}"),
    ],
)
def test_garbage_is_left_out_with_a_reason(cluster: MemoryCluster, name: str, text: bytes) -> None:
    cluster.put(f"subnets/{name}", text)
    flannel_host(cluster, "10.5.53.0-24", "192.0.2.3")
    blue = registry(cluster)
    assert list(blue.records()) == ["192.0.2.3"]
    assert list(blue.ignored) == [name]
    assert blue.ignored[name]


def test_a_name_that_is_anothers_address_hides_no_host(cluster: MemoryCluster) -> None:
    blue = registry(cluster)
    flannel_host(cluster, "10.5.53.0-24", "192.0.2.3")
    blue.join(Member("192.0.2.3", "a" * 32), record(node="192.0.2.3"))
    vteps = {node: one["vtep"] for node, one in parsed(blue.records()).items()}
    assert vteps == {"192.0.2.3": "192.0.2.1", "flannel-192.0.2.3": "192.0.2.3"}


def test_the_second_subnet_of_one_address_is_left_out(cluster: MemoryCluster) -> None:
    flannel_host(cluster, "10.5.52.0-24", "192.0.2.2")
    flannel_host(cluster, "10.5.53.0-24", "192.0.2.2")
    blue = registry(cluster)
    assert parsed(blue.records())["192.0.2.2"]["subnet"] == "10.5.52.0/24"
    assert blue.ignored == {"10.5.53.0-24": "192.0.2.2 has subnet 10.5.52.0-24, too"}


def test_the_feed_tells_changes_of_values_under_the_same_key(cluster: MemoryCluster) -> None:
    flannel_host(cluster, "10.5.52.0-24", "192.0.2.2")
    feed = registry(cluster).follow()
    first = feed.next(1)
    assert first is not None
    assert list(records_of(first)) == ["192.0.2.2"]
    assert feed.next(0.05) is None
    flannel_host(cluster, "10.5.52.0-24", "192.0.2.2", BackendData={"VNI": 1, "VtepMAC": "8e:11:22:33:44:66"})
    second = feed.next(1)
    assert second is not None
    assert set(first).isdisjoint(second)
    assert parsed(records_of(second))["192.0.2.2"]["mac"] == "8e:11:22:33:44:66"
    feed.close()


# ----------------------------------------------------------------------------------------------- publishing


def test_a_host_of_ours_is_one_that_flanneld_can_read(cluster: MemoryCluster) -> None:
    blue = registry(cluster)
    blue.join(ME, record())
    assert value(cluster, "10.5.7.0-24") == {
        "PublicIP": "192.0.2.1",
        "PublicIPv6": None,
        "BackendType": "vxlan",
        "BackendData": {"VNI": 1, "VtepMAC": "02:fe:c0:00:02:01"},
        "CniPlugins": {"node": "h1", "host": ME.host},
    }
    assert not cluster.expiry
    assert parsed(blue.records()) == {
        "h1": {"node": "h1", "vtep": "192.0.2.1", "subnet": "10.5.7.0/24", "host": ME.host}
    }
    before = cluster.commits
    blue.join(ME, record())
    assert cluster.commits == before


def test_a_host_that_moves_leaves_nothing_behind(cluster: MemoryCluster) -> None:
    blue = registry(cluster)
    blue.join(ME, record())
    blue.join(ME, record("192.0.2.9"))
    assert [one["vtep"] for one in parsed(blue.records()).values()] == ["192.0.2.9"]
    blue.join(ME, record("192.0.2.9", "10.5.8.0/24"))
    assert [key for key in cluster.items if key.startswith("subnets/")] == ["subnets/10.5.8.0-24"]


def test_a_subnet_or_address_of_another_is_refused_with_its_name(cluster: MemoryCluster) -> None:
    flannel_host(cluster, "10.5.52.0-24", "192.0.2.2")
    blue = registry(cluster)
    with pytest.raises(TakenByOther, match=r"node 192.0.2.2 \(192.0.2.2\) has subnet 10.5.52.0/24"):
        blue.join(ME, record(subnet="10.5.52.0/24"))
    blue.join(OTHER, {**record("192.0.2.3"), "node": "h2"})
    with pytest.raises(TakenByOther, match="node h2"):
        blue.join(ME, record("192.0.2.4"))
    with pytest.raises(TakenByOther, match="h2 has underlay address 192.0.2.3"):
        blue.join(ME, record("192.0.2.3", "10.5.9.0/24"))
    with pytest.raises(TakenByOther, match="another host is node h2"):
        blue.join(Member("h2", "c" * 32), record("192.0.2.5", "10.5.9.0/24"))
    assert sorted(parsed(blue.records())) == ["192.0.2.2", "h2"]


@pytest.mark.parametrize(
    "bad",
    [
        {"subnet": "10.5.7.0/24", "vtep": "fd00::1"},
        {"vtep": "192.0.2.1"},
        {"subnet": ["10.5.7.0/24", "fd00::/64"]},
    ],
)
def test_what_flannel_cannot_express_is_refused(cluster: MemoryCluster, bad: dict[str, object]) -> None:
    with pytest.raises(Mismatch, match=r"one subnet of IPv4"):
        registry(cluster).join(ME, {"node": "h1", "vtep": "192.0.2.1", **bad})


# ------------------------------------------------------------------------------------------------- claiming


def test_claims_are_of_what_flannel_allows_and_nobody_has(cluster: MemoryCluster) -> None:
    cluster.put("config", json.dumps({**SMALL, "Backend": {"Type": "vxlan"}}).encode())
    flannel_host(cluster, "10.5.1.0-24", "192.0.2.2")
    blue = registry(cluster)
    assert blue.claim(ME, ["10.5.0.0/24", "10.5.1.0/24", "10.5.2.0/25", "fd00::/64"]) == ["10.5.2.0/24"]
    assert blue.claim(ME, []) == ["10.5.2.0/24"]
    with pytest.raises(AllTaken, match="node h2 needs 1, and has none"):
        blue.claim(OTHER, ["10.5.1.0/24"])
    assert value(cluster, "10.5.1.0-24")["PublicIP"] == "192.0.2.2"


def test_the_preferred_subnet_is_taken_and_is_no_peer_before_the_host_joins(cluster: MemoryCluster) -> None:
    blue = registry(cluster)
    assert blue.claim(ME, ["10.5.9.0/24"]) == ["10.5.9.0/24"]
    assert value(cluster, "10.5.9.0-24")["BackendType"] == "cni-plugins"
    assert blue.records() == {}
    assert "has not joined yet" in blue.ignored["10.5.9.0-24"]
    assert blue.parts() == [Part("10.5.9.0/24", ME)]
    blue.join(ME, record(subnet="10.5.9.0/24"))
    assert list(blue.records()) == ["h1"]


@pytest.mark.parametrize("name", ["10.5.9.0-24", "10.5.9.0-25", "10.5.9.0-24&fd00:0:0:9::-64", "10.5.8.0-23"])
@pytest.mark.parametrize("text", [b"nonsense", b'{"PublicIP": "192.0.2.2", "BackendType": "wireguard"}'])
def test_a_subnet_that_is_somebodys_is_not_claimed(cluster: MemoryCluster, name: str, text: bytes) -> None:
    cluster.put(f"subnets/{name}", text)
    blue = registry(cluster)
    assert blue.claim(ME, ["10.5.9.0/24", "10.5.12.0/24"]) == ["10.5.12.0/24"]
    owner = blue.own(ME, "10.5.9.0/24")
    assert owner is not None
    assert owner.host == ""
    assert cluster.items[f"subnets/{name}"].value == text


def test_what_flannel_has_no_place_for_is_kept_for_hosts_of_ours(cluster: MemoryCluster) -> None:
    blue = registry(cluster)
    whole = record(mtu=9000, epoch="e1", host=ME.host, v=1, mac="8e:00:00:00:00:01")
    blue.join(ME, whole)
    assert parsed(blue.records())["h1"] == {key: item for key, item in whole.items() if key != "v"}
    blue.join(OTHER, {**record("192.0.2.3", "10.5.8.0/24"), "node": "h2", "mtu": 1400})
    cluster.put("subnets/10.5.8.0-24", cluster.items["subnets/10.5.8.0-24"].value.replace(b"1400", b'"1400"'))
    assert list(blue.records()) == ["h1"]
    assert blue.ignored == {"10.5.8.0-24": "CniPlugins.mtu: expected a whole number, got '1400'"}


def test_a_length_that_is_not_the_usual_one_must_be_said(cluster: MemoryCluster) -> None:
    cluster.put("config", json.dumps({**NETWORK, "SubnetLen": 26}).encode())
    with pytest.raises(Mismatch, match="subnetLen is missing, flannel's 26"):
        registry(cluster, conf=CONF).follow()
    registry(cluster, conf={**CONF, "subnetLen": 26}).follow().close()


def test_many_hosts_claim_different_subnets(cluster: MemoryCluster) -> None:
    blue = registry(cluster)
    claimed = [blue.claim(Member(f"n{number}", str(number)), [])[0] for number in range(40)]
    assert len(set(claimed)) == 40
    first = blue.claim(Member("n3", "3"), [])
    assert first == [claimed[3]]


def test_disown_and_release_give_back(cluster: MemoryCluster) -> None:
    flannel_host(cluster, "10.5.52.0-24", "192.0.2.2")
    blue = registry(cluster)
    blue.claim(ME, ["10.5.9.0/24"])
    blue.disown(OTHER, "10.5.9.0/24")
    assert "subnets/10.5.9.0-24" in cluster.items
    blue.disown(ME, "10.5.9.0/24")
    assert "subnets/10.5.9.0-24" not in cluster.items
    blue.join(ME, record())
    blue.show_life(ME, 60)
    assert blue.live() == {"h1", "192.0.2.2"}
    assert blue.release("h1")
    assert not blue.release("h1")
    assert blue.release("192.0.2.2")
    assert [key for key in cluster.items if not key.endswith("/canary")] == ["config"]
    blue.join(Member("h1", "c" * 32), record())


# ---------------------------------------------------------------------------------- from flannel to ours


def test_a_converted_host_keeps_its_subnet_and_other_hosts_see_no_gap(cluster: MemoryCluster) -> None:
    flannel_host(cluster, "10.5.52.0-24", "192.0.2.1")
    flannel_host(cluster, "10.5.53.0-24", "192.0.2.2")
    blue = registry(cluster)
    blue.adopt(ME, "192.0.2.1")
    assert blue.claim(ME, ["10.5.9.0/24"]) == ["10.5.52.0/24"]
    taken = value(cluster, "10.5.52.0-24")
    assert taken["BackendData"] == {"VNI": 1, "VtepMAC": "8e:11:22:33:44:55"}
    assert taken["CniPlugins"] == {"node": "h1", "host": ME.host}
    blue.join(ME, record(subnet="10.5.52.0/24"))
    assert value(cluster, "10.5.52.0-24")["BackendData"] == {"VNI": 1, "VtepMAC": "02:fe:c0:00:02:01"}
    assert blue.own(ME, "10.5.53.0/24") == Member("192.0.2.2", "")


def test_a_host_on_which_flannel_still_runs_is_not_converted(
    cluster: MemoryCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    flannel_host(cluster, "10.5.52.0-24", "192.0.2.1")
    monkeypatch.setattr(flannel_registry, "_has_link", lambda name: name == "flannel.1")
    blue = registry(cluster)
    before = dict(cluster.items)
    attempts: list[Callable[[], object]] = [
        lambda: blue.adopt(ME, "192.0.2.1"),
        lambda: blue.join(ME, record(subnet="10.5.52.0/24")),
        lambda: blue.join(ME, record()),
    ]
    for attempt in attempts:
        with pytest.raises(Refused, match="stop flanneld, and delete link flannel.1"):
            attempt()
    assert cluster.items == before


def test_a_host_that_went_back_to_flannel_is_flannels(cluster: MemoryCluster) -> None:
    blue = registry(cluster)
    blue.join(ME, record())
    flannel_host(cluster, "10.5.7.0-24", "192.0.2.1")
    assert parsed(blue.records())["192.0.2.1"]["mac"] == "8e:11:22:33:44:55"


def test_static_peers_are_exported_without_taking_anything(cluster: MemoryCluster) -> None:
    flannel_host(cluster, "10.5.52.0-24", "192.0.2.2")
    blue = registry(cluster)
    before = dict(cluster.items)
    assert blue.export(record(), dry_run=True) == "added subnets/10.5.7.0-24"
    assert cluster.items == before
    assert blue.export(record()) == "added subnets/10.5.7.0-24"
    assert blue.export(record()) == ""
    assert blue.export(record(mac="8e:00:00:00:00:01")) == "replaced subnets/10.5.7.0-24"
    assert parsed(blue.records())["h1"]["mac"] == "8e:00:00:00:00:01"
    with pytest.raises(TakenByOther, match=r"192.0.2.2 .* has subnet 10.5.52.0/24"):
        blue.export(record(subnet="10.5.52.0/24"))
    with pytest.raises(Mismatch, match="none of flannel's 10.5.0.0/16"):
        blue.export(record(subnet="10.6.0.0/24"))
    blue.adopt(ME, "192.0.2.1")
    assert blue.claim(ME, []) == ["10.5.7.0/24"]
    assert blue.export(record()) == ""


# ------------------------------------------------------------------------------------------------ the config


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"{", "cannot be used"),
        (b"{}", "cannot be used"),
        (b'{"Network": "10.5.0.0/16", "EnableIPv4": false}', "EnableIPv4 is false"),
        (b'{"Network": "fd00::/48"}', "not of IPv4"),
        (b'{"Network": "10.5.0.0/16", "SubnetLen": 31}', "SubnetLen 31"),
        (b'{"Network": "10.5.0.0/16", "SubnetMin": "10.6.0.0"}', "SubnetMin 10.6.0.0"),
        (b'{"Network": "10.5.0.0/16", "Backend": {"VNI": 16777216}}', "VNI 16777216"),
        (b'{"Network": "10.5.0.0/16", "Backend": []}', "Backend: expected an object"),
    ],
)
def test_a_config_of_flannel_that_is_none_is_said(cluster: MemoryCluster, text: bytes, why: str) -> None:
    cluster.put("config", text)
    with pytest.raises(Unusable, match=why):
        registry(cluster).records()


def test_a_store_without_flannel_is_said_and_never_confirmed(cluster: MemoryCluster) -> None:
    blue = registry(cluster)
    assert not blue.is_confirmed()
    blue.join(ME, record())
    assert blue.is_confirmed()
    cluster.items.pop("config")
    assert not blue.is_confirmed()
    with pytest.raises(Unusable, match="no flannel network"):
        blue.follow()


def test_all_that_differs_from_flannels_config_is_in_one_error(cluster: MemoryCluster) -> None:
    wrong = {**CONF, "network": "10.6.0.0/16", "vni": None, "port": None, "subnetLen": 25}
    blue = registry(cluster, conf=wrong)
    said = (
        r"network is 10.6.0.0/16, flannel's Network 10.5.0.0/16; vni is \d+, flannel's 1; "
        r"port is 4789, flannel's 8472; subnetLen is 25, flannel's 24"
    )
    attempts: list[Callable[[], object]] = [
        blue.follow,
        lambda: blue.claim(ME, []),
        lambda: blue.join(ME, record()),
    ]
    for attempt in attempts:
        with pytest.raises(Mismatch, match=said):
            attempt()
    cluster.put("config", json.dumps({**NETWORK, "Backend": {"Type": "udp"}}).encode())
    with pytest.raises(Mismatch, match="Backend.Type is udp, not vxlan"):
        registry(cluster, conf=CONF).follow()
    assert not [key for key in cluster.items if key != "config"]


def test_a_config_like_flannels_is_accepted(cluster: MemoryCluster) -> None:
    registry(cluster, conf=CONF).join(ME, record())
    assert list(registry(cluster, conf=CONF).records()) == ["h1"]


# ------------------------------------------------------------------------------------------------ the layout


def section(**more: object) -> RegistrySection:
    return load(RegistrySection, {"type": "etcd", "endpoints": ["http://192.0.2.9:2379"], **more})


def test_the_layout_decides_what_is_opened_and_where(cluster: MemoryCluster) -> None:
    assert type(registry_of(cluster.store(), section(), "blue")) is NetworkRegistry
    assert isinstance(registry_of(cluster.store(), section(layout="flannel"), "blue", CONF), FlannelRegistry)
    assert section().prefix == "/cni-plugins"
    assert section(layout="flannel").prefix == "/coreos.com/network"
    assert section(Layout="flannel", PREFIX="/other/net/").prefix == "/other/net"
