"""Whichever step of a plan is refused, the host is as it was, and the addresses are free again."""

from typing import Any

import pytest

from cni_plugins.contract.plugin import Decision
from cni_plugins.engine import lifecycle, registry
from cni_plugins.errors import KernelRefused
from cni_plugins.steps.ip import EnsureSysctl
from cni_plugins.steps.step import HOST

REFUSED = EnsureSysctl(HOST, ("ipv4", "no", "such", "setting"), "1")
FULL = {
    "isDefaultGateway": True,
    "ipMasq": True,
    "macspoofchk": True,
    "promiscMode": True,
    "portIsolation": True,
    "mtu": 1400,
}
CONFIGS = {
    "plain": {},
    "everything over nf_tables": FULL,
    "everything over iptables": {**FULL, "ipMasqBackend": "iptables"},
    "waiting for DAD": {"isGateway": True, "enabledad": True, "hairpinMode": True},
}


class Refusing:
    """Plans as the plugin does, up to a step that no kernel can carry out."""

    def __init__(self, name: str, position: int) -> None:
        self.plugin = registry.plugin(name)
        self.position = position
        self.reached = False

    def decide(self, *arguments: Any) -> Any:
        plan, result, _ = self.plugin.decide(*arguments)
        self.reached = self.position < len(plan)
        return Decision((*plan[: self.position], REFUSED), result)


def attempt(bed: Any, conf: dict[str, Any], sandbox: Any, position: int) -> Refusing:
    refusing = Refusing(conf["type"], position)
    request = bed.request(conf, sandbox)
    plugin = refusing.plugin._replace(decide=refusing.decide)
    with bed.inside(), pytest.raises(KernelRefused):
        lifecycle.run(plugin, request, bed.program)
    return refusing


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", CONFIGS)
def test_a_refused_step_leaves_nothing(bed: Any, name: str, needs: Any) -> None:
    if "iptables" in name:
        needs("iptables-restore")
    conf = bed.conf(**CONFIGS[name], ipam=bed.host_local("10.1.0.0/24", "fd00:1::/64"))
    sandbox = bed.sandbox()
    if "iptables" in name:  # its base chains come with the first rule of anybody, and stay
        warming = {**conf, "removeIdleBridge": True}
        bed.add(warming, sandbox)
        assert bed.call("DEL", warming, sandbox) == (0, None)
    before = bed.state()
    position = 0
    while attempt(bed, conf, sandbox, position).reached:
        after = bed.state()
        changed = {key: (before[key], after[key]) for key in before if after[key] != before[key]}
        assert not changed, f"after step {position} was refused"
        assert [link["ifname"] for link in sandbox.ip("link")] == ["lo"]
        position += 1
    assert position > 8


def test_a_refused_step_leaves_a_bridge_of_others_as_it_was(bed: Any) -> None:
    bed.host.run("ip", "link", "add", "br0", "type", "bridge")
    conf = bed.conf(**FULL, ipam=bed.host_local("10.1.0.0/24"))
    sandbox = bed.sandbox()
    before = bed.state()
    position = 0
    while attempt(bed, conf, sandbox, position).reached:
        assert bed.state() == before, f"after step {position} was refused"
        position += 1


ELSEWHERE: dict[str, dict[str, Any]] = {
    "macvlan": {"type": "macvlan", "master": "eth0", "mtu": 1400},
    "passthru": {"type": "macvlan", "master": "eth0", "mode": "passthru", "mac": "02:00:00:00:00:42"},
    "macvlan gateway": {
        "type": "macvlan",
        "master": "eth0",
        "hostAccess": True,
        "isGateway": True,
        "ipMasq": True,
    },
    "waiting for DAD": {"type": "macvlan", "master": "eth0", "enabledad": True},
    "ptp": {"type": "ptp", "ipMasq": True, "mtu": 1400},
    "routed": {"type": "ptp", "routed": True, "ipMasq": True},
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_refused_step_of_another_plugin_leaves_nothing(bed: Any, name: str) -> None:
    bed.host.skip_dad()
    bed.host.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "wire0")
    for link in ("eth0", "wire0"):
        bed.host.run("ip", "link", "set", link, "up")
    bed.host.run("ip", "address", "add", "10.1.0.250/24", "dev", "eth0")
    bed.host.run("ip", "address", "add", "fd00:1::250/64", "dev", "eth0", "nodad")
    ipam = bed.host_local("10.1.0.0/24", "fd00:1::/64", routes=[{"dst": "192.0.2.0/24"}])
    conf = bed.conf(**ELSEWHERE[name], ipam=ipam)
    sandbox = bed.sandbox()
    before = bed.state()
    position = 0
    while attempt(bed, conf, sandbox, position).reached:
        after = bed.state()
        changed = {key: (before[key], after[key]) for key in before if after[key] != before[key]}
        assert not changed, f"after step {position} was refused"
        assert [link["ifname"] for link in sandbox.ip("link")] == ["lo"]
        position += 1
    assert position > 5


PEERS = [
    {"node": f"h{n}", "vtep": f"10.99.0.{n}", "subnets": [f"10.244.{n}.0/24", f"fd44:{n}::/64"]}
    for n in (1, 2)
]
ROUTED = {"network": ["10.244.0.0/16", "fd44::/16"], "ipMasq": True}
STRETCHED = {"mode": "l2", "subnet": ["192.168.100.0/24", "fd64::/64"], "ipMasq": True}
BLOCKS = [
    {"node": f"h{n}", "vtep": f"10.99.0.{n}", "block": f"192.168.100.{16 * (n - 1)}/28"} for n in (1, 2)
]
OVERLAYS: dict[str, dict[str, Any]] = {
    "routed": {**ROUTED, "backend": {"type": "static", "peers": PEERS}},
    "asking": {
        **ROUTED,
        "backend": {
            "type": "static",
            "peers": ["10.99.0.1", "10.99.0.2"],
            "subnet": ["10.244.1.0/24", "fd44:1::/64"],
        },
    },
    "same subnet": {**ROUTED, "directRouting": "same-subnet", "backend": {"type": "static", "peers": PEERS}},
    "stretched": {**STRETCHED, "backend": {"type": "static", "peers": BLOCKS}},
    "flooding": {**STRETCHED, "bum": "head-end", "backend": {"type": "static", "peers": BLOCKS}},
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("name", "others"), [*((name, False) for name in OVERLAYS), ("asking", True), ("stretched", True)]
)
def test_a_refused_step_leaves_an_overlay_as_it_was(bed: Any, name: str, others: bool) -> None:
    bed.host.skip_dad()
    bed.host.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "wire0")
    for link in ("eth0", "wire0"):
        bed.host.run("ip", "link", "set", link, "up")
    bed.host.run("ip", "address", "add", "10.99.0.1/24", "dev", "eth0")
    ipam = {"type": "host-local", "dataDir": str(bed.leases)}
    conf = {"cniVersion": "1.1.0", "name": "net1", "type": "vxlan", "vni": 77, **OVERLAYS[name], "ipam": ipam}
    sandbox, neighbour = bed.sandbox(), bed.sandbox()
    result = bed.add(conf, neighbour, container="other") if others else {}
    before = {**bed.state(), **overlay_state(bed)}
    position = 0
    while attempt(bed, conf, sandbox, position).reached:
        after = {**bed.state(), **overlay_state(bed)}
        changed = {key: (before[key], after[key]) for key in before if after[key] != before[key]}
        assert not changed, f"after step {position} was refused"
        assert [link["ifname"] for link in sandbox.ip("link")] == ["lo"]
        position += 1
    assert position > 20
    if others:
        assert bed.call("CHECK", {**conf, "prevResult": result}, neighbour, container="other") == (0, None)


def overlay_state(bed: Any) -> dict[str, Any]:
    """Return what the kernel holds of an overlay beyond what every network has."""
    switch = "/proc/sys/net/ipv4/ip_forward_use_pmtu"
    return {
        "fdb": sorted(bed.host.run("bridge", "fdb", "show").splitlines()),
        "neighbours": sorted(bed.host.run("ip", "neighbour", "show", "nud", "permanent").splitlines()),
        "proxied": sorted(bed.host.run("ip", "-6", "neighbour", "show", "proxy").splitlines()),
        "use_pmtu": bed.host.run("cat", switch),
    }
