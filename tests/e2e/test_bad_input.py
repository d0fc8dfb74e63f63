"""
Calls that cannot be served, tried on the executables: one error document, exit code 1, nothing changed.

Codes are asserted where the specification or our table of errors leaves no choice; 999 is never an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.bad_configs import (
    BAD_BANDWIDTHS,
    BAD_ENVIRONMENTS,
    BAD_FIREWALLS,
    BAD_MACS,
    BAD_MACVLANS,
    BAD_PORTMAPS,
    BAD_PREV_RESULTS,
    BAD_PTPS,
    BAD_SBRS,
    BAD_TUNINGS,
    BAD_VALUES,
    BANDWIDTH,
    CONFIG,
    DECODING,
    DUAL,
    ENVIRONMENT,
    EXHAUSTED,
    FIREWALL,
    GOOD,
    IO,
    KERNEL,
    MAC_SOURCES,
    MACVLAN,
    MACVLANS_NO_KERNEL_TAKES,
    MASTER,
    NETNS,
    OF_THE_DELEGATE,
    PORTMAP,
    PORTMAPS_NO_KERNEL_TAKES,
    PTP,
    PTPS_NO_HOST_TAKES,
    SBR,
    TUNING,
    TUNINGS_NO_KERNEL_TAKES,
    UNREADABLE,
    VERSION,
    WRONG_TYPES,
    WRONG_TYPES_OF_BANDWIDTH,
    WRONG_TYPES_OF_FIREWALL,
    WRONG_TYPES_OF_MACVLAN,
    WRONG_TYPES_OF_PORTMAP,
    WRONG_TYPES_OF_PTP,
    WRONG_TYPES_OF_TUNING,
    Changes,
    Codes,
    all_changed,
    changed,
)
from tests.e2e.lab.host import Host, raise_host
from tests.e2e.lab.plugin import BIN, Answer, Call, run
from tests.e2e.lab.state import LEASES, State, differences, leases, observe, settled, tree

pytestmark = pytest.mark.needs("ip", "nft")

Refused = Callable[[Call, Codes], Answer]

ADD = Call("ADD", GOOD)
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


@pytest.fixture(scope="module")
def links(dist: Path) -> Iterator[Host]:
    """A host with masters, good and bad, for all calls that are refused, as none of them changes it."""
    with raise_host(dist) as host:
        host.netns("cnie1", "cnie2")
        host.run("sh", "-euc", RAISE_LINKS)
        yield host


@pytest.fixture(scope="module")
def refused(links: Host) -> Refused:
    """Make a call that must be refused and leave everything as it was."""
    return refused_on(links)


def refused_on(node: Host) -> Refused:
    def look() -> State:
        return observe(node) | {"sandbox": node.run("ip", "-n", "cnie1", "addr").stdout.splitlines()}

    before = look()

    def call(call: Call, codes: Codes) -> Answer:
        nonlocal before
        answer = run(node, call)
        assert_one_error_document(answer, codes)
        after = settled(look, before)
        changes, before = differences(before, after), after
        assert changes == []
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
def test_an_ipam_that_misbehaves(links: Host, refused: Refused, script: str, codes: Codes) -> None:
    links.write("/run/fake/fake-ipam", f"#!/bin/sh\n{script}\n").chmod(0o755)
    conf = GOOD | {"ipam": {"type": "fake-ipam"}}
    refused(ADD.but(conf=conf, variables={"CNI_PATH": f"/run/fake:{BIN}"}), codes)


@pytest.mark.parametrize("plugin", ["bridge", "host-local"])
@pytest.mark.parametrize("breakage", BAD_DATA_DIRS.values(), ids=BAD_DATA_DIRS)
def test_a_data_directory_that_cannot_be_written(node: Host, netns: str, breakage: str, plugin: str) -> None:
    node.run("sh", "-euc", f"dir={LEASES}; mkdir -p $dir; {breakage}")
    refused_on(node)(ADD.but(plugin=plugin, netns=netns), IO)


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
def test_an_odd_lease_of_the_only_address(
    node: Host, netns: str, odd_leases: Callable[[], list[str]]
) -> None:
    before = odd_leases()
    assert netns == ADD.netns
    refused_on(node)(ADD.but(conf=changed("ipam.ranges.0.0.rangeEnd", "10.86.0.2")), EXHAUSTED)
    assert odd_leases() == before


def test_an_empty_lease_is_reaped_by_gc(node: Host, netns: str) -> None:
    node.write(f"{LEASES}/cnienet/10.86.0.2", "")
    assert leases(node) == ["cnienet/10.86.0.2"]
    conf = GOOD | {"cniVersion": "1.1.0", "cni.dev/valid-attachments": []}
    run(node, Call("GC", conf, netns=netns)).ok()
    assert leases(node) == []


# ------------------------------------------------------------------------------------- macvlan and ptp

RAISE_LINKS = f"""
ip link add {MASTER} mtu 1500 type veth peer name cnikfar
ip link set {MASTER} up
ip link add cnikslim mtu 1000 type veth peer name cnikslimfar
ip link set cnikslim up
ip link add cnikbr type bridge
ip link add cnikport type veth peer name cnikportfar
ip link set cnikport master cnikbr up
"""


@pytest.mark.parametrize(("key", "value"), WRONG_TYPES_OF_MACVLAN, ids=str)
def test_a_key_of_macvlan_of_the_wrong_type(refused: Refused, key: str, value: Any) -> None:
    refused(ADD.but(conf=changed(key, value, MACVLAN)), CONFIG)


@pytest.mark.parametrize("changes", BAD_MACVLANS + MACVLANS_NO_KERNEL_TAKES, ids=str)
def test_a_macvlan_that_cannot_work(refused: Refused, changes: Changes) -> None:
    refused(ADD.but(conf=all_changed(changes, MACVLAN)), CONFIG)


def test_a_macvlan_on_the_hosts_own_link(links: Host) -> None:
    other = ADD.but(conf=MACVLAN | {"hostAccess": True}, container="cnie2", netns="/run/netns/cnie2")
    result = run(links, other).ok()
    [own] = [link["name"] for link in result.document["interfaces"] if not link.get("sandbox")]
    refused = refused_on(links)
    for hosts in ({}, {"hostAccess": True}, {"mode": "passthru"}, {"vlan": 100}):
        refused(ADD.but(conf=MACVLAN | {"master": own, **hosts}), CONFIG)
    run(links, other.but(command="DEL")).ok()


@pytest.mark.parametrize(("key", "value"), WRONG_TYPES_OF_PTP, ids=str)
def test_a_key_of_ptp_of_the_wrong_type(refused: Refused, key: str, value: Any) -> None:
    refused(ADD.but(conf=changed(key, value, PTP)), CONFIG)


@pytest.mark.parametrize("changes", BAD_PTPS + PTPS_NO_HOST_TAKES, ids=str)
def test_a_ptp_that_cannot_work(refused: Refused, changes: Changes) -> None:
    refused(ADD.but(conf=all_changed(changes, PTP)), CONFIG)


@pytest.mark.parametrize(("key", "value"), WRONG_TYPES_OF_FIREWALL, ids=str)
def test_a_key_of_firewall_of_the_wrong_type(refused: Refused, key: str, value: Any) -> None:
    refused(ADD.but(conf=changed(key, value, FIREWALL)), CONFIG)


@pytest.mark.parametrize("changes", BAD_FIREWALLS, ids=str)
def test_a_firewall_that_cannot_work(refused: Refused, changes: Changes) -> None:
    refused(ADD.but(conf=all_changed(changes, FIREWALL)), CONFIG)


@pytest.mark.parametrize("changes", BAD_SBRS, ids=str)
def test_an_sbr_that_cannot_work(refused: Refused, changes: Changes) -> None:
    refused(ADD.but(conf=all_changed(changes, SBR)), CONFIG)


@pytest.mark.parametrize(("key", "value"), WRONG_TYPES_OF_BANDWIDTH, ids=str)
def test_a_key_of_bandwidth_of_the_wrong_type(refused: Refused, key: str, value: Any) -> None:
    refused(ADD.but(conf=changed(key, value, BANDWIDTH)), CONFIG)


@pytest.mark.parametrize("changes", BAD_BANDWIDTHS, ids=str)
def test_a_bandwidth_that_cannot_work(refused: Refused, changes: Changes) -> None:
    refused(ADD.but(conf=all_changed(changes, BANDWIDTH)), CONFIG)


def test_a_ptp_too_narrow_for_ipv6(refused: Refused) -> None:
    refused(ADD.but(conf=all_changed({"mtu": 1279, **DUAL}, PTP)), (CONFIG, KERNEL))


@pytest.mark.parametrize(
    ("good", "source", "mac"),
    [
        (MACVLAN, "mac", "multicast"),
        (MACVLAN, "args.cni", "all-zero"),
        (MACVLAN, "CNI_ARGS", "rubbish"),
        (PTP, "mac", "rubbish"),
        (PTP, "runtimeConfig", "all-zero"),
        (PTP, "CNI_ARGS", "multicast"),
    ],
    ids=lambda value: value if isinstance(value, str) else value["type"],
)
def test_a_mac_that_no_link_can_have(refused: Refused, good: Changes, source: str, mac: str) -> None:
    changes, variables = MAC_SOURCES[source](BAD_MACS[mac])
    refused(ADD.but(conf=good | changes, variables=variables), CONFIG)


# -------------------------------------------------------------------------------------------------- tuning


@pytest.mark.parametrize(("key", "value"), WRONG_TYPES_OF_TUNING, ids=str)
def test_a_key_of_tuning_of_the_wrong_type(refused: Refused, key: str, value: Any) -> None:
    refused(ADD.but(conf=changed(key, value, TUNING)), CONFIG)


@pytest.mark.parametrize("changes", BAD_TUNINGS, ids=str)
def test_a_tuning_that_cannot_work(refused: Refused, changes: Changes) -> None:
    refused(ADD.but(conf=all_changed(changes, TUNING)), CONFIG)


@pytest.mark.parametrize(("changes", "codes"), TUNINGS_NO_KERNEL_TAKES, ids=str)
def test_a_tuning_no_kernel_takes(links: Host, refused: Refused, changes: Changes, codes: Codes) -> None:
    refused(ADD.but(conf=all_changed(changes, TUNING)), codes)
    assert links.run("sh", "-c", "ls -A /run/cni/tuning 2>/dev/null; true").stdout == ""


# ------------------------------------------------------------------------------------------------- portmap


@pytest.mark.parametrize(("key", "value"), WRONG_TYPES_OF_PORTMAP, ids=str)
def test_a_key_of_portmap_of_the_wrong_type(refused: Refused, key: str, value: Any) -> None:
    refused(ADD.but(conf=changed(key, value, PORTMAP)), CONFIG)


@pytest.mark.parametrize("changes", BAD_PORTMAPS, ids=str)
def test_a_portmap_that_cannot_work(refused: Refused, changes: Changes) -> None:
    refused(ADD.but(conf=all_changed(changes, PORTMAP)), CONFIG)


@pytest.mark.parametrize("changes", PORTMAPS_NO_KERNEL_TAKES, ids=str)
def test_a_portmap_no_kernel_takes(refused: Refused, changes: Changes) -> None:
    refused(ADD.but(conf=all_changed(changes, PORTMAP)), KERNEL)


# ---------------------------------------------------------------------------------- every chained plugin

CHAINED = {str(good["type"]): good for good in (BANDWIDTH, FIREWALL, PORTMAP, SBR, TUNING)}
EACH = pytest.mark.parametrize("good", CHAINED.values(), ids=CHAINED)


@EACH
@pytest.mark.parametrize(("result", "codes"), BAD_PREV_RESULTS.values(), ids=BAD_PREV_RESULTS)
@pytest.mark.parametrize("command", ["ADD", "CHECK"])
def test_a_prev_result_that_cannot_be_read(
    refused: Refused, command: str, good: Changes, result: Any, codes: Codes
) -> None:
    refused(ADD.but(command=command, conf=good | {"prevResult": result}), codes)


@EACH
@pytest.mark.parametrize("path", ["/run/netns/nowhere", "/etc/passwd", "/proc/self/ns/net"])
def test_a_netns_of_a_chained_plugin_that_is_none(refused: Refused, good: Changes, path: str) -> None:
    refused(ADD.but(conf=good, netns=path), NETNS)


@EACH
@pytest.mark.parametrize("command", ["CHECK", "GC", "STATUS"])
def test_a_command_younger_than_the_config_of_a_chained_plugin(
    refused: Refused, good: Changes, command: str
) -> None:
    refused(ADD.but(command=command, conf=good | {"cniVersion": "0.3.1"}), VERSION)


@EACH
@pytest.mark.parametrize("netns", ["/run/netns/cnie1", "/run/netns/nowhere", ""])
def test_del_asks_for_nothing_but_the_attachment(links: Host, good: Changes, netns: str) -> None:
    """Not for a prevResult that it can read, nor for a config that ADD would take."""
    before = observe(links)
    wrong = {key: {"wrong": ["type"]} for key in good if key not in ("cniVersion", "name", "type")}
    for conf in (good | {"prevResult": None}, good | wrong | {"prevResult": None}):
        answer = run(links, Call("DEL", conf, netns=netns))
        assert (answer.code, answer.out, answer.err) == (0, b"", b"")
    assert differences(before, observe(links)) == []
