"""
Calls that cannot be served, tried on the executables: one error document, exit code 1, nothing changed.

Codes are asserted where the specification or our table of errors leaves no choice; 999 is never an answer.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from functools import reduce
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.lab.host import Host, raise_host
from tests.e2e.lab.plugin import BIN, Answer, Call, run
from tests.e2e.lab.state import LEASES, assert_unchanged, leases, observe, tree

pytestmark = pytest.mark.needs("ip", "nft")

VERSION, ENVIRONMENT, IO, DECODING, CONFIG, NETNS = 1, 4, 5, 6, 7, 8
KERNEL, EXHAUSTED, OF_THE_DELEGATE = 100, 102, 123
Codes = int | tuple[int, ...]
Refused = Callable[[Call, Codes], Answer]

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
ADD = Call("ADD", GOOD)
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

WRONG_TYPES: list[tuple[str, Any]] = [
    ("bridge", 5),
    ("isGateway", "yes"),
    ("isGateway", 1),
    ("isDefaultGateway", "yes"),
    ("forceAddress", "yes"),
    ("ipMasq", "yes"),
    ("ipMasqBackend", 5),
    ("mtu", "1500"),
    ("mtu", 1500.5),
    ("mtu", True),
    ("hairpinMode", 1),
    ("promiscMode", "yes"),
    ("vlan", "100"),
    ("vlanTrunk", {"id": 100}),
    ("vlanTrunk", [100]),
    ("vlanTrunk", [{"id": "100"}]),
    ("preserveDefaultVlan", "no"),
    ("macspoofchk", "yes"),
    ("enabledad", "yes"),
    ("disableContainerInterface", "no"),
    ("portIsolation", "no"),
    ("dns", "10.86.0.1"),
    ("dns", {"nameservers": "10.86.0.1"}),
    ("runtimeConfig", "none"),
    ("runtimeConfig", {"mac": 5}),
    ("runtimeConfig", {"ips": "10.86.0.5"}),
    ("ipam", "host-local"),
    ("ipam", ["host-local"]),
    ("ipam.type", 5),
    ("ipam.ranges", "10.86.0.0/24"),
    ("ipam.ranges", [{"subnet": "10.86.0.0/24"}]),
    ("ipam.ranges", [["10.86.0.0/24"]]),
    ("ipam.ranges.0.0.subnet", 10),
    ("ipam.ranges.0.0.rangeStart", 10),
    ("ipam.ranges.0.0.rangeEnd", {}),
    ("ipam.ranges.0.0.gateway", True),
    ("ipam.routes", {"dst": "0.0.0.0/0"}),
    ("ipam.routes", ["0.0.0.0/0"]),
    ("ipam.routes.0.dst", 0),
    ("ipam.routes.0.gw", 1),
    ("ipam.dataDir", 5),
    ("ipam.resolvConf", 5),
]

BAD_VALUES: list[tuple[str, Any, Codes]] = [
    ("cniVersion", "9.9.9", VERSION),
    ("cniVersion", "rubbish", VERSION),
    ("cniVersion", 1, (VERSION, DECODING, CONFIG)),
    ("name", 5, (DECODING, CONFIG)),
    ("name", "", CONFIG),
    ("name", "../cnienet", CONFIG),
    ("name", "a/b", CONFIG),
    ("name", ".hidden", CONFIG),
    ("bridge", "sixteen-bytes-br", (CONFIG, KERNEL)),
    ("bridge", "../br", (CONFIG, KERNEL)),
    ("mtu", -1, CONFIG),
    ("vlan", 4095, CONFIG),
    ("vlan", -1, CONFIG),
    ("vlanTrunk", [{"id": 0}], CONFIG),
    ("vlanTrunk", [{"minID": 20, "maxID": 10}], CONFIG),
    ("vlanTrunk", [{"minID": 20}], CONFIG),
    ("ipMasqBackend", "ebtables", CONFIG),
    ("disableContainerInterface", True, CONFIG),
    ("runtimeConfig", {"mac": "zz"}, (ENVIRONMENT, CONFIG)),
    ("runtimeConfig", {"ips": ["10.99.0.5/24"]}, (CONFIG, EXHAUSTED)),
    ("ipam.type", "cnie-absent", ()),
    ("ipam.type", "../bin/host-local", ()),
    ("ipam.ranges", [], CONFIG),
    ("ipam.ranges", [[]], CONFIG),
    ("ipam.ranges.0.0.subnet", "10.86.0.5/24", CONFIG),
    ("ipam.ranges.0.0.subnet", "10.86.0.0/31", CONFIG),
    ("ipam.ranges.0.0.subnet", "rubbish", CONFIG),
    ("ipam.ranges.0.0.rangeStart", "10.99.0.2", CONFIG),
    ("ipam.ranges.0.0.rangeEnd", "10.86.0.1", CONFIG),
    ("ipam.ranges.0.0.gateway", "rubbish", CONFIG),
    ("ipam.ranges", [[{"subnet": "10.86.0.0/24"}], [{"subnet": "10.86.0.0/16"}]], CONFIG),
    ("ipam.ranges", [[{"subnet": "10.86.0.0/24"}, {"subnet": "fd00::/64"}]], CONFIG),
    ("ipam.routes.0.dst", "rubbish", CONFIG),
    ("ipam.resolvConf", "/nowhere/resolv.conf", (IO, CONFIG)),
]

BAD_ENVIRONMENTS: list[dict[str, str | None]] = [
    {"CNI_CONTAINERID": None},
    {"CNI_NETNS": None},
    {"CNI_IFNAME": None},
    {"CNI_PATH": None},
    {"CNI_CONTAINERID": ""},
    {"CNI_CONTAINERID": "../cnie1"},
    {"CNI_CONTAINERID": "cnie/1"},
    {"CNI_CONTAINERID": "-cnie1"},
    {"CNI_IFNAME": "sixteen-bytes-if"},
    {"CNI_IFNAME": ".."},
    {"CNI_IFNAME": "e/0"},
    {"CNI_IFNAME": "e:0"},
    {"CNI_IFNAME": "e 0"},
    {"CNI_COMMAND": "ATTACH"},
    {"CNI_COMMAND": "add"},
]

BAD_NETNS = {
    "gone": "/run/netns/nowhere",
    "a-regular-file": "/etc/passwd",
    "a-directory": "/run/netns",
    "a-device": "/dev/null",
    "another-kind-of-namespace": "/proc/self/ns/mnt",
    "the-plugin's-own": "/proc/self/ns/net",
}

BAD_IPAM: dict[str, tuple[str, Codes]] = {
    "rubbish": ("cat >/dev/null; echo rubbish", ()),
    "rubbish-and-failure": ("cat >/dev/null; echo rubbish; exit 1", ()),
    "silence": ("cat >/dev/null", ()),
    "silent-failure": ("cat >/dev/null; exit 1", ()),
    "hangs-up-at-once": ("exec <&-; exit 3", ()),
    "killed": ("kill -9 $$", ()),
    "no-address": ("""cat >/dev/null; echo '{"cniVersion": "1.0.0", "ips": []}'""", ()),
    "bad-address": ("""cat >/dev/null; echo '{"cniVersion": "1.0.0", "ips": [{"address": "x"}]}'""", ()),
    "an-array": ("cat >/dev/null; echo '[]'", ()),
    "an-error-document": (
        f"""cat >/dev/null; echo '{{"code": {OF_THE_DELEGATE}, "msg": "no"}}'; exit 1""",
        OF_THE_DELEGATE,
    ),
}

BAD_DATA_DIRS: dict[str, str] = {
    "read-only": "mount --bind $dir $dir && mount -o remount,bind,ro $dir",
    "full-of-data": "mount -t tmpfs -o size=16k tmpfs $dir && ! cat /dev/zero >$dir/.filler",
    "full-of-files": "mount -t tmpfs -o nr_inodes=2 tmpfs $dir && touch $dir/.filler",
    "a-file": "rmdir $dir && touch $dir",
    "network-is-a-file": "touch $dir/cnienet",
    "lock-is-a-directory": "mkdir -p $dir/cnienet/lock",
}

ODD_LEASES: dict[str, str] = {
    "binary": "head -c 4096 /dev/urandom >$lease",
    "a-directory": "mkdir $lease",
    "a-symlink": "echo untouched >/run/target; ln -s /run/target $lease",
    "a-dangling-symlink": "ln -s /run/nowhere $lease",
    "of-another-container": r"printf 'somebody\r\neth0' >$lease",
    "of-the-oldest-format": "printf somebody >$lease",
}


@pytest.fixture
def netns(node: Host) -> str:
    [path] = node.netns("cnie1")
    return path


@pytest.fixture
def refused(node: Host, netns: str) -> Refused:
    """Make a call that must be refused and leave everything as it was."""
    assert netns == ADD.netns
    return refused_on(node)


def refused_on(node: Host) -> Refused:
    def look() -> tuple[Any, str]:
        return observe(node), node.run("ip", "-n", "cnie1", "addr").stdout

    def call(call: Call, codes: Codes) -> Answer:
        before, inside = look()
        answer = run(node, call)
        assert_one_error_document(answer, codes)
        assert_unchanged(node, before)
        assert look()[1] == inside
        return answer

    return call


def assert_one_error_document(answer: Answer, codes: Codes) -> None:
    assert answer.code == 1, answer
    document = answer.document
    assert set(document) - {"details"} == {"cniVersion", "code", "msg"}, document
    assert isinstance(document["code"], int)
    assert document["msg"]
    allowed = (codes,) if isinstance(codes, int) else codes
    assert document["code"] in allowed if allowed else document["code"] != 999, document


@pytest.mark.parametrize("stdin", UNREADABLE.values(), ids=UNREADABLE)
def test_stdin_that_cannot_be_read(refused: Refused, stdin: bytes) -> None:
    refused(ADD.but(conf=stdin), DECODING)


@pytest.mark.parametrize(("key", "value"), WRONG_TYPES, ids=str)
def test_a_key_of_the_wrong_type(refused: Refused, key: str, value: Any) -> None:
    refused(ADD.but(conf=changed(key, value)), CONFIG)


@pytest.mark.parametrize(("key", "value", "codes"), BAD_VALUES, ids=str)
def test_a_value_that_cannot_work(refused: Refused, key: str, value: Any, codes: Codes) -> None:
    refused(ADD.but(conf=changed(key, value), plugin="bridge"), codes)


def test_a_network_without_a_name(refused: Refused) -> None:
    refused(ADD.but(conf={key: value for key, value in GOOD.items() if key != "name"}), CONFIG)


def test_hairpin_and_promiscuous_mode_together(refused: Refused) -> None:
    refused(ADD.but(conf=GOOD | {"hairpinMode": True, "promiscMode": True}), CONFIG)


@pytest.mark.parametrize("variables", BAD_ENVIRONMENTS, ids=str)
def test_a_bad_environment(refused: Refused, variables: dict[str, str | None]) -> None:
    refused(ADD.but(variables=variables), ENVIRONMENT)


@pytest.mark.parametrize("path", BAD_NETNS.values(), ids=BAD_NETNS)
def test_a_netns_that_is_none(refused: Refused, path: str) -> None:
    refused(ADD.but(netns=path), NETNS)


@pytest.mark.parametrize("command", ["CHECK", "GC", "STATUS"])
def test_a_command_younger_than_the_config(refused: Refused, command: str) -> None:
    refused(ADD.but(command=command, conf=GOOD | {"cniVersion": "0.3.1"}), VERSION)


def test_a_cni_path_without_the_ipam(refused: Refused) -> None:
    refused(ADD.but(variables={"CNI_PATH": "/run/nowhere"}), ())


@pytest.mark.parametrize(("script", "codes"), BAD_IPAM.values(), ids=BAD_IPAM)
def test_an_ipam_that_misbehaves(node: Host, refused: Refused, script: str, codes: Codes) -> None:
    node.write("/run/fake/fake-ipam", f"#!/bin/sh\n{script}\n").chmod(0o755)
    conf = GOOD | {"ipam": {"type": "fake-ipam"}}
    refused(ADD.but(conf=conf, variables={"CNI_PATH": f"/run/fake:{BIN}"}), codes)


@pytest.mark.parametrize("plugin", ["bridge", "host-local"])
@pytest.mark.parametrize("breakage", BAD_DATA_DIRS.values(), ids=BAD_DATA_DIRS)
def test_a_data_directory_that_cannot_be_written(
    node: Host, refused: Refused, breakage: str, plugin: str
) -> None:
    node.run("sh", "-euc", f"dir={LEASES}; mkdir -p $dir; {breakage}")
    refused(ADD.but(plugin=plugin), IO)


@pytest.fixture
def odd_leases(node: Host, request: pytest.FixtureRequest) -> Callable[[], list[str]]:
    """Put the oddity in place of the lease of the first address; the answer tells how it looks."""
    directory = f"{LEASES}/cnienet"
    node.run("sh", "-euc", f"mkdir -p {directory}; lease={directory}/10.86.0.2; {request.param}")
    return lambda: [line for line in tree(node.path(directory)) if line.startswith("10.86.0.2 ")]


@pytest.mark.parametrize("odd_leases", ODD_LEASES.values(), ids=ODD_LEASES, indirect=True)
def test_an_odd_lease_keeps_its_address_and_stops_nobody(
    node: Host, netns: str, odd_leases: Callable[[], list[str]]
) -> None:
    before = odd_leases()
    add = ADD.but(netns=netns)
    assert run(node, add).ok().addresses == ["10.86.0.3"]
    run(node, add.but(command="DEL")).ok()
    run(node, add.but(command="DEL", netns="")).ok()
    assert odd_leases() == before
    target = node.path("/run/target")
    assert not target.exists() or target.read_text() == "untouched\n"


@pytest.mark.parametrize("odd_leases", ODD_LEASES.values(), ids=ODD_LEASES, indirect=True)
def test_an_odd_lease_of_the_only_address(refused: Refused, odd_leases: Callable[[], list[str]]) -> None:
    before = odd_leases()
    refused(ADD.but(conf=changed("ipam.ranges.0.0.rangeEnd", "10.86.0.2")), EXHAUSTED)
    assert odd_leases() == before


def test_an_empty_lease_is_reaped_by_gc(node: Host, netns: str) -> None:
    node.write(f"{LEASES}/cnienet/10.86.0.2", "")
    assert leases(node) == ["cnienet/10.86.0.2"]
    conf = GOOD | {"cniVersion": "1.1.0", "cni.dev/valid-attachments": []}
    run(node, Call("GC", conf, netns=netns)).ok()
    assert leases(node) == []


# ------------------------------------------------------------------------------------- macvlan and ptp

MASTER = "cnikm"
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
DUAL = {"ipam.ranges": [*MACVLAN["ipam"]["ranges"], [{"subnet": "fd00:86::/64"}]]}
RAISE_LINKS = f"""
ip link add {MASTER} mtu 1500 type veth peer name cnikfar
ip link set {MASTER} up
ip link add cnikslim mtu 1000 type veth peer name cnikslimfar
ip link set cnikslim up
ip link add cnikbr type bridge
ip link add cnikport type veth peer name cnikportfar
ip link set cnikport master cnikbr up
"""
Changes = dict[str, Any]


def static(*addresses: Changes, **more: Any) -> Changes:
    return {"type": "static", "addresses": list(addresses), **more}


WRONG_TYPES_OF_MACVLAN: list[tuple[str, Any]] = [
    ("master", 5),
    ("master", ["cnikm"]),
    ("mode", 4),
    ("mode", ["bridge"]),
    ("allowedMACs", "02:00:00:00:00:01"),
    ("allowedMACs", [5]),
    ("mtu", "1500"),
    ("mtu", True),
    ("mtu", "auto"),
    ("mac", 5),
    ("linkInContainer", "yes"),
    ("bcqueuelen", "1000"),
    ("bcqueuelen", 1.5),
    ("vlan", "x"),
    ("vlan", "100"),
    ("vlan", True),
    ("vlan", 100.0),
    ("vlanProtocol", 8100),
    ("hostAccess", 1),
    ("isGateway", "yes"),
    ("ipMasq", "yes"),
    ("ipMasq", {"v4": "yes"}),
    ("ipMasqBackend", 5),
    ("enabledad", "yes"),
    ("ipam", "host-local"),
    ("dns", "10.86.0.1"),
    ("runtimeConfig", {"mac": 5}),
    ("args", {"cni": {"mac": 5}}),
]

BAD_MACVLANS: list[Changes] = [
    {"mode": "tunnel"},
    {"mode": "BRIDGE"},
    {"mode": "source"},
    {"mode": "source", "allowedMACs": []},
    {"mode": "source", "allowedMACs": ["zz"]},
    {"mode": "source", "allowedMACs": ["01:00:5e:00:00:01"]},
    {"allowedMACs": ["02:00:00:00:00:01"]},
    {"mtu": 1501},
    {"mtu": 67},
    {"mtu": -1},
    {"mtu": 65536},
    {"mtu": 1279, **DUAL},
    {"master": "cnikslim", **DUAL},
    {"master": "cnikslim", "mtu": 1001},
    {"vlan": 0},
    {"vlan": 4095},
    {"vlan": -1},
    {"vlan": 1 << 40},
    {"master": f"{MASTER}.0"},
    {"master": f"{MASTER}.4095"},
    {"master": f"{MASTER}.x"},
    {"master": f"{MASTER}.-1"},
    {"master": f"{MASTER}.100", "vlan": 200},
    {"master": "absent.100"},
    {"vlan": 100, "linkInContainer": True},
    {"vlan": 100, "vlanProtocol": "802.1x"},
    {"vlan": 100, "master": "lo"},
    {"bcqueuelen": -1},
    {"bcqueuelen": 1 << 32},
    {"master": ""},
    {"master": "absent"},
    {"master": "lo"},
    {"master": "cnikport"},
    {"master": "../lo"},
    {"master": "sixteen-bytes-if"},
    {"master": "a b"},
    {"linkInContainer": True},
    {"linkInContainer": True, "master": "lo"},
    {"linkInContainer": True, "master": ""},
    {"hostAccess": True, "mode": "private"},
    {"hostAccess": True, "mode": "passthru"},
    {"hostAccess": True, "linkInContainer": True},
    {"hostAccess": True, "isGateway": True, "ipam.ranges.0.0.gateway": "10.99.0.1"},
    {
        "hostAccess": True,
        "isGateway": True,
        "ipam": static({"address": "10.86.0.2/24", "gateway": "10.99.0.1"}),
    },
    {"hostAccess": True, "isGateway": True, "ipam": static({"address": "10.86.0.1/24"})},
    {"hostAccess": True, "isGateway": True, "ipam": static({"address": "10.86.0.1/32"})},
    {"ipMasqBackend": "ebtables"},
]

WRONG_TYPES_OF_PTP: list[tuple[str, Any]] = [
    ("routed", "yes"),
    ("routed", 1),
    ("ipMasq", "yes"),
    ("ipMasq", {"exclude": "10.0.0.0/8"}),
    ("ipMasqBackend", 5),
    ("mtu", "1500"),
    ("mtu", True),
    ("mtu", 1500.5),
    ("mac", 5),
    ("enabledad", "yes"),
    ("ipam", "host-local"),
    ("ipam", []),
    ("dns", {"nameservers": "10.86.0.1"}),
]

BAD_PTPS: list[Changes] = [
    {"ipam": {}},
    {"ipam": None},
    {"ipam.type": ""},
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
    {"mtu": 67},
    {"mtu": -1},
    {"mtu": 65536},
    {"mtu": "automatic"},
    {"ipMasq": {"exclude": ["rubbish"]}},
    {"ipMasqBackend": "ebtables"},
]

BAD_MACS = {"multicast": "01:00:5e:00:00:01", "all-zero": "00:00:00:00:00:00", "rubbish": "zz"}
MAC_SOURCES: dict[str, Callable[[str], tuple[Changes, dict[str, str]]]] = {
    "mac": lambda mac: ({"mac": mac}, {}),
    "runtimeConfig": lambda mac: ({"runtimeConfig": {"mac": mac}}, {}),
    "args.cni": lambda mac: ({"args": {"cni": {"mac": mac}}}, {}),
    "CNI_ARGS": lambda mac: ({}, {"CNI_ARGS": f"IgnoreUnknown=1;MAC={mac}"}),
}


@pytest.fixture(scope="module")
def links(dist: Path) -> Iterator[Host]:
    """A host with masters, good and bad; nothing that is refused changes it for the next."""
    with raise_host(dist) as host:
        host.netns("cnie1", "cnie2")
        host.run("sh", "-euc", RAISE_LINKS)
        yield host


@pytest.fixture
def refused_there(links: Host) -> Refused:
    return refused_on(links)


@pytest.mark.parametrize(("key", "value"), WRONG_TYPES_OF_MACVLAN, ids=str)
def test_a_key_of_macvlan_of_the_wrong_type(refused_there: Refused, key: str, value: Any) -> None:
    refused_there(ADD.but(conf=changed(key, value, MACVLAN)), CONFIG)


@pytest.mark.parametrize("changes", BAD_MACVLANS, ids=str)
def test_a_macvlan_that_cannot_work(refused_there: Refused, changes: Changes) -> None:
    refused_there(ADD.but(conf=all_changed(changes, MACVLAN)), CONFIG)


def test_a_macvlan_on_the_hosts_own_link(links: Host, refused_there: Refused) -> None:
    other = ADD.but(conf=MACVLAN | {"hostAccess": True}, container="cnie2", netns="/run/netns/cnie2")
    result = run(links, other).ok()
    [own] = [link["name"] for link in result.document["interfaces"] if not link.get("sandbox")]
    for hosts in ({}, {"hostAccess": True}, {"mode": "passthru"}, {"vlan": 100}):
        refused_there(ADD.but(conf=MACVLAN | {"master": own, **hosts}), CONFIG)
    run(links, other.but(command="DEL")).ok()


@pytest.mark.parametrize(("key", "value"), WRONG_TYPES_OF_PTP, ids=str)
def test_a_key_of_ptp_of_the_wrong_type(refused_there: Refused, key: str, value: Any) -> None:
    refused_there(ADD.but(conf=changed(key, value, PTP)), CONFIG)


@pytest.mark.parametrize("changes", BAD_PTPS, ids=str)
def test_a_ptp_that_cannot_work(refused_there: Refused, changes: Changes) -> None:
    refused_there(ADD.but(conf=all_changed(changes, PTP)), CONFIG)


def test_a_ptp_too_narrow_for_ipv6(refused_there: Refused) -> None:
    refused_there(ADD.but(conf=all_changed({"mtu": 1279, **DUAL}, PTP)), (CONFIG, KERNEL))


@pytest.mark.parametrize("mac", BAD_MACS.values(), ids=BAD_MACS)
@pytest.mark.parametrize("source", MAC_SOURCES.values(), ids=MAC_SOURCES)
@pytest.mark.parametrize("good", [MACVLAN, PTP], ids=["macvlan", "ptp"])
def test_a_mac_that_no_link_can_have(
    refused_there: Refused, good: Changes, source: Callable[[str], Any], mac: str
) -> None:
    changes, variables = source(mac)
    refused_there(ADD.but(conf=good | changes, variables=variables), CONFIG)


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
