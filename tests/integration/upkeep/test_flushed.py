"""Rules that another program removed: ADD and repair bring them back, and CHECK misses them meanwhile."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from cni_plugins.upkeep.attachment import Condition
from tests import caches
from tests.integration.upkeep.conftest import Node, only

BRIDGE = {"type": "bridge", "bridge": "br0", "isGateway": True, "ipMasq": True}
MAINS: Mapping[str, dict[str, Any]] = {
    "bridge": {**BRIDGE, "macspoofchk": True},
    "bridge with iptables": {**BRIDGE, "ipMasqBackend": "iptables"},
    "ptp": {"type": "ptp", "ipMasq": True},
    "macvlan": {"type": "macvlan", "master": "up0", "hostAccess": True, "isGateway": True, "ipMasq": True},
}
each_main = pytest.mark.parametrize("main", MAINS.values(), ids=MAINS)
_MASQ, _GUARD = "inet cni_plugins", "bridge cni_plugins"


def _replaced(table: str, old: str, new: str) -> Callable[[Node], None]:
    """Load the table with a part replaced, as a program that saves and restores rules would."""

    def act(node: Node) -> None:
        text = node.bed.host.run("nft", "list", "table", *table.split())
        assert old in text
        changed = f"delete table {table}\n{text.replace(old, new)}"
        node.bed.host.run("sh", "-c", f"cat <<'END' | nft -f -\n{changed}\nEND")

    return act


def _nft(*commands: str) -> Callable[[Node], None]:
    def act(node: Node) -> None:
        for command in commands:
            node.bed.host.run("nft", *command.split())

    return act


def _without_rule(table: str, chain: str) -> Callable[[Node], None]:
    def act(node: Node) -> None:
        listed = node.bed.host.run("nft", "-a", "list", "chain", *table.split(), chain)
        handles = [line.rsplit(" ", 1)[1] for line in listed.splitlines() if "comment" in line]
        for handle in handles:
            node.bed.host.run("nft", "delete", "rule", *table.split(), chain, "handle", handle)

    return act


def _as_chain(table: str, chain: str, how: str = "") -> Callable[[Node], None]:
    """Put another chain of our name there, with a rule of its own; one that no packet enters by default."""

    def act(node: Node) -> None:
        words = f"flush chain {table} {chain}; delete chain {table} {chain}; add chain {table} {chain} {how}"
        node.bed.host.run("nft", f"{words}; add rule {table} {chain} counter")

    return act


MASQ_CHAIN = "type nat hook postrouting priority srcnat; policy accept;"
GUARD_CHAIN = "type filter hook prerouting priority dstnat; policy accept;"
DAMAGES: Mapping[str, Callable[[Node], None]] = {
    "flush ruleset": _nft("flush ruleset"),
    "flush tables": _nft(f"flush table {_MASQ}", f"flush table {_GUARD}"),
    "delete table": _nft(f"delete table {_MASQ}"),
    "flush chains": _nft(f"flush chain {_MASQ} masq_postrouting", f"flush chain {_GUARD} source_guard"),
    "delete chain": _nft(f"flush chain {_MASQ} masq_postrouting", f"delete chain {_MASQ} masq_postrouting"),
    "delete rules": _without_rule(_MASQ, "masq_postrouting"),
    "delete the guard's rule": _without_rule(_GUARD, "source_guard"),
    "another hook": _as_chain(_MASQ, "masq_postrouting", "{ type nat hook output priority 0; }"),
    "another priority": _replaced(_MASQ, MASQ_CHAIN, MASQ_CHAIN.replace("srcnat", "srcnat + 7")),
    "another policy": _replaced(_GUARD, GUARD_CHAIN, GUARD_CHAIN.replace("accept", "drop")),
    "the guard at another hook": _replaced(
        _GUARD, GUARD_CHAIN, "type filter hook forward priority filter; policy accept;"
    ),
    "no base chain": _as_chain(_MASQ, "masq_postrouting"),
    "the guard no base chain": _as_chain(_GUARD, "source_guard"),
    "a foreign rule first": _nft(f"insert rule {_MASQ} masq_postrouting accept"),
    "a foreign rule last": _nft(f"add rule {_GUARD} source_guard drop"),
}
each_damage = pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)


def pools(node: Node) -> dict[str, Any]:
    return {"ipam": node.bed.host_local("10.1.0.0/24", "fd00:1::/64")}


@each_damage
def test_repair_brings_back_what_is_missing(node: Node, damage: Callable[[Node], None]) -> None:
    """For attachments of two networks, of which one may have shared the chain with the other."""
    main = {**MAINS["bridge"], **pools(node)}
    first = node.add([main])
    other = {**main, "bridge": "br1", "ipam": node.bed.host_local("10.2.0.0/24")}
    second = node.add([other], network="net2", container="c2")
    before = node.ruleset()
    damage(node)
    assert node.ruleset() != before
    dry = node.repair(dry_run=True)
    differing = [one for one in dry.attachments if one.condition == Condition.DIFFERS]
    assert differing
    assert not [one for one in dry.attachments if one.remaining]
    report = node.repair()
    assert [one.of for one in report.attachments if one.condition == Condition.REPAIRED] == [
        one.of for one in differing
    ]
    assert node.ruleset() == before
    node.check(first, second)
    assert {one.condition for one in node.repair().attachments} == {Condition.IN_ORDER}
    for one in (first, second):
        node.delete(one)
    assert node.bed.host.run("nft", "list", "ruleset") == ""


@each_damage
def test_check_misses_it_and_the_next_add_brings_back_the_rules(
    node: Node, damage: Callable[[Node], None]
) -> None:
    """The second container of a network needs the rules, as much as the first one did."""
    main = {**MAINS["bridge"], **pools(node)}
    first = node.add([main])
    whole = node.ruleset()
    damage(node)
    call = {**first.plugins[0], "prevResult": first.result}
    code, error = node.bed.call("CHECK", call, first.sandbox)
    assert (code, error["code"]) == (1, 103)
    second = node.add([main], container="c2")
    node.check(second)
    rules = [line.strip() for line in whole if ' comment "cni-plugins ' in line or "type " in line]
    assert {*rules} <= {line.strip() for line in node.ruleset()}
    node.repair()
    node.check(first, second)


def test_the_rules_of_other_networks_stay_when_an_add_mends_the_chain(node: Node) -> None:
    """They move with the chain, at once: nobody repairs the other network."""
    main = {**MAINS["bridge"], **pools(node)}
    first = node.add([main])
    DAMAGES["another priority"](node)
    other = {**main, "bridge": "br1", "ipam": node.bed.host_local("10.2.0.0/24")}
    second = node.add([other], network="net2", container="c2")
    node.check(first, second)
    assert node.bed.host.run("nft", "list", "table", *_MASQ.split()).count("masquerade") == 3


@each_main
def test_every_plugin_is_repaired_after_a_flush(node: Node, main: dict[str, Any]) -> None:
    one = node.add([{**main, **pools(node)}])
    before = node.ruleset()
    node.bed.host.run("nft", "flush", "ruleset")
    outcome = only(node.repair())
    assert outcome.plugins == (main["type"],)
    assert node.ruleset() == before
    node.check(one)
    only(node.repair(), Condition.IN_ORDER)
    node.delete(one)
    assert not [line for line in node.ruleset() if "net1" in line]


@pytest.mark.parametrize(
    "commands",
    [
        ["iptables -t nat -F"],
        ["iptables -t nat -F", "iptables -t nat -X", "ip6tables -t nat -F", "ip6tables -t nat -X"],
        ["iptables -t nat -F POSTROUTING"],
        ["ip6tables -t nat -F {chain}"],
    ],
    ids=["-F", "-F -X", "-F POSTROUTING", "-F of its chain"],
)
def test_iptables_rules_are_repaired(node: Node, needs: Any, commands: list[str]) -> None:
    needs("iptables-restore")
    both = [
        node.add([{**MAINS["bridge with iptables"], **pools(node)}], container=name) for name in ("c1", "c2")
    ]
    before = node.ruleset()
    chain = next(line.split()[0][1:] for line in before if line.startswith(":CNI-"))
    for command in commands:
        node.bed.host.run(*command.format(chain=chain).split())
    code, error = node.bed.call(
        "CHECK", {**both[0].plugins[0], "prevResult": both[0].result}, both[0].sandbox
    )
    flushed_other = "{chain}" in commands[0] and code == 0
    assert flushed_other or (code, error["code"]) == (1, 103)
    report = node.repair()
    assert Condition.REPAIRED in {one.condition for one in report.attachments}
    assert node.ruleset() == before
    node.check(*both)
    for one in both:
        node.delete(one)
    assert not [line for line in node.ruleset() if "CNI-" in line]


def test_an_exemption_that_comes_too_late_is_moved(node: Node, needs: Any) -> None:
    needs("iptables-restore")
    one = node.add([{**MAINS["bridge with iptables"], "ipam": node.bed.host_local("10.1.0.0/24")}])
    saved = node.bed.host.run("iptables", "-t", "nat", "-S").splitlines()
    accept = next(line for line in saved if line.startswith("-A CNI-") and line.endswith("-j ACCEPT"))
    for word in ("-D", "-A"):
        node.bed.host.run("sh", "-c", f"iptables -t nat {word} {accept.removeprefix('-A ')}")
    code, error = node.bed.call("CHECK", {**one.plugins[0], "prevResult": one.result}, one.sandbox)
    assert (code, error["code"]) == (1, 103)
    assert "before it exempts" in error["msg"]
    only(node.repair())
    node.check(one)
    assert sorted(node.bed.host.run("iptables", "-t", "nat", "-S").splitlines()) == sorted(saved)


@each_main
def test_a_chained_plugins_rules_are_repaired_as_well(node: Node, main: dict[str, Any]) -> None:
    guards = main["type"] in ("bridge", "ptp") and "macspoofchk" not in main
    one = node.add([{**main, **pools(node)}, {"type": "stamp", "guard": guards, "mac": "02:11:22:33:44:55"}])
    before = node.ruleset()
    node.bed.host.run("nft", "flush", "ruleset")
    assert only(node.repair()).plugins == (main["type"], "stamp")
    assert node.ruleset() == before
    node.check(one)


@pytest.mark.parametrize("version", ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"])
def test_configs_of_every_version_are_repaired(node: Node, version: str) -> None:
    node.add([{**MAINS["bridge"], **pools(node)}], version=version)
    before = node.ruleset()
    node.bed.host.run("nft", "flush", "ruleset")
    only(node.repair())
    assert node.ruleset() == before


def test_only_the_named_network_is_repaired(node: Node) -> None:
    node.add([{**MAINS["bridge"], **pools(node)}])
    other = {**MAINS["bridge"], "bridge": "br1", "ipam": node.bed.host_local("10.2.0.0/24")}
    node.add([other], network="net2", container="c2")
    node.bed.host.run("nft", "flush", "ruleset")
    assert only(node.repair("net2")).of.attachment.network == "net2"
    listed = node.bed.host.run("nft", "list", "ruleset")
    assert "net: net2" in listed
    assert "net: net1" not in listed


PORTS = [
    {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
    {"hostPort": 5353, "containerPort": 53, "protocol": "udp"},
    {"hostPort": 9090, "containerPort": 90, "protocol": "tcp", "hostIP": "192.0.2.1"},
]


def published(node: Node, container: str = "c1", ports: Any = PORTS, **portmap: Any) -> Any:
    """Attach a container with published ports, as containerd and podman do."""
    chained = {"type": "portmap", "capabilities": {"portMappings": True}, **portmap}
    head = {"cniVersion": "1.0.0", "name": "net1"}
    one = node.add([{**BRIDGE, **pools(node)}], container=container)
    conf = {**chained, **head, "runtimeConfig": {"portMappings": ports}}
    names = {"container": container}
    one.result = node.bed.add({**conf, "prevResult": one.result}, one.sandbox, **names)
    one.plugins.append(conf)
    config = {**head, "plugins": [{**one.plugins[0]}, chained]}
    given = {"capabilityArgs": {"portMappings": ports}, **names}
    one.file = caches.remember(node.cache, config, one.result, one.sandbox.path, **given)
    return one


BACKENDS: Mapping[str, dict[str, Any]] = {
    "nftables": {},
    "conditions": {"conditionsV4": ["ip", "saddr", "!=", "198.51.100.7"]},
    "iptables": {"backend": "iptables"},
}


@pytest.mark.parametrize("portmap", BACKENDS.values(), ids=BACKENDS)
def test_published_ports_come_back(node: Node, needs: Any, portmap: dict[str, Any]) -> None:
    needs("iptables-restore")
    first = published(node, **portmap)
    other = [{"hostPort": 8081, "containerPort": 80, "protocol": "tcp"}]
    second = published(node, "c2", other, **portmap)
    before = node.ruleset()
    node.bed.host.run("nft", "flush", "ruleset")
    assert node.ruleset() != before
    report = node.repair()
    assert {(one.condition, one.plugins) for one in report.attachments} == {
        (Condition.REPAIRED, ("bridge", "portmap"))
    }
    assert node.ruleset() == before
    node.check(first, second)
    assert {one.condition for one in node.repair().attachments} == {Condition.IN_ORDER}
    for one in (first, second):
        node.delete(one)
    assert not [line for line in node.ruleset() if "net1" in line or "cni_plugins" in line]
    setting = node.bed.host.run("cat", "/proc/sys/net/ipv4/conf/br0/route_localnet")
    assert setting == "0\n"


@pytest.mark.parametrize("what", ["flush map {}", "delete element {} {{ {} }}"])
def test_published_ports_are_published_again_when_their_map_was_changed(node: Node, what: str) -> None:
    one = published(node)
    before = node.ruleset()
    table, name = "inet cni_plugins", "ports4"
    key = "tcp . 8080"
    node.bed.host.run("nft", *what.format(f"{table} {name}", key).split())
    only(node.repair())
    assert node.ruleset() == before
    node.check(one)


def test_an_index_that_was_flushed_is_filled_again(node: Node) -> None:
    """CHECK does without it, but DEL would not find the elements."""
    first, second = (published(node, name, PORTS[:1] if name == "c1" else []) for name in ("c1", "c2"))
    node.bed.host.run("nft", "flush", "map", "inet", "cni_plugins", "owners")
    node.check(first, second)
    dry = node.repair(dry_run=True)
    assert {one.condition for one in dry.attachments} == {Condition.DIFFERS}
    node.repair()
    assert {one.condition for one in node.repair().attachments} == {Condition.IN_ORDER}
    for one in (first, second):
        node.delete(one)
    assert node.bed.host.run("nft", "list", "ruleset") == ""


@pytest.mark.parametrize("backend", ["nftables", "iptables"])
def test_a_list_as_podman_writes_it_comes_back(node: Node, needs: Any, backend: str) -> None:
    needs("iptables-restore")
    policy = {"type": "firewall", "backend": backend, "ingressPolicy": "same-bridge"}
    tuning = {"type": "tuning", "sysctl": {"net.ipv4.conf.IFNAME.proxy_arp": "1"}}
    both = [
        node.add([{**BRIDGE, **pools(node)}, policy, tuning], network=network, container=container)
        for network, container in (("net1", "c1"), ("net1", "c2"))
    ]
    before = node.ruleset()
    node.bed.host.run("nft", "flush", "ruleset")
    report = node.repair()
    assert {one.condition for one in report.attachments} == {Condition.REPAIRED}
    assert not [one.remaining for one in report.attachments if one.remaining]
    assert node.ruleset() == before
    node.check(*both)
    assert {one.condition for one in node.repair().attachments} == {Condition.IN_ORDER}
    node.bed.host.run("iptables", "-F")
    node.repair()
    assert node.ruleset() == before
    node.check(*both)
    for one in both:
        node.delete(one)
