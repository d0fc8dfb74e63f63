"""
What is done with VLANs of the bridge plugin in the virtual machine.

A start of the executable takes some seconds there, so one of each call is cold, and two in the race.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.e2e.lab.vm import Part

BRIDGE = "cniebr0"
MODULES = ("bridge", "veth", "8021q", "nf_tables", "nft_masq", "nft_chain_nat")
RIDES_ON = {"cniVersion": "1.0.0", "type": "bridge", "bridge": BRIDGE}
NETWORKS: dict[str, dict[str, Any]] = {
    "n100": {
        "vlan": 100,
        "isGateway": True,
        "ipam": {"rangeStart": "10.100.0.10", "rangeEnd": "10.100.0.99"},
    },
    "n200": {"vlan": 200, "ipam": {"rangeStart": "10.100.0.200", "rangeEnd": "10.100.0.249"}},
    "keep": {
        "vlan": 100,
        "preserveDefaultVlan": True,
        "ipam": {"rangeStart": "10.100.0.100", "rangeEnd": "10.100.0.149"},
    },
    "race": {
        "bridge": "cniebr1",
        "vlan": 7,
        "isGateway": True,
        "ipam": {"subnet": "10.107.0.0/24"},
    },
    "trunk": {"vlanTrunk": [{"id": 100}, {"minID": 300, "maxID": 302}]},
}
CONTAINERS = {"a": "n100", "b": "n100", "other": "n200", "kept": "keep", "trunked": "trunk"}
SCRIPT = r"""
PLUGIN=bridge
for n in a b other kept trunked; do ip netns add $n; done
step add-a without_agent cni ADD a /conf/n100
step links-first ip -j link
with_key prevResult /tmp/out-add-a /conf/n100 >/conf/check-a
wait_for_agent
step add-b cni ADD b /conf/n100
step add-other cni ADD other /conf/n200
step add-kept cni ADD kept /conf/keep
step add-trunked cni ADD trunked /conf/trunk
ip -n trunked link add link eth0 name eth0.100 type vlan id 100
ip -n trunked addr add 10.100.0.250/24 dev eth0.100
ip -n trunked link set eth0 up
ip -n trunked link set eth0.100 up
step check-a without_agent cni CHECK a /conf/check-a
step vlans bridge -j vlan show
step gateway ip -j addr show
step ping-same ping_from a "$(address_of b)"
step ping-gateway ping_from a 10.100.0.1
step ping-kept ping_from a "$(address_of kept)"
step ping-trunked ping_from a 10.100.0.250
step ping-different ping_from a "$(address_of other)"
step del-a without_agent cni DEL a /conf/n100
step del-b cni DEL b /conf/n100
step del-other cni DEL other /conf/n200
step del-kept cni DEL kept /conf/keep
step del-trunked cni DEL trunked /conf/trunk
step links-last ip -j link
step vlans-last bridge -j vlan show
race() {
    for i in 1 2 3 4 5 6; do ip netns add p$i; done
    for i in 1 2 3 4 5 6; do
        (
            [ $i -gt 2 ] || export CNI_PLUGINS_AGENT=
            cni ADD p$i /conf/race >/tmp/p$i
            echo $? >/tmp/code-p$i
        ) &
    done
    wait
    for i in 1 2 3 4 5 6; do cat /tmp/code-p$i; ping_from p$i 10.107.0.1 >/dev/null; echo $?; done
    for i in 1 2 3 4 5 6; do cni DEL p$i /conf/race; done
}
step race race
step leases leases
"""


def part(dist: Path) -> Part:
    files: dict[str, Path | str] = {f"conf/{name}": _conf(name) for name in NETWORKS}
    files |= {f"opt/cni/bin/{name}": dist / name for name in ("bridge", "host-local", "cnictl")}
    return Part("bridge", SCRIPT, ("ip", "bridge"), MODULES, files)


def _conf(name: str) -> str:
    network = NETWORKS[name]
    ipam = {"type": "host-local", "subnet": "10.100.0.0/24"}
    merged = {"ipam": ipam | network["ipam"]} if "ipam" in network else {}
    return json.dumps(RIDES_ON | {"name": name} | network | merged)
