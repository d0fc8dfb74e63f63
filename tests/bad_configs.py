"""
Configurations that must be refused, by the code of the error.

`tests/unit/engine/test_bad_configs.py` tries every row in its own process, but those that need a kernel.
`tests/e2e/test_bad_input.py` tries one row of each kind of fault on the executables: all but the tables whose
names begin with MORE.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from functools import reduce
from typing import Any

VERSION, ENVIRONMENT, IO, DECODING, CONFIG, NETNS = 1, 4, 5, 6, 7, 8
KERNEL, EXHAUSTED, OF_THE_DELEGATE = 100, 102, 123
Codes = int | tuple[int, ...]
Changes = dict[str, Any]

MASTER = "cnikm"
GOOD: dict[str, Any] = {
    "cniVersion": "1.0.0",
    "name": "cnienet",
    "type": "bridge",
    "bridge": "cniebr0",
    "isGateway": True,
    "ipMasq": True,
    "ipam": {
        "type": "host-local",
        "ranges": [[{"subnet": "10.86.0.0/24", "rangeStart": "10.86.0.2", "rangeEnd": "10.86.0.9"}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    },
}
MACVLAN: dict[str, Any] = {
    "cniVersion": "1.0.0",
    "name": "cnienet",
    "type": "macvlan",
    "master": MASTER,
    "ipam": {
        "type": "host-local",
        "ranges": [[{"subnet": "10.86.0.0/24", "rangeStart": "10.86.0.2", "rangeEnd": "10.86.0.9"}]],
    },
}
PTP: dict[str, Any] = {key: value for key, value in MACVLAN.items() if key != "master"} | {"type": "ptp"}
BANDWIDTH: dict[str, Any] = {
    "cniVersion": "1.0.0",
    "name": "cnienet",
    "type": "bandwidth",
    "ingressRate": 8000,
    "ingressBurst": 80000,
    "prevResult": {
        "cniVersion": "1.0.0",
        "interfaces": [{"name": "veth0"}, {"name": "eth0", "sandbox": "/nowhere"}],
    },
}
DUAL = {"ipam.ranges": [*MACVLAN["ipam"]["ranges"], [{"subnet": "fd00:86::/64"}]]}


def static(*addresses: Changes, **more: Any) -> Changes:
    return {"type": "static", "addresses": list(addresses), **more}


def changed(key: str, value: Any, good: Changes = GOOD) -> dict[str, Any]:
    """The good configuration, with the value at a dotted path replaced."""
    return all_changed({key: value}, good)


def all_changed(changes: Changes, good: Changes = GOOD) -> dict[str, Any]:
    """The same with several values."""
    conf = copy.deepcopy(good)
    for key, value in changes.items():
        *parents, last = (int(part) if part.isdigit() else part for part in key.split("."))
        reduce(lambda at, part: at[part], parents, conf)[last] = value  # type: ignore[index]
    return conf


# ---------------------------------------------------------------------------------------------------- stdin

MEGABYTE = 1 << 20
DEPTH = 100_000

UNREADABLE: dict[str, bytes] = {
    "not-json": b"nonsense",
    "empty": b"",
    "blank": b" \n",
    "cut-short": json.dumps(GOOD).encode()[:-1],
    "two-documents": json.dumps(GOOD).encode() * 2,
    "not-utf8": b'{"cniVersion": "1.0.0", "name": "\xff\xfe"}',
    "an-array": b"[]",
    "a-string": b'"bridge"',
    "a-number": b"1",
    "10-mb-of-rubbish": b"x" * 10 * MEGABYTE,
    "10-mb-of-blanks": b" " * 10 * MEGABYTE,
    "10-mb-array": b"[" + b"0," * (5 * MEGABYTE) + b"0]",
    "10-mb-string-cut-short": b'{"cniVersion": "1.0.0", "name": "' + b"n" * 10 * MEGABYTE,
    "deep-objects": b'{"a":' * DEPTH + b"1" + b"}" * DEPTH,
    "deep-arrays": b'{"a":' + b"[" * DEPTH + b"]" * DEPTH + b"}",
    "deep-and-never-closed": b"[" * DEPTH,
}

# ------------------------------------------------------------------------------------------------ bridge

WRONG_TYPES: list[tuple[str, Any]] = [
    ("bridge", 5),
    ("isGateway", "yes"),
    ("ipMasq", "yes"),
    ("mtu", 1500.5),
    ("vlanTrunk", [100]),
    ("dns", {"nameservers": "10.86.0.1"}),
    ("runtimeConfig", {"mac": 5}),
    ("runtimeConfig", {"ips": "10.86.0.5"}),
    ("ipam", "host-local"),
    ("ipam.type", 5),
    ("ipam.ranges", [["10.86.0.0/24"]]),
    ("ipam.ranges.0.0.subnet", 10),
    ("ipam.routes.0.dst", 0),
    ("ipam.dataDir", 5),
]
MORE_WRONG_TYPES: list[tuple[str, Any]] = [
    ("isGateway", 1),
    ("isDefaultGateway", "yes"),
    ("forceAddress", "yes"),
    ("ipMasqBackend", 5),
    ("mtu", "1500"),
    ("mtu", True),
    ("hairpinMode", 1),
    ("promiscMode", "yes"),
    ("vlan", "100"),
    ("vlanTrunk", {"id": 100}),
    ("vlanTrunk", [{"id": "100"}]),
    ("preserveDefaultVlan", "no"),
    ("macspoofchk", "yes"),
    ("enabledad", "yes"),
    ("disableContainerInterface", "no"),
    ("portIsolation", "no"),
    ("dns", "10.86.0.1"),
    ("runtimeConfig", "none"),
    ("ipam", ["host-local"]),
    ("ipam.ranges", "10.86.0.0/24"),
    ("ipam.ranges", [{"subnet": "10.86.0.0/24"}]),
    ("ipam.ranges.0.0.rangeStart", 10),
    ("ipam.ranges.0.0.rangeEnd", {}),
    ("ipam.ranges.0.0.gateway", True),
    ("ipam.routes", {"dst": "0.0.0.0/0"}),
    ("ipam.routes", ["0.0.0.0/0"]),
    ("ipam.routes.0.gw", 1),
    ("ipam.resolvConf", 5),
]

BAD_VALUES: list[tuple[str, Any, Codes]] = [
    ("cniVersion", "9.9.9", VERSION),
    ("cniVersion", 1, (VERSION, DECODING, CONFIG)),
    ("name", 5, (DECODING, CONFIG)),
    ("name", "../cnienet", CONFIG),
    ("bridge", "sixteen-bytes-br", (CONFIG, KERNEL)),
    ("mtu", -1, CONFIG),
    ("vlan", 4095, CONFIG),
    ("vlanTrunk", [{"minID": 20, "maxID": 10}], CONFIG),
    ("ipMasqBackend", "ebtables", CONFIG),
    ("disableContainerInterface", True, CONFIG),
    ("runtimeConfig", {"mac": "zz"}, (ENVIRONMENT, CONFIG)),
    ("runtimeConfig", {"ips": ["10.99.0.5/24"]}, (CONFIG, EXHAUSTED)),
    ("ipam.type", "cnie-absent", ()),
    ("ipam.type", "../bin/host-local", ()),
    ("ipam.ranges", [[]], CONFIG),
    ("ipam.ranges.0.0.subnet", "10.86.0.5/24", CONFIG),
    ("ipam.ranges.0.0.rangeStart", "10.99.0.2", CONFIG),
    ("ipam.ranges", [[{"subnet": "10.86.0.0/24"}], [{"subnet": "10.86.0.0/16"}]], CONFIG),
    ("ipam.routes.0.dst", "rubbish", CONFIG),
    ("ipam.resolvConf", "/nowhere/resolv.conf", (IO, CONFIG)),
]
MORE_BAD_VALUES: list[tuple[str, Any, Codes]] = [
    ("cniVersion", "rubbish", VERSION),
    ("name", "", CONFIG),
    ("name", "a/b", CONFIG),
    ("name", ".hidden", CONFIG),
    ("bridge", "../br", (CONFIG, KERNEL)),
    ("vlan", -1, CONFIG),
    ("vlanTrunk", [{"id": 0}], CONFIG),
    ("vlanTrunk", [{"minID": 20}], CONFIG),
    ("ipam.ranges", [], CONFIG),
    ("ipam.ranges.0.0.subnet", "10.86.0.0/31", CONFIG),
    ("ipam.ranges.0.0.subnet", "rubbish", CONFIG),
    ("ipam.ranges.0.0.rangeEnd", "10.86.0.1", CONFIG),
    ("ipam.ranges.0.0.gateway", "rubbish", CONFIG),
    ("ipam.ranges", [[{"subnet": "10.86.0.0/24"}, {"subnet": "fd00::/64"}]], CONFIG),
]

# ----------------------------------------------------------------------------------------------- macvlan

WRONG_TYPES_OF_MACVLAN: list[tuple[str, Any]] = [
    ("master", 5),
    ("mode", ["bridge"]),
    ("allowedMACs", [5]),
    ("mtu", "1500"),
    ("linkInContainer", "yes"),
    ("bcqueuelen", 1.5),
    ("vlan", 100.0),
    ("ipMasq", {"v4": "yes"}),
    ("args", {"cni": {"mac": 5}}),
]
MORE_WRONG_TYPES_OF_MACVLAN: list[tuple[str, Any]] = [
    ("master", ["cnikm"]),
    ("mode", 4),
    ("allowedMACs", "02:00:00:00:00:01"),
    ("mtu", True),
    ("mtu", "auto"),
    ("mac", 5),
    ("bcqueuelen", "1000"),
    ("vlan", "x"),
    ("vlan", "100"),
    ("vlan", True),
    ("vlanProtocol", 8100),
    ("hostAccess", 1),
    ("isGateway", "yes"),
    ("ipMasq", "yes"),
    ("ipMasqBackend", 5),
    ("enabledad", "yes"),
    ("ipam", "host-local"),
    ("dns", "10.86.0.1"),
    ("runtimeConfig", {"mac": 5}),
]
BAD_MACVLANS: list[Changes] = [
    {"mode": "tunnel"},
    {"mode": "source"},
    {"mode": "source", "allowedMACs": ["01:00:5e:00:00:01"]},
    {"allowedMACs": ["02:00:00:00:00:01"]},
    {"mtu": 65536},
    {"vlan": 4095},
    {"vlan": 100, "linkInContainer": True},
    {"vlan": 100, "vlanProtocol": "802.1x"},
    {"bcqueuelen": 1 << 32},
    {"master": "../lo"},
    {"hostAccess": True, "mode": "private"},
    {"ipMasqBackend": "ebtables"},
]
MORE_BAD_MACVLANS: list[Changes] = [
    {"mode": "BRIDGE"},
    {"mode": "source", "allowedMACs": []},
    {"mode": "source", "allowedMACs": ["zz"]},
    {"mtu": 67},
    {"mtu": -1},
    {"vlan": 0},
    {"vlan": -1},
    {"vlan": 1 << 40},
    {"bcqueuelen": -1},
    {"master": "longer-than-any-name-of-a-link" * 5},
    {"master": "a b"},
    {"hostAccess": True, "mode": "passthru"},
    {"hostAccess": True, "linkInContainer": True},
]
MACVLANS_NO_KERNEL_TAKES: list[Changes] = [
    {"mtu": 1501},
    {"mtu": 1279, **DUAL},
    {"master": "cnikslim", **DUAL},
    {"master": "cnikslim", "mtu": 1001},
    {"master": f"{MASTER}.0"},
    {"master": f"{MASTER}.4095"},
    {"master": f"{MASTER}.x"},
    {"master": f"{MASTER}.-1"},
    {"master": f"{MASTER}.100", "vlan": 200},
    {"master": "absent.100"},
    {"vlan": 100, "master": "lo"},
    {"master": ""},
    {"master": "absent"},
    {"master": "lo"},
    {"master": "cnikport"},
    {"linkInContainer": True},
    {"linkInContainer": True, "master": "lo"},
    {"linkInContainer": True, "master": ""},
    {"hostAccess": True, "isGateway": True, "ipam.ranges.0.0.gateway": "10.99.0.1"},
    {
        "hostAccess": True,
        "isGateway": True,
        "ipam": static({"address": "10.86.0.2/24", "gateway": "10.99.0.1"}),
    },
    {"hostAccess": True, "isGateway": True, "ipam": static({"address": "10.86.0.1/24"})},
    {"hostAccess": True, "isGateway": True, "ipam": static({"address": "10.86.0.1/32"})},
]
"""Only tried on the executables, as are the PTPs below: masters and addresses decide."""

# --------------------------------------------------------------------------------------------------- ptp

WRONG_TYPES_OF_PTP: list[tuple[str, Any]] = [
    ("routed", 1),
    ("ipMasq", {"exclude": "10.0.0.0/8"}),
    ("mtu", 1500.5),
    ("ipam", []),
    ("dns", {"nameservers": "10.86.0.1"}),
]
MORE_WRONG_TYPES_OF_PTP: list[tuple[str, Any]] = [
    ("routed", "yes"),
    ("ipMasq", "yes"),
    ("ipMasqBackend", 5),
    ("mtu", "1500"),
    ("mtu", True),
    ("mac", 5),
    ("enabledad", "yes"),
    ("ipam", "host-local"),
]
BAD_PTPS: list[Changes] = [
    {"ipam": {}},
    {"mtu": 65536},
    {"mtu": "automatic"},
    {"ipMasq": {"exclude": ["rubbish"]}},
]
MORE_BAD_PTPS: list[Changes] = [
    {"ipam": None},
    {"ipam.type": ""},
    {"mtu": 67},
    {"mtu": -1},
    {"ipMasqBackend": "ebtables"},
]
PTPS_NO_HOST_TAKES: list[Changes] = [
    {"ipam": static({"address": "10.86.0.2/24"})},
    {"ipam": static({"address": "10.86.0.2/24", "gateway": "10.86.0.1"}, {"address": "fd00:86::2/64"})},
    {"ipam": static({"address": "10.86.0.2/24", "gateway": "10.86.0.2"})},
    {
        "ipam": static(
            {"address": "10.86.0.2/24", "gateway": "10.86.0.3"},
            {"address": "10.86.0.3/24", "gateway": "10.86.0.1"},
        )
    },
    {"routed": True, "ipam.routes": [{"dst": "0.0.0.0/0", "gw": "10.86.0.1"}]},
    {"routed": True, "ipam.routes": [{"dst": "::/0"}]},
    {"routed": True, "ipam.routes": [{"dst": "10.99.0.0/16", "scope": 253}]},
]

# --------------------------------------------------------------------------------------------------- sbr

SBR: dict[str, Any] = {
    "cniVersion": "1.0.0",
    "name": "cnienet",
    "type": "sbr",
    "prevResult": {
        "cniVersion": "1.0.0",
        "interfaces": [{"name": "eth0", "sandbox": "/nowhere"}],
        "ips": [{"address": "10.86.0.2/24", "gateway": "10.86.0.1", "interface": 0}],
    },
}
BAD_SBRS: list[Changes] = [
    {"table": 0},
    {"table": "main"},
    {"gateways": "10.86.0.1"},
    {"gateways": ["10.86.0.1", "10.86.0.2"]},
    {"addSourceHints": "yes"},
    {"prevResult": None},
]
MORE_BAD_SBRS: list[Changes] = [
    {"table": -1},
    {"table": 4294967296},
    {"table": 100.5},
    {"table": True},
    {"gateways": {}},
    {"gateways": [5]},
    {"gateways": [""]},
    {"gateways": ["10.86.0.0/24"]},
    {"gateways": ["10.86.0.1\0"]},
    {"gateways": ["fe80::1%eth0"]},
    {"gateways": ["224.0.0.1"]},
    {"gateways": ["10.86.0.1", "fd00::1", "fd00::2"]},
    {"addSourceHints": 1},
]
# ------------------------------------------------------------------------------------------------ tuning

TUNING: dict[str, Any] = {
    "cniVersion": "1.0.0",
    "name": "cnienet",
    "type": "tuning",
    "sysctl": {"net.core.somaxconn": "500"},
    "mtu": 1400,
    "prevResult": {
        "cniVersion": "1.0.0",
        "interfaces": [{"name": "eth0", "sandbox": "/run/netns/cnie1"}],
        "ips": [{"address": "fd00:86::2/64", "interface": 0}],
    },
}
WRONG_TYPES_OF_TUNING: list[tuple[str, Any]] = [
    ("sysctl", ["net.core.somaxconn=500"]),
    ("sysctl", {"net.core.somaxconn": 500}),
    ("promisc", "yes"),
    ("mtu", "1400"),
    ("allmulti", 1),
    ("txQLen", 5.5),
    ("dataDir", 5),
    ("args", {"cni": {"sysctl": "x"}}),
]
MORE_WRONG_TYPES_OF_TUNING: list[tuple[str, Any]] = [
    ("sysctl", "net.core.somaxconn=500"),
    ("sysctl", {"net.core.somaxconn": ["500"]}),
    ("sysctl", {"net.core.somaxconn": True}),
    ("mac", 5),
    ("promisc", 1),
    ("mtu", True),
    ("mtu", "auto"),
    ("allmulti", "on"),
    ("txQLen", "5"),
    ("mtuBothEnds", 1),
    ("dataDir", ["/run"]),
    ("args", "x"),
    ("args", {"cni": {"promisc": 1}}),
    ("runtimeConfig", {"mac": 5}),
]
BAD_TUNINGS: list[Changes] = [
    {"sysctl": {"kernel.hostname": "x"}},
    {"sysctl": {"net/ipv4/../../kernel/hostname": "x"}},
    {"sysctl": {"/net/core/somaxconn": "1"}},
    {"sysctl": {"net.core.somaxconn\u0000": "1"}},
    {"sysctl": {"net.core.somaxconn": "1\u0000"}},
    {"sysctl": {"net.core.somaxconn": "1", "net/core/somaxconn": "2"}},
    {"mtu": 67},
    {"txQLen": -1},
    {"dataDir": "relative"},
]
MORE_BAD_TUNINGS: list[Changes] = [
    {"sysctl": {"": "x"}},
    {"sysctl": {"net": "x"}},
    {"sysctl": {"net.": "x"}},
    {"sysctl": {"net..core": "x"}},
    {"sysctl": {"net/./core/somaxconn": "x"}},
    {"sysctl": {"net.ipv4.conf.\\..x": "x"}},
    {"args": {"cni": {"sysctl": {"kernel.hostname": "x"}}}},
    {"mtu": -1},
    {"mtu": 1 << 31},
    {"txQLen": 1 << 32},
    {"dataDir": "/a\u0000b"},
    {"prevResult": None},
]
TUNINGS_NO_KERNEL_TAKES: list[tuple[Changes, Codes]] = [
    ({"sysctl": {"net.ipv4.no_such_key": "1"}}, KERNEL),
    ({"sysctl": {"net.core.somaxconn": "many"}}, KERNEL),
    ({"sysctl": {"net.ipv4.conf": "1"}}, KERNEL),
    ({"mtu": 1279}, CONFIG),
    ({"mtu": 1400}, KERNEL),
    ({"mtuBothEnds": True}, KERNEL),
    ({"dataDir": "/etc/passwd"}, (IO, KERNEL)),
]
"""Only tried on the executables: the sandbox has no link of the name."""

# --------------------------------------------------------------------------------------------- bandwidth

WRONG_TYPES_OF_BANDWIDTH: list[tuple[str, Any]] = [
    ("ingressRate", "8000"),
    ("ingressBurst", True),
    ("runtimeConfig", {"bandwidth": 5}),
]
MORE_WRONG_TYPES_OF_BANDWIDTH: list[tuple[str, Any]] = [
    ("egressRate", 1.5),
    ("egressBurst", []),
    ("runtimeConfig", []),
    ("runtimeConfig", {"bandwidth": {"egressRate": "1M", "egressBurst": 1}}),
    ("capabilities", {"bandwidth": 1}),
]
BAD_BANDWIDTHS: list[Changes] = [
    {"ingressBurst": 0},
    {"ingressRate": 0},
    {"ingressBurst": 34359738360},
    {"prevResult": None},
]
MORE_BAD_BANDWIDTHS: list[Changes] = [
    {"ingressRate": -1},
    {"ingressRate": 2**64},
    {"ingressRate": 7},
    {"egressRate": 8000},
    {"egressBurst": 80000},
    {"runtimeConfig": {"bandwidth": {"ingressBurst": 80000}}},
]

# ---------------------------------------------------------------------------------------------- firewall

FIREWALL: dict[str, Any] = {
    "cniVersion": "1.0.0",
    "name": "cnienet",
    "type": "firewall",
    "prevResult": {
        "cniVersion": "1.0.0",
        "interfaces": [{"name": "cniebr0"}, {"name": "veth0"}, {"name": "eth0", "sandbox": "/nowhere"}],
        "ips": [{"address": "10.86.0.2/24", "interface": 2}],
    },
}
WRONG_TYPES_OF_FIREWALL: list[tuple[str, Any]] = [
    ("backend", 5),
    ("iptablesAdminChainName", ["CNI-ADMIN"]),
    ("firewalldZone", {"zone": "trusted"}),
    ("ingressPolicy", True),
]
MORE_WRONG_TYPES_OF_FIREWALL: list[tuple[str, Any]] = [
    ("backend", ["nftables"]),
    ("iptablesAdminChainName", 5),
    ("firewalldZone", 5),
    ("ingressPolicy", {}),
]
BAD_FIREWALLS: list[Changes] = [
    {"backend": "ebtables"},
    {"iptablesAdminChainName": "x" * 29},
    {"iptablesAdminChainName": "CNI-FORWARD"},
    {"iptablesAdminChainName": "A\nCOMMIT\n*nat"},
    {"firewalldZone": "../trusted"},
    {"ingressPolicy": "closed"},
    {"prevResult": None},
]
MORE_BAD_FIREWALLS: list[Changes] = [
    {"backend": "IPTABLES"},
    {"backend": "nft"},
    {"iptablesAdminChainName": "-A"},
    {"iptablesAdminChainName": "!A"},
    {"iptablesAdminChainName": "A B"},
    {"iptablesAdminChainName": 'A"B'},
    {"iptablesAdminChainName": "A\0B"},
    {"iptablesAdminChainName": "\u00c4"},
    {"iptablesAdminChainName": "DROP"},
    {"firewalldZone": "a b"},
    {"firewalldZone": "a.b"},
    {"firewalldZone": "/a"},
    {"firewalldZone": "a\0"},
    {"firewalldZone": "\ud800"},
    {"firewalldZone": "z" * 65},
    {"ingressPolicy": "Isolated"},
]


# ----------------------------------------------------------------------------------------------- portmap

PORT = {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}
PORTMAP: dict[str, Any] = {
    "cniVersion": "1.0.0",
    "name": "cnienet",
    "type": "portmap",
    "runtimeConfig": {"portMappings": [PORT]},
    "prevResult": {
        "cniVersion": "1.0.0",
        "interfaces": [{"name": "veth0"}, {"name": "eth0", "sandbox": "/nowhere"}],
        "ips": [{"address": "10.86.0.2/24", "interface": 1}],
    },
}
WRONG_TYPES_OF_PORTMAP: list[tuple[str, Any]] = [
    ("snat", "yes"),
    ("conditionsV4", "ip saddr 10.0.0.1"),
    ("runtimeConfig", {"portMappings": {}}),
    ("runtimeConfig.portMappings.0", "8080:80"),
    ("runtimeConfig.portMappings.0.hostPort", "80"),
]
MORE_WRONG_TYPES_OF_PORTMAP: list[tuple[str, Any]] = [
    ("backend", 5),
    ("masqAll", 1),
    ("markMasqBit", "13"),
    ("externalSetMarkChain", ["KUBE-MARK-MASQ"]),
    ("conditionsV6", [5]),
    ("runtimeConfig", []),
    ("runtimeConfig.portMappings.0.hostPort", True),
    ("runtimeConfig.portMappings.0.containerPort", 80.5),
    ("runtimeConfig.portMappings.0.protocol", 6),
    ("runtimeConfig.portMappings.0.hostIP", 5),
]
BAD_PORTMAPS: list[Changes] = [
    {"backend": "ipvs"},
    {"markMasqBit": 32},
    {"markMasqBit": 1, "externalSetMarkChain": "KUBE-MARK-MASQ"},
    {"externalSetMarkChain": "A\nCOMMIT\n*raw"},
    {"backend": "iptables", "conditionsV4": ["ip", "saddr", "10.0.0.1"]},
    {"conditionsV4": ["ip", "saddr", "10.0.0.1;", "flush", "ruleset"]},
    {"conditionsV4": ["-s", "10.0.0.0/8", "-j", "ACCEPT"]},
    {"runtimeConfig.portMappings.0.hostPort": 0},
    {"runtimeConfig.portMappings.0.containerPort": 70000},
    {"runtimeConfig.portMappings.0.protocol": "TCP"},
    {"runtimeConfig.portMappings.0.hostIP": "192.0.2"},
    {"runtimeConfig.portMappings": [PORT, PORT]},
    {"prevResult": None},
]
MORE_BAD_PORTMAPS: list[Changes] = [
    {"markMasqBit": -1},
    {"externalSetMarkChain": "x" * 29},
    {"externalSetMarkChain": "a\0b"},
    {"backend": "nftables", "externalSetMarkChain": "KUBE-MARK-MASQ"},
    {"conditionsV6": ["ip6", "a\nb"]},
    {"conditionsV4": ["-s", "x\n-F"]},
    {"runtimeConfig.portMappings.0.hostPort": -1},
    {"runtimeConfig.portMappings.0.hostPort": 65536},
    {"runtimeConfig.portMappings.0.hostPort": 2**64},
    {"runtimeConfig.portMappings.0.protocol": ""},
    {"runtimeConfig.portMappings.0.protocol": "tcp\0"},
    {"runtimeConfig.portMappings.0.hostIP": "fe80::1%eth0"},
    {"runtimeConfig.portMappings.0.hostIP": "224.0.0.1"},
    {"runtimeConfig.portMappings": [{"hostPort": 8080, "protocol": "tcp"}]},
]
PORTMAPS_NO_KERNEL_TAKES: list[Changes] = [
    {"conditionsV4": ["ip", "saddr", "nonsense"]},
    {"conditionsV4": ["-s", "999.0.0.0/8"]},
    {"externalSetMarkChain": "NO-SUCH-CHAIN"},
]

# --------------------------------------------------------------------------------- of every chained plugin

BAD_PREV_RESULTS: dict[str, tuple[Any, Codes]] = {
    "missing": (None, CONFIG),
    "a-number": (5, DECODING),
    "an-array": ([], DECODING),
    "addresses-that-are-none": ({"cniVersion": "1.0.0", "ips": "x"}, DECODING),
    "interfaces-that-are-none": ({"cniVersion": "1.0.0", "interfaces": [5]}, DECODING),
    "an-address-that-is-none": ({"cniVersion": "1.0.0", "ips": [{"address": "x"}]}, DECODING),
}

# ------------------------------------------------------------------------------------------- environment

BAD_ENVIRONMENTS: list[dict[str, str | None]] = [
    {"CNI_CONTAINERID": None},
    {"CNI_CONTAINERID": "../cnie1"},
    {"CNI_NETNS": None},
    {"CNI_IFNAME": "e/0"},
    {"CNI_COMMAND": "ATTACH"},
]
MORE_BAD_ENVIRONMENTS: list[dict[str, str | None]] = [
    {"CNI_IFNAME": None},
    {"CNI_PATH": None},
    {"CNI_CONTAINERID": ""},
    {"CNI_CONTAINERID": "cnie/1"},
    {"CNI_CONTAINERID": "-cnie1"},
    {"CNI_IFNAME": "sixteen-bytes-if"},
    {"CNI_IFNAME": ".."},
    {"CNI_IFNAME": "e:0"},
    {"CNI_IFNAME": "e 0"},
    {"CNI_COMMAND": "add"},
]
BAD_MACS = {"multicast": "01:00:5e:00:00:01", "all-zero": "00:00:00:00:00:00", "rubbish": "zz"}
MAC_SOURCES: dict[str, Callable[[str], tuple[Changes, dict[str, str]]]] = {
    "mac": lambda mac: ({"mac": mac}, {}),
    "runtimeConfig": lambda mac: ({"runtimeConfig": {"mac": mac}}, {}),
    "args.cni": lambda mac: ({"args": {"cni": {"mac": mac}}}, {}),
    "CNI_ARGS": lambda mac: ({}, {"CNI_ARGS": f"IgnoreUnknown=1;MAC={mac}"}),
}
