"""Each backend lets packets through where others drop them, for as long as the container exists."""

import os
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from cni_plugins.kernel.firewall import iptables

BACKENDS = ("nftables", "iptables")
each_backend = pytest.mark.parametrize("backend", BACKENDS)
TAG = "+firewall net: net1, if: eth0, id: "


def mentioned(host: Any, *containers: Any) -> list[str]:
    """Return the addresses of containers that some rule or set still has."""
    rules = "\n".join(
        [host.run("iptables-save"), host.run("ip6tables-save"), host.run("nft", "list", "ruleset")]
    )
    return [item for container in containers for item in container.addresses if item in rules]


@each_backend
def test_the_life_of_an_attachment(host: Any, backend: str) -> None:
    one = host.container(backend=backend)
    before = host.bed.state()
    one.add()
    assert mentioned(host, one) == one.addresses
    assert f"{TAG}c1" in host.ours()
    assert one.check() == ""
    one.delete()
    assert mentioned(host, one) == []
    assert host.ours() == ""
    after = host.bed.state()
    if backend == "nftables":
        assert after == before
    one.delete()
    assert host.bed.state() == after


@pytest.mark.parametrize("keys", [{}, {"backend": ""}, {"backend": "iptables"}], ids=str)
def test_a_container_gets_through_a_forward_chain_that_drops(host: Any, keys: dict[str, str]) -> None:
    host.both("-P", "FORWARD", "DROP")
    one, other = host.container("c1", **keys), host.container("c2", 2)
    assert one.is_cut_off_from(*host.far)
    one.add()
    assert one.reaches(*host.far)
    assert other.is_cut_off_from(*host.far)
    assert not any(host.outside.succeeds("ping", "-c1", "-W0.3", item) for item in one.addresses)
    one.delete()
    assert one.is_cut_off_from(*host.far)


def test_the_rules_of_iptables_are_the_references(host: Any) -> None:
    host.container(backend="iptables").add()
    into = '-m comment --comment "CNI firewall plugin rules" -j CNI-FORWARD'
    assert host.chain("FORWARD") == [into]
    assert host.chain("FORWARD", "ip6tables") == [into]
    admin = '-m comment --comment "CNI firewall plugin admin overrides" -j CNI-ADMIN'
    answers = "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
    assert host.chain("CNI-FORWARD") == [admin, f"-d 10.1.0.2/32 {answers}", "-s 10.1.0.2/32 -j ACCEPT"]
    six = [admin, f"-d fd00:1::2/128 {answers}", "-s fd00:1::2/128 -j ACCEPT"]
    assert host.chain("CNI-FORWARD", "ip6tables") == six


CHOICES = {
    "nothing": ([], "nftables"),
    "policy DROP": ([("-P", "FORWARD", "DROP")], "iptables"),
    "last rule DROP": ([("-A", "FORWARD", "-j", "DROP")], "iptables"),
    "last rule REJECT, with a comment": (
        [
            ("-A", "FORWARD", "-i", "x0", "-j", "ACCEPT"),
            ("-A", "FORWARD", "-m", "comment", "--comment", "the rest", "-j", "REJECT"),
        ],
        "iptables",
    ),
    "a rule that drops some": ([("-A", "FORWARD", "-i", "x0", "-j", "DROP")], "nftables"),
    "an early DROP of some, last rule a jump": (
        [("-N", "OTHER"), ("-A", "FORWARD", "-p", "tcp", "-j", "DROP"), ("-A", "FORWARD", "-j", "OTHER")],
        "nftables",
    ),
    "INPUT drops": ([("-P", "INPUT", "DROP")], "nftables"),
}


@pytest.mark.parametrize(("rules", "chosen"), CHOICES.values(), ids=CHOICES)
def test_iptables_is_chosen_where_its_forward_chain_drops(
    host: Any, rules: list[tuple[str, ...]], chosen: str
) -> None:
    one = host.container(families=(4,))
    for rule in rules:
        host.run("iptables", *rule)
    one.add()
    assert f"firewall_{chosen}4" in host.ours()
    assert bool(host.chain("CNI-FORWARD")) is (chosen == "iptables")


def test_check_judges_by_what_add_chose(host: Any) -> None:
    """The host's rules, and the config, may have changed since."""
    first, second = host.container("c1").add(), host.container("c2", backend="iptables").add()
    host.both("-P", "FORWARD", "DROP")
    assert first.check() == ""
    assert first.call("CHECK", backend="iptables") == (0, None)
    host.both("-P", "FORWARD", "ACCEPT")
    assert second.call("CHECK", backend="nftables") == (0, None)
    assert second.call("CHECK", backend="") == (0, None)


def stubs(directory: Path, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Let only these programs of iptables be installed."""
    directory.mkdir()
    for name in names:
        (directory / name).symlink_to(
            next(Path(item, name) for item in ("/usr/sbin", "/sbin") if Path(item, name).exists())
        )
    monkeypatch.setattr(iptables, "_ADMINISTRATOR", "")
    monkeypatch.setenv("PATH", str(directory))


def test_ip6tables_is_not_needed_for_ipv4(host: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, both = (
        host.container("c1", families=(4,), backend="iptables"),
        host.container("c2", 2, backend="iptables"),
    )
    stubs(tmp_path / "sbin", monkeypatch, "iptables", "iptables-restore")
    one.add()
    assert one.check() == ""
    code, error = both.call("ADD")
    assert (code, error["code"], error["msg"]) == (1, 100, "ip6tables is not installed")
    both.delete()
    one.delete()
    monkeypatch.undo()
    assert mentioned(host, one, both) == []


def test_without_iptables_a_dropping_chain_does_not_make_it_the_backend(
    host: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.both("-P", "FORWARD", "DROP")
    one = host.container()
    stubs(tmp_path / "sbin", monkeypatch)
    one.add()
    monkeypatch.undo()
    assert "firewall_nftables4" in host.ours()


@pytest.fixture
def legacy(host: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let iptables be the program that does not use nf_tables."""
    program = Path("/usr/sbin/xtables-legacy-multi")
    directory = tmp_path / "sbin"
    directory.mkdir()
    for name in ("iptables", "ip6tables", "iptables-restore", "ip6tables-restore"):
        (directory / name).symlink_to(program)
    monkeypatch.setattr(iptables, "_ADMINISTRATOR", "")
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    if not program.exists() or not host.bed.host.succeeds("iptables", "-S"):
        pytest.skip("this machine has no iptables but those of nf_tables")
    return host


@pytest.mark.parametrize("rule", ["-P FORWARD DROP", "-A FORWARD -j REJECT"])
def test_iptables_without_nf_tables(legacy: Any, rule: str) -> None:
    legacy.both(*rule.split())
    one, other = legacy.container("c1"), legacy.container("c2", 2, ingressPolicy="isolated")
    assert one.is_cut_off_from(*legacy.far)
    for item in (one, other):
        item.add()
        assert item.check() == ""
        assert item.reaches(*legacy.far)
    assert len(legacy.chain("CNI-FORWARD")) == 5
    one.add()
    assert len(legacy.chain("CNI-FORWARD")) == 5
    one.delete(prevResult=None)
    assert one.is_cut_off_from(*legacy.far)
    other.delete()
    assert len(legacy.chain("CNI-FORWARD")) == 1
    assert legacy.ours() == ""


@each_backend
def test_an_add_that_is_repeated_changes_nothing(host: Any, backend: str) -> None:
    one = host.container(backend=backend).add()
    host.container("c2", backend=backend).add()
    before = host.run("nft", "-s", "list", "ruleset")  # counters go on
    one.add()
    assert host.run("nft", "-s", "list", "ruleset") == before


def test_parallel_adds_leave_each_jump_once(host: Any) -> None:
    containers = [host.container(f"c{n}", backend="iptables") for n in range(20)]
    children = []
    for container in containers:
        child = os.fork()
        if not child:
            os._exit(container.call("ADD")[0])
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 20
    for command in ("iptables", "ip6tables"):
        assert len(host.chain("FORWARD", command)) == 1
        rules = host.chain("CNI-FORWARD", command)
        assert (len(rules), len(set(rules))) == (41, 41)
        assert rules[0].endswith("-j CNI-ADMIN")
    assert [container.check() for container in containers] == [""] * 20


# ---------------------------------------------------------------------------------------------- removing


LATER = {
    "as it was": {},
    "without prevResult": {"prevResult": None},
    "without netns": {"sandbox": False},
    "without either": {"sandbox": False, "prevResult": None},
    "with a broken config": {"backend": 5, "ingressPolicy": "?", "prevResult": None},
    "with a damaged prevResult": {"prevResult": {"ips": "10.1.0.2"}},
    "with another backend": {"backend": "firewalld", "firewalldZone": "dmz"},
    "with another version": {"cniVersion": "0.4.0", "prevResult": None},
}


@each_backend
@pytest.mark.parametrize("keys", LATER.values(), ids=LATER)
def test_del_needs_nothing_but_the_name(host: Any, backend: str, keys: dict[str, Any]) -> None:
    one, other = host.container("c1", backend=backend).add(), host.container("c2", backend=backend).add()
    one.delete(**keys)
    assert mentioned(host, one) == []
    assert other.check() == ""
    one.delete(**keys)
    other.delete(**keys)
    assert host.ours() == ""


@each_backend
def test_a_late_del_leaves_the_rules_of_a_successor(host: Any, backend: str) -> None:
    """The runtime gives the address to another container before it calls DEL for the first."""
    first = host.container("c1", backend=backend).add()
    first.detach()
    second = host.container("c2", backend=backend, bridge=1)
    second.result = {**second.result, "ips": first.result["ips"]}
    second.add()
    for keys in ({}, {"prevResult": None}):
        first.delete(**keys)
        assert mentioned(host, second) == second.addresses
        assert second.check() == ""
    assert "belongs to another" in first.check() or backend == "nftables"
    second.delete()
    assert mentioned(host, second) == []


def test_gc_removes_what_belongs_to_no_valid_attachment(host: Any) -> None:
    kept = [host.container("c1", backend="iptables").add(), host.container("c2", backend="nftables").add()]
    gone = [host.container("c3", backend="iptables").add(), host.container("c4", backend="nftables").add()]
    elsewhere = host.container("c5", 2, backend="iptables").add()
    valid = [{"containerID": item.name, "ifname": "eth0"} for item in kept]
    conf = {**kept[0].conf, "cni.dev/valid-attachments": valid}
    assert host.call("GC", conf) == (0, None)
    assert mentioned(host, *gone) == []
    assert [item.check() for item in (*kept, elsewhere)] == [""] * 3
    assert host.call("GC", {**conf, "cni.dev/valid-attachments": []}) == (0, None)
    assert mentioned(host, *kept, *gone) == []
    assert elsewhere.check() == ""


def test_a_refused_add_takes_back_everything(host: Any) -> None:
    """iptables refuses a chain that is called as one of its targets."""
    one = host.container(backend="iptables", iptablesAdminChainName="TCPMSS", ingressPolicy="isolated")
    before = host.bed.state()
    code, error = one.call("ADD")
    assert (code, error["code"]) == (1, 100)
    assert "restore refused the rules" in error["msg"]
    assert "could not be undone" not in error["details"]
    assert mentioned(host, one) == []
    assert host.ours() == ""
    assert host.bed.state()["nft"] == before["nft"]


def test_what_the_reference_added_is_removed(host: Any) -> None:
    """It records no owner; prevResult has the addresses."""
    one, other = host.container("c1", backend="iptables"), host.container("c2", backend="iptables")
    other.add()
    for address in one.addresses:
        command, length = ("ip6tables", 128) if ip_address(address).version == 6 else ("iptables", 32)
        answers = ("-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED", "-j", "ACCEPT")
        for _ in range(2):
            host.run(command, "-A", "CNI-FORWARD", "-d", f"{address}/{length}", *answers)
        host.run(command, "-A", "CNI-FORWARD", "-s", f"{address}/{length}", "-j", "ACCEPT")
    link = one.result["interfaces"][1]
    ours, link["name"] = link["name"], "veth0"
    assert one.check() == ""
    assert one.call("CHECK", backend="") == (0, None)
    link["name"] = ours
    assert one.check() == "firewall: the element of set firewall_iptables4 is missing"
    one.delete()
    assert mentioned(host, one) == []
    assert other.check() == ""


# -------------------------------------------------------------------------------- the administrator's chain


def test_the_administrators_chain_of_iptables_is_kept(host: Any) -> None:
    one = host.container(backend="iptables", iptablesAdminChainName="SITE").add()
    assert host.chain("CNI-FORWARD")[0].endswith("-j SITE")
    host.both("-A", "SITE", "-i", "br1", "-j", "DROP")
    assert one.is_cut_off_from(*host.far)
    one.delete()
    assert host.chain("SITE") == ["-i br1 -j DROP"]
    one.add()
    assert one.is_cut_off_from(*host.far)
    host.both("-F", "SITE")
    assert one.reaches(*host.far)


def test_the_administrators_chain_of_nf_tables_is_kept_while_it_has_rules(host: Any) -> None:
    one = host.container(backend="nftables").add()
    rule = ("nft", "add", "rule", "inet", "cni_plugins", "firewall_admin")
    host.run(*rule, "iifname", "br1", "drop")
    assert one.check() == ""
    assert one.is_cut_off_from(*host.far)
    one.delete()
    assert 'iifname "br1" drop' in host.ours()
    assert "firewall_forward" not in host.ours()
    assert one.reaches(*host.far)  # nothing leads to the chain without a container
    one.add()
    assert one.is_cut_off_from(*host.far)
    host.run("nft", "flush", "chain", "inet", "cni_plugins", "firewall_admin")
    assert one.reaches(*host.far)
    one.delete()
    assert host.ours() == ""


def test_a_rule_of_the_administrator_may_refer_to_our_sets(host: Any) -> None:
    one = host.container(backend="nftables").add()
    rule = ("nft", "add", "rule", "inet", "cni_plugins", "firewall_admin")
    host.run(*rule, "ip", "saddr", "@firewall_nftables4", "ip", "daddr", "192.0.2.2", "drop")
    assert one.is_cut_off_from(host.far[0])
    assert one.reaches(host.far[1])
    one.delete()
    assert mentioned(host, one) == []
    assert "@firewall_nftables4" in host.ours()
    one.add()
    assert one.check() == ""
    assert one.is_cut_off_from(host.far[0])


# ---------------------------------------------------------------------------------------------- CHECK


TAMPERED = {
    "nftables": [
        ("nft", "delete", "element", "inet", "cni_plugins", "firewall_nftables4", "{ 10.1.0.2 }"),
        ("nft", "delete", "element", "inet", "cni_plugins", "firewall_nftables6", "{ fd00:1::2 }"),
        ("nft", "flush", "chain", "inet", "cni_plugins", "firewall_forward"),
        ("nft", "insert", "rule", "inet", "cni_plugins", "firewall_forward", "accept"),
        ("nft", "flush", "ruleset"),
    ],
    "iptables": [
        ("nft", "delete", "table", "inet", "cni_plugins"),
        ("iptables", "-D", "CNI-FORWARD", "-s", "10.1.0.2", "-j", "ACCEPT"),
        ("ip6tables", "-D", "CNI-FORWARD", "2"),
        ("iptables", "-D", "CNI-FORWARD", "1"),
        ("iptables", "-F", "FORWARD"),
        ("ip6tables", "-F"),
        ("nft", "flush", "ruleset"),
    ],
}


@pytest.mark.parametrize(
    ("backend", "command"),
    [(backend, command) for backend, commands in TAMPERED.items() for command in commands],
    ids=str,
)
def test_check_finds_what_is_missing(host: Any, backend: str, command: tuple[str, ...]) -> None:
    one = host.container(backend=backend).add()
    assert one.check() == ""
    host.run(*command)
    assert one.check().startswith("firewall: ")


def test_a_container_without_addresses_passes(host: Any) -> None:
    one = host.container()
    before = host.bed.state()
    del one.result["ips"]
    one.add()
    assert one.check() == ""
    assert host.bed.state() == before
    one.delete()


def test_addresses_of_other_interfaces_are_left_alone(host: Any) -> None:
    one = host.container(backend="iptables")
    other = {"name": "eth1", "sandbox": one.sandbox.path}
    ips = [*one.result["ips"], {"address": "10.77.0.2/24", "interface": len(one.result["interfaces"])}]
    one.result = {**one.result, "interfaces": [*one.result["interfaces"], other], "ips": ips}
    one.add()
    assert "10.77.0.2" not in host.run("iptables-save") + host.ours()
