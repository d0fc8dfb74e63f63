"""Overlays: the part of the whole network comes back once, and what each container has in the host."""

import json
from pathlib import Path
from typing import Any

import pytest

from cni_plugins.upkeep.attachment import Condition
from cni_plugins.upkeep.overlay import State
from tests.integration.upkeep.conftest import Node
from tests.integration.vxlan.conftest import Underlay

PEERS = [
    {"node": "a", "vtep": "10.99.0.1", "subnets": ["10.244.1.0/24"]},
    {"node": "b", "vtep": "10.99.0.2", "subnets": ["10.244.2.0/24"]},
]


def overlay(tmp_path: Path, **more: Any) -> dict[str, Any]:
    peers = tmp_path / "peers.json"
    if not peers.exists():
        peers.write_text(json.dumps({"peers": PEERS}))
    return {
        "type": "vxlan",
        "mode": "l3",
        "vni": 100,
        "network": "10.244.0.0/16",
        "ipMasq": True,
        "backend": {"type": "static", "peersFile": str(peers)},
        "ipam": {"type": "host-local", "dataDir": str(tmp_path / "leases")},
        **more,
    }


@pytest.fixture
def on_wire(node: Node) -> Node:
    Underlay(node.bed)
    return node


def test_rules_of_a_network_and_its_links_come_back(on_wire: Node, tmp_path: Path) -> None:
    first = on_wire.add([overlay(tmp_path)], network="blue")
    second = on_wire.add([overlay(tmp_path)], network="blue", container="c2")
    before = on_wire.ruleset()
    routes = on_wire.bed.host.run("ip", "route")
    on_wire.bed.host.run("nft", "flush", "ruleset")
    on_wire.bed.host.run("ip", "route", "flush", "proto", "217")
    dry = on_wire.repair(dry_run=True)
    assert [one.seen.state for one in dry.overlays if one.seen] == [State.DRIFTED]
    report = on_wire.repair()
    assert [one.seen.state for one in report.overlays if one.seen] == [State.REPAIRED]
    assert {one.condition for one in report.attachments} == {Condition.REPAIRED}  # what checks their sources
    assert on_wire.ruleset() == before
    assert on_wire.bed.host.run("ip", "route") == routes
    on_wire.check(first, second)
    on_wire.bed.host.run("ip", "link", "del", first.result["interfaces"][0]["name"])
    report = on_wire.repair()
    assert [one.seen.state for one in report.overlays if one.seen] == [State.REPAIRED]
    on_wire.check(first, second)
    [state] = [one.seen.state for one in on_wire.repair().overlays if one.seen]
    assert state == State.IN_SYNC


def test_a_network_without_a_living_container_is_not_created(on_wire: Node, tmp_path: Path) -> None:
    one = on_wire.add([overlay(tmp_path)], network="blue")
    remembered = one.file.read_text()
    on_wire.delete(one)
    one.file.write_text(remembered)
    one.file.chmod(0o600)
    report = on_wire.repair()
    assert [one.condition for one in report.attachments] == [Condition.GONE]
    assert on_wire.bed.host.link(one.result["interfaces"][0]["name"]) is None
    assert on_wire.bed.host.run("nft", "list", "ruleset") == ""


def test_the_config_of_the_node_counts_not_that_of_the_add(on_wire: Node, tmp_path: Path) -> None:
    """`cnictl overlay sync` may have taken over a new one since."""
    on_wire.add([overlay(tmp_path)], network="blue")
    on_wire.conf_dir.mkdir()
    newer = {"cniVersion": "1.0.0", "name": "blue", "plugins": [overlay(tmp_path, ipMasq=False)]}
    (on_wire.conf_dir / "10-blue.conflist").write_text(json.dumps(newer))
    on_wire.bed.host.run("nft", "flush", "ruleset")
    on_wire.repair()
    listed = on_wire.bed.host.run("nft", "list", "ruleset")
    assert "overlay_forward" in listed
    assert "masquerade" not in listed


def test_rules_of_two_overlays_come_back_after_a_chain_was_put_elsewhere(
    on_wire: Node, tmp_path: Path
) -> None:
    """A repair of one network must not take along the rules of the other."""
    first = on_wire.add([overlay(tmp_path)], network="blue")
    peers = tmp_path / "green.json"
    own = [
        {**peer, "subnets": [subnet]}
        for peer, subnet in zip(PEERS, ("10.245.1.0/24", "10.245.2.0/24"), strict=True)
    ]
    peers.write_text(json.dumps({"peers": own}))
    green = overlay(
        tmp_path, vni=101, network="10.245.0.0/16", backend={"type": "static", "peersFile": str(peers)}
    )
    second = on_wire.add([green], network="green", container="c2")
    before = on_wire.ruleset()
    text = on_wire.bed.host.run("nft", "list", "table", "inet", "cni_plugins")
    old = "type filter hook forward priority filter;"
    assert old in text
    changed = text.replace(old, "type filter hook forward priority filter + 3;")
    on_wire.bed.host.run("sh", "-c", f"cat <<'END' | nft -f -\ndelete table inet cni_plugins\n{changed}\nEND")
    report = on_wire.repair("green")
    assert [one.network for one in report.overlays] == ["green"]
    assert on_wire.ruleset() == before
    on_wire.check(first, second)
    on_wire.delete(second)
    on_wire.check(first)


def test_a_network_at_fault_is_told_once_and_stops_no_other(on_wire: Node, tmp_path: Path) -> None:
    on_wire.add([overlay(tmp_path)], network="blue")
    bridge = {
        "type": "bridge",
        "bridge": "br0",
        "ipMasq": True,
        "ipam": on_wire.bed.host_local("10.1.0.0/24"),
    }
    on_wire.add([bridge], container="c2")
    (tmp_path / "peers.json").write_text("[")
    on_wire.bed.host.run("nft", "flush", "ruleset")
    report = on_wire.repair()
    [fault] = report.overlays
    assert fault.is_at_fault
    assert "peers.json" in fault.error
    found = {one.of.attachment.network: one.condition for one in report.attachments}
    assert found == {"blue": Condition.UNREPAIRED, "net1": Condition.REPAIRED}
