"""Who reaches whom under each ingress policy, with every backend, and with br_netfilter on and off."""

import os
from typing import Any

import pytest

from tests.integration.firewall.conftest import Container, Host

SAME_BRIDGE, ISOLATED = {"ingressPolicy": "same-bridge"}, {"ingressPolicy": "isolated"}
each_backend = pytest.mark.parametrize("backend", ["nftables", "iptables"])


@pytest.fixture(params=["0", "1"], ids=["without br_netfilter", "br_netfilter"])
def filtered(host: Host, request: pytest.FixtureRequest) -> Host:
    """Let bridged packets pass the filters for IP, or not."""
    keys = ("iptables", "ip6tables", "arptables")
    for key in keys:
        path = f"/proc/sys/net/bridge/bridge-nf-call-{key}"
        if not host.bed.host.succeeds("sh", "-c", f"echo {request.param} >{path}"):
            pytest.skip("this kernel has no br_netfilter, or lets only the machine's root set it")
    return host


def assert_apart(one: Container, other: Container) -> None:
    assert one.is_cut_off_from(*other.addresses)
    assert other.is_cut_off_from(*one.addresses)


def assert_together(one: Container, other: Container) -> None:
    assert one.reaches(*other.addresses)
    assert other.reaches(*one.addresses)


def assert_connected(host: Host, *containers: Container) -> None:
    """The host reaches the containers, and they reach their gateway and the outside."""
    for item in containers:
        assert host.reaches(*item.addresses)
        assert item.reaches(*host.far)
        assert item.reaches(*(ip["gateway"] for ip in item.result["ips"]))
        assert host.is_reached_from_outside(*item.addresses)


@each_backend
def test_bridges_are_kept_apart(filtered: Host, backend: str) -> None:
    host = filtered
    one, two = host.container("c1", backend=backend, **SAME_BRIDGE), host.container("c2", backend=backend)
    far = host.container("c3", 2, backend=backend, **SAME_BRIDGE)
    open_too = host.container("c4", 3, backend=backend)
    for item in (one, two, far, open_too):
        item.add()
    assert_together(one, two)
    assert_apart(one, far)
    assert_apart(two, far)
    assert_together(one, open_too)
    assert_connected(host, one, two, far, open_too)
    assert [item.check() for item in (one, two, far, open_too)] == [""] * 4


@each_backend
def test_isolated_containers_are_kept_apart_on_their_bridge(filtered: Host, backend: str) -> None:
    host = filtered
    keys = {"backend": backend, **ISOLATED}
    one, two, far = (
        host.container("c1", **keys),
        host.container("c2", **keys),
        host.container("c3", 2, **keys),
    )
    for item in (one, two, far):
        item.add()
    assert_apart(one, two)
    assert_apart(one, far)
    assert_connected(host, one, two, far)
    assert [item.check() for item in (one, two, far)] == [""] * 3


@each_backend
def test_an_isolated_container_cannot_go_by_the_gateway(host: Host, backend: str) -> None:
    one, two = (host.container(name, backend=backend, **ISOLATED).add() for name in ("c1", "c2"))
    for place, other in ((one, two), (two, one)):
        for address, gateway in zip(other.addresses, ("10.1.0.1", "fd00:1::1"), strict=True):
            length = 128 if ":" in address else 32
            place.sandbox.run("ip", "route", "add", f"{address}/{length}", "via", gateway)
    assert_apart(one, two)


def test_an_isolated_container_and_others_of_its_bridge(host: Host) -> None:
    host.run("sh", "-c", "echo 0 | tee /proc/sys/net/bridge/bridge-nf-call-* || true")
    one = host.container("c1", **ISOLATED).add()
    two, three = (host.container(name, **SAME_BRIDGE).add() for name in ("c2", "c3"))
    assert_apart(one, two)
    assert_together(two, three)
    one.delete()
    assert_together(one, two)


@each_backend
def test_del_of_one_container_does_not_lift_the_isolation_of_others(host: Host, backend: str) -> None:
    keys = {"backend": backend, **ISOLATED}
    first, second, third = (host.container(f"c{n}", **keys).add() for n in range(3))
    far = host.container("far", 2, **keys).add()
    first.delete()
    first.detach()
    assert_apart(second, third)
    assert_apart(second, far)
    assert [item.check() for item in (second, third, far)] == [""] * 3
    for item in (second, third):
        item.delete()
        item.detach()
    open_now = host.container("again", backend=backend).add()
    assert_together(open_now, far)
    far.delete()
    assert host.ours().count("apart_") == 0
    assert backend == "nftables" or host.chain("CNI-ISOLATION-STAGE-2") == [RETURN]
    open_now.delete()
    assert host.ours() == ""


ANY = '-m comment --comment "CNI firewall plugin rules (ingressPolicy: same-bridge|isolated)"'
RETURN = f"{ANY} -j RETURN"


@pytest.mark.parametrize("policy", ["same-bridge", "isolated"])
def test_the_rules_of_iptables_are_the_references(host: Host, policy: str) -> None:
    host.container(backend="iptables", ingressPolicy=policy).add()
    into = '-m comment --comment "CNI firewall plugin rules" -j CNI-FORWARD'
    comment = f'-m comment --comment "CNI firewall plugin rules (ingressPolicy: {policy})"'
    between = f"-i br1 ! -o br1 {comment} -j CNI-ISOLATION-STAGE-2"
    within = [f"-i br1 -o br1 {comment} -j DROP"] if policy == "isolated" else []
    for command in ("iptables", "ip6tables"):
        assert host.chain("FORWARD", command) == [f"{ANY} -j CNI-ISOLATION-STAGE-1", into]
        assert host.chain("CNI-ISOLATION-STAGE-1", command) == [*within, between, RETURN]
        assert host.chain("CNI-ISOLATION-STAGE-2", command) == [f"-o br1 {ANY} -j DROP", RETURN]


def test_a_jump_that_was_lost_comes_back_behind_the_isolation(host: Host) -> None:
    one = host.container(backend="iptables", **SAME_BRIDGE).add()
    host.run("iptables", "-D", "FORWARD", "2")
    assert one.check() != ""
    one.add()
    jumps = [rule.split(" -j ")[1] for rule in host.chain("FORWARD")]
    assert jumps == ["CNI-ISOLATION-STAGE-1", "CNI-FORWARD"]


def test_bridges_of_different_backends_are_apart(host: Host) -> None:
    one = host.container("c1", 1, backend="iptables", **SAME_BRIDGE).add()
    two = host.container("c2", 2, backend="nftables", **SAME_BRIDGE).add()
    assert_apart(one, two)


def test_bridges_are_apart_from_those_of_the_reference(host: Host) -> None:
    """Its containers are in its chains only."""
    theirs = host.container("c1", 1)
    for command in ("iptables", "ip6tables"):
        for rule in (
            "-N CNI-ISOLATION-STAGE-1",
            "-N CNI-ISOLATION-STAGE-2",
            "-I FORWARD -j CNI-ISOLATION-STAGE-1",
            "-A CNI-ISOLATION-STAGE-1 -i br1 ! -o br1 -j CNI-ISOLATION-STAGE-2",
            "-A CNI-ISOLATION-STAGE-2 -o br1 -j DROP",
        ):
            host.run(command, *rule.split())
    ours = host.container("c2", 2, backend="nftables", **SAME_BRIDGE).add()
    assert_apart(theirs, ours)
    assert ours.check() == ""
    ours.delete()
    ours.detach()
    assert "-o br1 -j DROP" in host.chain("CNI-ISOLATION-STAGE-2")
    assert "br2" not in host.run("iptables-save") + host.run("ip6tables-save")


# ------------------------------------------------------------------------------------ other attachments


def routed(host: Host, name: str, number: int, **keys: Any) -> Container:
    pools = host.bed.host_local(
        f"10.{number}.0.0/24", f"fd00:{number}::/64", routes=[{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
    )
    return Container(host, name, {"name": f"ptp{number}", "type": "ptp", "ipam": pools}, **keys)


@each_backend
def test_containers_with_a_link_of_their_own_are_apart_from_all_others(host: Host, backend: str) -> None:
    keys = {"backend": backend, **SAME_BRIDGE}
    one, two = (routed(host, name, 11, **keys).add() for name in ("c1", "c2"))
    three = host.container("c3", 1, **keys).add()
    assert_apart(one, two)
    assert_apart(one, three)
    assert_connected(host, one, two, three)
    for item in (one, two, three):
        assert item.check() == ""
        item.delete()
    assert host.ours() == ""


def test_the_bridge_is_found_behind_interfaces_of_other_plugins(host: Host) -> None:
    """The first interface in prevResult is another's."""
    one = host.container("c1", 1, **SAME_BRIDGE)
    host.run("ip", "link", "add", "other0", "type", "veth", "peer", "other1")
    shifted = [{**ip, "interface": ip["interface"] + 1} for ip in one.result["ips"]]
    one.result = {**one.result, "interfaces": [{"name": "other0"}, *one.result["interfaces"]], "ips": shifted}
    one.add()
    two = host.container("c2", 2, **SAME_BRIDGE).add()
    assert_apart(one, two)
    assert '"other0"' not in host.ours()


def test_a_macvlan_link_has_no_policy(host: Host) -> None:
    pools = host.bed.host_local("10.9.0.0/24")
    one = Container(host, "c1", {"name": "mv", "type": "macvlan", "master": "up0", "ipam": pools}, **ISOLATED)
    code, error = one.call("ADD")
    assert (code, error["code"]) == (1, 7)
    assert error["msg"].startswith('interface needs to be set for ingress policy "isolated"')
    one.conf["ingressPolicy"] = "open"
    one.add()
    assert one.check() == ""


TAMPERED = [
    ("nft", "delete", "element", "inet", "cni_plugins", "apart_bridges", '{ "br1" }'),
    ("nft", "delete", "element", "inet", "cni_plugins", "apart_within", '{ "br1" . "br1" }'),
    ("nft", "delete", "element", "inet", "cni_plugins", "apart_isolated", '{ "br1" . "br1" }'),
    ("nft", "flush", "chain", "inet", "cni_plugins", "apart_forward"),
    ("nft", "insert", "rule", "inet", "cni_plugins", "apart_forward", "accept"),
    ("nft", "flush", "chain", "bridge", "cni_plugins", "firewall_ports"),
    ("nft", "flush", "set", "bridge", "cni_plugins", "isolated_senders"),
    ("nft", "flush", "set", "bridge", "cni_plugins", "isolated_receivers"),
    ("nft", "flush", "table", "inet", "cni_plugins"),
    ("iptables", "-F", "CNI-ISOLATION-STAGE-1"),
    ("ip6tables", "-D", "CNI-ISOLATION-STAGE-2", "1"),
]


@pytest.mark.parametrize("command", TAMPERED, ids=" ".join)
def test_check_finds_what_is_missing_and_an_add_restores_it(host: Host, command: tuple[str, ...]) -> None:
    one = host.container("c1", backend="iptables", **ISOLATED).add()
    two = host.container("c2", backend="iptables", **ISOLATED)
    assert one.check() == ""
    host.run(*command)
    assert one.check() != ""
    if "insert" in command:
        return  # an ADD does not remove rules of others
    one.add()
    assert one.check() == ""
    two.add()
    assert_apart(one, two)
    one.delete()
    two.delete()
    assert host.ours() == ""


def test_a_killed_container_leaves_its_bridge_apart_until_gc(host: Host) -> None:
    one, other = host.container("c1", **ISOLATED).add(), host.container("c2", 2, **ISOLATED).add()
    one.sandbox.run("ip", "link", "delete", "eth0")
    other.delete()
    other.add()
    assert '"br1"' in host.ours()
    conf = {**other.conf, "name": "net1", "cni.dev/valid-attachments": []}
    assert host.call("GC", conf) == (0, None)
    assert "br1" not in host.ours()
    assert other.check() == ""


def come_and_go(container: Container) -> bool:
    """Add, check and delete many times; say whether all went well."""
    for _ in range(12):
        if container.call("ADD") != (0, container.result) or container.check():
            return False
        if container.call("DEL", prevResult=None) != (0, None):
            return False
    return True


def test_bridges_are_apart_whenever_a_container_is_there(host: Host) -> None:
    """The last DEL of a bridge removes it from the sets; it must not miss one that is added meanwhile."""
    coming = [host.container(f"c{n}", 1 + n % 2, backend="nftables", **ISOLATED) for n in range(6)]
    children = []
    for container in coming:
        child = os.fork()
        if not child:
            os._exit(not come_and_go(container))
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * len(children)
    assert host.ours() == ""


def test_what_a_killed_container_left_is_found_after_the_del_of_another(host: Host) -> None:
    """Its rules of iptables have no owner but in the record, which must not go before them."""
    one, other = (host.container(name, backend="iptables", **ISOLATED).add() for name in ("c1", "c2"))
    one.sandbox.run("ip", "link", "delete", "eth0")
    other.delete()
    assert len(host.chain("CNI-FORWARD")) == 3
    one.delete(prevResult=None, sandbox=False)
    assert len(host.chain("CNI-FORWARD")) == 1
    assert host.ours() == ""
