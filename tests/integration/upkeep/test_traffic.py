"""What containers get back with their rules, as another machine sees it."""

from typing import Any

from tests.integration.upkeep.conftest import Node


def seen_source(machine: Any, sandbox: Any, address: str) -> str:
    """Return the source address with which a ping of the sandbox arrives at the machine."""
    script = (
        "nft add table ip seen; nft 'add chain ip seen in { type filter hook input priority 0; }'; "
        "nft 'add set ip seen from { type ipv4_addr; flags dynamic; }'; "
        "nft 'add rule ip seen in icmp type echo-request add @from { ip saddr }'"
    )
    machine.run("sh", "-c", script)
    sandbox.run("ping", "-c1", "-W1", "-q", address, check=False)
    listed = machine.run("nft", "list", "set", "ip", "seen", "from")
    machine.run("nft", "delete", "table", "ip", "seen")
    return listed.partition("elements = { ")[2].partition(" ")[0]


def test_an_outside_host_sees_the_nodes_address_again(node: Node) -> None:
    outside = node.bed.sandbox()
    node.bed.host.run(
        "ip", "link", "add", "wan0", "type", "veth", "peer", "name", "far0", "netns", outside.path
    )
    for where, link, address in (
        (node.bed.host, "wan0", "203.0.113.1/24"),
        (outside, "far0", "203.0.113.2/24"),
    ):
        where.run("ip", "link", "set", link, "up")
        where.run("ip", "address", "add", address, "dev", link)
    conf = {
        "type": "bridge",
        "bridge": "br0",
        "isGateway": True,
        "isDefaultGateway": True,
        "ipMasq": True,
        "ipam": node.bed.host_local("10.1.0.0/24"),
    }
    one = node.add([conf])
    assert seen_source(outside, one.sandbox, "203.0.113.2") == "203.0.113.1"
    node.bed.host.run("nft", "flush", "ruleset")
    assert seen_source(outside, one.sandbox, "203.0.113.2") == "10.1.0.2"
    node.repair()
    assert seen_source(outside, one.sandbox, "203.0.113.2") == "203.0.113.1"


def test_a_container_cannot_forge_its_address_again(node: Node) -> None:
    conf = {
        "type": "bridge",
        "bridge": "br0",
        "isGateway": True,
        "macspoofchk": True,
        "ipam": node.bed.host_local("10.1.0.0/24"),
    }
    one = node.add([conf])
    mac = one.sandbox.link("eth0")["address"]

    def forged_reaches() -> bool:
        one.sandbox.run("ip", "link", "set", "eth0", "address", "02:00:00:00:00:99")
        try:
            return one.sandbox.reaches("10.1.0.1")
        finally:
            one.sandbox.run("ip", "link", "set", "eth0", "address", mac)

    assert not forged_reaches()
    node.bed.host.run("nft", "flush", "ruleset")
    assert forged_reaches()
    node.repair()
    assert not forged_reaches()
    assert one.sandbox.reaches("10.1.0.1")
