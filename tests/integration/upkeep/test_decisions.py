"""Which attachments are repaired, and which must not be touched."""

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from cni_plugins.ownership import Attachment
from cni_plugins.upkeep import caches as cached
from cni_plugins.upkeep import repair as upkeep
from cni_plugins.upkeep.attachment import Condition
from tests import caches
from tests.integration.upkeep.conftest import Node, only

BRIDGE = {"type": "bridge", "bridge": "br0", "isGateway": True, "ipMasq": True, "macspoofchk": True}


def bridge(node: Node, **more: Any) -> dict[str, Any]:
    return {**BRIDGE, "ipam": node.bed.host_local("10.1.0.0/24"), **more}


def flush(node: Node) -> None:
    node.bed.host.run("nft", "flush", "ruleset")


def ruleset(node: Node) -> str:
    return node.bed.host.run("nft", "list", "ruleset")


def test_nothing_is_restored_for_a_container_whose_sandbox_is_gone(node: Node) -> None:
    """After a reboot the caches are full of them."""
    one = node.add([bridge(node)])
    text = one.file.read_text().replace(one.sandbox.path, "/run/netns/none")
    one.file.write_text(text)
    flush(node)
    only(node.repair(), Condition.GONE)
    assert ruleset(node) == ""


@pytest.mark.parametrize("main", ["bridge", "macvlan"])
def test_nothing_is_restored_for_an_interface_that_is_gone(node: Node, main: str) -> None:
    of = {"bridge": bridge(node), "macvlan": {"type": "macvlan", "master": "up0", "ipMasq": True}}
    one = node.add([{**of[main], "ipam": node.bed.host_local("10.1.0.0/24")}])
    one.sandbox.run("ip", "link", "del", "eth0")
    flush(node)
    only(node.repair(), Condition.GONE)
    assert ruleset(node) == ""


def test_a_path_that_leads_to_another_container_by_now_counts_for_nothing(node: Node) -> None:
    """As /proc/PID/ns/net does once the process id is used again."""
    one = node.add([bridge(node)])
    other = node.add([bridge(node)], container="c2")
    one.sandbox.run("ip", "link", "del", "eth0")
    for key in (one.sandbox.path, "nothing"):
        one.file.write_text(one.file.read_text().replace(key, other.sandbox.path))
    flush(node)
    report = node.repair()
    conditions = {outcome.of.attachment.container_id: outcome.condition for outcome in report.attachments}
    assert conditions == {"c1": Condition.GONE, "c2": Condition.REPAIRED}
    assert "id: c1" not in ruleset(node)


def test_the_hosts_own_namespace_is_no_sandbox(node: Node) -> None:
    one = node.add([bridge(node)])
    one.file.write_text(one.file.read_text().replace(one.sandbox.path, node.bed.host.path))
    flush(node)
    only(node.repair(), Condition.GONE)
    assert ruleset(node) == ""


def test_the_element_of_a_successor_with_the_same_address_stays_the_successors(node: Node) -> None:
    """Both live, as an operator has given out an address twice."""
    twice = bridge(
        node, macspoofchk=False, ipam={"type": "static", "addresses": [{"address": "10.1.0.9/24"}]}
    )
    node.add([twice])
    second = node.add([twice], container="c2")
    before = ruleset(node)
    assert "id: c2" in before
    report = node.repair()
    found = {outcome.of.attachment.container_id: outcome for outcome in report.attachments}
    assert found["c2"].condition == Condition.IN_ORDER
    assert found["c1"].condition == Condition.UNREPAIRED
    assert "belongs to another (its owner is" in found["c1"].remaining[0]
    assert ruleset(node) == before
    node.check(second)


def test_one_that_cannot_be_restored_does_not_stop_the_others(node: Node) -> None:
    """They are restored in one transaction, which is refused as a whole."""
    twice = bridge(
        node, macspoofchk=False, ipam={"type": "static", "addresses": [{"address": "10.1.0.99/24"}]}
    )
    many = [node.add([bridge(node, macspoofchk=False)], container=f"c{number}") for number in range(9)]
    node.add([twice], container="first")
    winner = node.add([twice], container="second")
    node.bed.host.run("nft", "delete", "element", *_masquerade_set(node), "{ 10.1.0.3, 10.1.0.7 }")
    report = node.repair()
    bad = [
        one.of.attachment.container_id for one in report.attachments if one.condition == Condition.UNREPAIRED
    ]
    assert bad == ["first"]
    node.check(*many, winner)


def _masquerade_set(node: Node) -> list[str]:
    name = next(line.split()[1] for line in ruleset(node).splitlines() if "set masq4_" in line)
    return ["inet", "cni_plugins", name]


def test_an_attachment_of_another_program_is_left_alone(node: Node) -> None:
    """Its executable is not ours, whatever made it."""
    node.add([bridge(node)])
    (node.executables / "bridge").write_bytes(b"#!/bin/sh\n")
    flush(node)
    only(node.repair(), Condition.FOREIGN)
    assert ruleset(node) == ""


def test_the_first_executable_on_the_path_counts(node: Node, tmp_path: Path) -> None:
    node.add([bridge(node)])
    other = tmp_path / "other"
    other.mkdir()
    (other / "bridge").write_bytes(b"#!/bin/sh\n")
    (other / "bridge").chmod(0o755)
    flush(node)
    both = node.scope._replace(plugin_dirs=(other, node.executables))
    with node.bed.inside():
        only(upkeep.repair(both), Condition.FOREIGN)
        only(upkeep.repair(both._replace(plugin_dirs=both.plugin_dirs[::-1])))


def test_an_interface_that_the_reference_made_is_left_alone(node: Node) -> None:
    """Ours has taken the reference's place since: the rules are the reference's, and are not ours to make."""
    sandbox = node.bed.sandbox()
    node.bed.host.run("ip", "link", "add", "br0", "type", "bridge")
    sandbox.run("ip", "link", "add", "eth0", "type", "veth", "peer", "veth0a1b2c3d")
    interfaces = [
        {"name": "br0", "mac": node.bed.host.link("br0")["address"]},
        {"name": "veth0a1b2c3d", "mac": sandbox.link("veth0a1b2c3d")["address"]},
        {"name": "eth0", "mac": sandbox.link("eth0")["address"], "sandbox": sandbox.path},
    ]
    result = {
        "cniVersion": "1.0.0",
        "interfaces": interfaces,
        "ips": [{"address": "10.1.0.2/24", "interface": 2}],
    }
    config = {"cniVersion": "1.0.0", "name": "net1", "plugins": [bridge(node)]}
    caches.remember(node.cache, config, result, sandbox.path)
    only(node.repair(), Condition.FOREIGN)
    assert ruleset(node) == ""


def test_what_differs_in_a_sandbox_is_told_and_left(node: Node) -> None:
    one = node.add([bridge(node)])
    one.sandbox.run("ip", "address", "flush", "dev", "eth0")
    one.sandbox.run("ip", "link", "set", "eth0", "down")
    outcome = only(node.repair(), Condition.UNREPAIRED)
    assert any("10.1.0.2/24" in text and "must be recreated" in text for text in outcome.remaining)
    assert outcome.differences == ()
    assert one.sandbox.addresses("eth0") == set()
    only(node.repair(in_sandboxes=False), Condition.IN_ORDER)


def test_what_differs_in_the_host_is_repaired(node: Node) -> None:
    """Bridge, its addresses and settings, and the port."""
    one = node.add([bridge(node)])
    other = node.add([bridge(node)], container="c2")
    before = node.bed.state()
    node.bed.host.run("ip", "link", "del", "br0")
    node.bed.host.run("sh", "-c", "echo 0 > /proc/sys/net/ipv4/ip_forward")
    flush(node)
    dry = node.repair(dry_run=True)
    assert {outcome.condition for outcome in dry.attachments} == {Condition.DIFFERS}
    report = node.repair()
    assert {outcome.condition for outcome in report.attachments} == {Condition.REPAIRED}
    node.check(one, other)
    assert one.sandbox.reaches("10.1.0.1")
    assert one.sandbox.reaches("10.1.0.3")
    after = node.bed.state()
    assert after["addresses"] == before["addresses"]
    assert after["forwarding"] == before["forwarding"]


def test_routes_and_proxies_of_the_host_come_back(node: Node) -> None:
    ptp = node.add([{"type": "ptp", "ipMasq": True, "ipam": node.bed.host_local("10.1.0.0/24")}])
    macvlan = {"type": "macvlan", "master": "up0", "hostAccess": True}
    pool = node.bed.host_local("192.0.2.0/24")
    other = node.add([{**macvlan, "ipam": pool}], network="net2", container="c2")
    before = node.bed.host.run("ip", "route")
    node.bed.host.run("ip", "route", "flush", "proto", "217")
    assert node.bed.host.run("ip", "route") != before
    node.repair()
    assert node.bed.host.run("ip", "route") == before
    node.check(ptp, other)


def test_a_look_without_differences_changes_nothing(node: Node) -> None:
    """Not even the generation of the ruleset, by which other programs know that it changed."""
    node.add([bridge(node)])
    before = _generation(node)
    only(node.repair(), Condition.IN_ORDER)
    flush(node)
    flushed = _generation(node)
    only(node.repair(dry_run=True), Condition.DIFFERS)
    assert _generation(node) == flushed
    assert flushed != before


def _generation(node: Node) -> int:
    from cni_plugins.kernel.firewall import read
    from cni_plugins.kernel.session.session import Session

    with node.bed.inside(), Session(None) as session:
        return read.generation(session)


def test_arguments_and_capabilities_of_the_add_count(node: Node) -> None:
    """The MAC address that the guard admits came with the call."""
    mac = "02:aa:bb:cc:dd:ee"
    conf = bridge(node, capabilities={"mac": True, "ips": False})
    sandbox = node.bed.sandbox()
    head = {"cniVersion": "1.0.0", "name": "net1"}
    result = node.bed.add({**conf, **head, "runtimeConfig": {"mac": mac}}, sandbox)
    wanted = {"capabilityArgs": {"mac": mac, "ips": ["10.1.0.77/24"]}}
    caches.remember(node.cache, {**head, "plugins": [conf]}, result, sandbox.path, **wanted)
    before = ruleset(node)
    assert mac in before
    flush(node)
    only(node.repair())
    assert sorted(ruleset(node).splitlines()) == sorted(before.splitlines())
    second = node.bed.sandbox()
    result = node.bed.add(
        {**conf, **head}, second, container="c2", CNI_ARGS="IgnoreUnknown=1;MAC=02:01:02:03:04:05"
    )
    pairs = {"cniArgs": [["IgnoreUnknown", "1"], ["MAC", "02:01:02:03:04:05"]]}
    caches.remember(node.cache, {**head, "plugins": [conf]}, result, second.path, container="c2", **pairs)
    flush(node)
    node.repair()
    assert "02:01:02:03:04:05" in ruleset(node)


def test_caches_without_a_netns_name_it_in_the_result(node: Node) -> None:
    node.add([bridge(node)], netns=None)
    flush(node)
    only(node.repair())
    assert "masquerade" in ruleset(node)


def test_a_broken_file_is_one_sentence_and_stops_nothing(node: Node) -> None:
    node.add([bridge(node)])
    (node.cache / "results" / "net1-c9-eth0").write_text("{")
    broken = node.add([bridge(node)], container="c3")
    entry = json.loads(broken.file.read_text())
    broken.file.write_text(json.dumps({**entry, "result": {"cniVersion": "1.0.0", "ips": "many"}}))
    flush(node)
    report = node.repair()
    assert [fault.rpartition("/")[2][:21] for fault in report.faults] == ["net1-c9-eth0: not JSON"[:21]]
    found = {one.of.attachment.container_id: one for one in report.attachments}
    assert found["c1"].condition == Condition.REPAIRED
    assert found["c3"].condition == Condition.UNREPAIRED
    assert "could not parse" in found["c3"].remaining[0]


@pytest.mark.parametrize("plugins", [None, 1], ids=["whole list", "the chained one"])
def test_a_del_under_way_leaves_no_rules_behind(node: Node, plugins: int | None) -> None:
    """Between two plugins of a list nothing is locked, and the runtime still remembers the attachment."""
    one = node.add(
        [
            {"type": "ptp", "ipMasq": True, "ipam": node.bed.host_local("10.1.0.0/24")},
            {"type": "stamp", "guard": True},
        ]
    )
    stays = node.add([bridge(node, ipam=node.bed.host_local("10.2.0.0/24"))], network="net2", container="c2")
    node.delete(one, plugins=1)
    flush(node)
    report = node.repair()
    assert "+stamp" in ruleset(node)
    if plugins is None:
        one.plugins = one.plugins[:1]
        node.delete(one)
        assert "+stamp" in ruleset(node)
    with node.bed.inside():
        gone = upkeep.take_back_departed(node.scope, report.attachments)
    assert ("+stamp" in ruleset(node)) is (plugins is not None)
    assert bool(gone) is (plugins is None)
    node.check(stays)


def test_a_request_under_way_is_waited_for(node: Node) -> None:
    from cni_plugins.kernel.session.locks import lock_attachment

    node.add([bridge(node)])
    flush(node)
    with node.bed.inside():
        held = lock_attachment(Attachment("net1", "c1", "eth0"))
    assert held is not None
    release = threading.Timer(0.3, os.close, (held,))
    release.start()
    begun = time.monotonic()
    only(node.repair())
    release.join()
    assert time.monotonic() - begun >= 0.25


def test_a_request_that_takes_too_long_is_told(node: Node) -> None:
    from cni_plugins.kernel.session.locks import lock_attachment

    node.add([bridge(node)])
    flush(node)
    with node.bed.inside():
        held = lock_attachment(Attachment("net1", "c1", "eth0"))
    assert held is not None
    assert only(node.repair(), Condition.UNREPAIRED).remaining == ("a request for it is under way",)
    os.close(held)
    assert ruleset(node) == ""


def test_a_file_that_is_deleted_while_the_lock_is_awaited_counts_no_more(node: Node) -> None:
    one = node.add([bridge(node)])
    with node.bed.inside():
        found = cached.read([node.cache])
        one.file.unlink()
        flush(node)
        overlays = upkeep.Overlays(node.conf_dir, found.attachments, dry_run=False)
        with upkeep._Host() as host:
            run = upkeep._Run(host, node.scope, overlays, dry_run=False, in_sandboxes=True)
            [outcome] = run.all(found.attachments)
    assert outcome.condition == Condition.GONE
    assert ruleset(node) == ""


def test_concurrent_deletions_leave_nothing(node: Node) -> None:
    """Repairs and DELs at the same time, of many; afterwards nothing of any container is there."""
    many = [node.add([bridge(node)], container=f"c{number}") for number in range(30)]
    flush(node)
    reports = []

    def repairing() -> None:
        for _ in range(4):
            reports.append(node.repair(in_sandboxes=False))

    other = threading.Thread(target=repairing)
    other.start()
    for one in many:
        node.delete(one)
    other.join()
    with node.bed.inside():
        for report in reports:
            upkeep.take_back_departed(node.scope, [it for it in report.attachments if it.differences])
    assert ruleset(node) == ""
    assert not [link for link in node.bed.host.ip("link") if link["ifname"].startswith("veth")]
