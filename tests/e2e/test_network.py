"""`cnictl network` on a host: what it creates is used by cnitool, shown, and removed when nobody is on it."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.e2e.lab.host import Completed, Host
from tests.e2e.lab.plugin import BIN
from tests.e2e.lab.state import assert_unchanged, observe
from tests.e2e.lab.tools import program

pytestmark = pytest.mark.needs("cnitool", "ping", "nft")

CONFS = "/etc/cni/net.d"


class Networks:
    """The command, and a runtime beside it."""

    def __init__(self, host: Host) -> None:
        self.host = host

    def run(self, *words: str) -> Completed:
        done = self.host.run(f"{BIN}/cnictl", "network", *words, check=False)
        assert "Traceback" not in done.stderr
        return done

    def ok(self, *words: str) -> str:
        done = self.run(*words)
        assert (done.returncode, done.stderr) == (0, ""), done
        return done.stdout

    def refused(self, *words: str) -> str:
        done = self.run(*words)
        assert (done.returncode, done.stdout) == (1, ""), done
        return done.stderr

    def create(self, name: str, *words: str) -> dict[str, Any]:
        """Create a network; return its file."""
        self.ok("create", *words, name)
        return dict(json.loads(self.host.path(f"{CONFS}/80-{name}.conflist").read_text()))

    def inspect(self, name: str) -> dict[str, Any]:
        (network,) = json.loads(self.ok("inspect", name))
        return dict(network)

    def add(self, network: str, netns: str) -> str:
        """Attach a container; return its first address."""
        result = json.loads(self._cnitool("add", network, netns).stdout)
        return str(result["ips"][0]["address"].split("/")[0])

    def delete(self, network: str, netns: str) -> None:
        self._cnitool("del", network, netns)

    def _cnitool(self, verb: str, network: str, netns: str) -> Completed:
        tool = program("cnitool")
        assert tool is not None
        return self.host.run(tool, verb, network, netns, env={"CNI_PATH": BIN})

    def reaches(self, name: str, address: str, seconds: int = 15) -> bool:
        """Say whether an answer comes, to one of many packets: the machine may be loaded."""
        ping = ("ip", "netns", "exec", name, "ping", "-c1", f"-w{seconds}", address)
        return self.host.run(*ping, check=False).returncode == 0

    def is_cut_off(self, name: str, address: str) -> bool:
        return not self.reaches(name, address, seconds=3)

    def files(self) -> list[str]:
        return sorted(path.name for path in self.host.path(CONFS).iterdir())


@pytest.fixture
def networks(node: Host) -> Networks:
    node.outside()
    node.write("/etc/resolv.conf", "nameserver 127.0.0.1\n")
    return Networks(node)


def test_the_life_of_a_network(networks: Networks) -> None:
    before = observe(networks.host)
    first, second = networks.host.netns("cnien1", "cnien2")
    networks.create("blue", "--ipv6", "--label", "team=a")
    one, two = networks.add("blue", first), networks.add("blue", second)
    assert networks.reaches("cnien1", two)
    assert networks.reaches("cnien1", "192.0.2.2")

    seen = networks.inspect("blue")
    by_netns = {each["netns"]: each for each in seen["containers"]}
    assert by_netns[first]["addresses"][0].split("/")[0] == one
    assert by_netns[second]["interface"] == "eth0"
    assert by_netns[second]["mac"]
    assert seen["labels"] == {"team": "a"}
    assert (seen["driver"], seen["scope"], seen["file"]) == ("bridge", "local", f"{CONFS}/80-blue.conflist")
    (row,) = networks.ok("ls").splitlines()[1:]
    assert row.split()[:3] + row.split()[-1:] == ["blue", "bridge", "local", "2"]
    assert networks.ok("ls", "-q") == "blue\n"

    networks.delete("blue", first)
    ids = [each["id"] for each in seen["containers"] if each["netns"] == second]
    assert networks.refused("rm", "blue") == f"cnictl: network blue is in use by {ids[0]} (eth0)\n"
    assert networks.files() == ["80-blue.conflist"]
    networks.delete("blue", second)
    assert networks.ok("rm", "blue") == "blue\n"
    assert networks.files() == []
    networks.host.remove_netns("cnien1", "cnien2")
    assert observe(networks.host)["links"] == before["links"]


def test_a_bridge_whose_last_container_was_killed_goes_with_the_network(networks: Networks) -> None:
    bridge = networks.create("blue")["plugins"][0]["bridge"]
    idle = observe(networks.host)["links"]
    [netns] = networks.host.netns("cnien1")
    networks.add("blue", netns)
    networks.host.remove_netns("cnien1")
    assert networks.inspect("blue")["containers"] == []
    networks.ok("rm", "blue")
    assert networks.host.run("ip", "link", "show", bridge, check=False).returncode != 0
    assert observe(networks.host)["links"] == idle


def test_a_container_that_no_cache_knows_keeps_the_network(networks: Networks) -> None:
    networks.create("blue")
    [netns] = networks.host.netns("cnien1")
    networks.add("blue", netns)
    for path in networks.host.path("/var/lib/cni/results").iterdir():
        path.unlink()
    assert networks.refused("rm", "blue").startswith("cnictl: network blue is in use by cnitool-")


def test_nothing_leaves_an_internal_network(networks: Networks) -> None:
    networks.create("inside", "--internal")
    first, second = networks.host.netns("cnien1", "cnien2")
    networks.add("inside", first)
    other = networks.add("inside", second)
    assert networks.reaches("cnien1", other)
    assert networks.is_cut_off("cnien1", "192.0.2.2")
    networks.host.run("ip", "-n", "cnien1", "route", "add", "default", "dev", "eth0")
    assert networks.is_cut_off("cnien1", "192.0.2.2")


COUNTING = """
table ip t {
    chain c {
        type filter hook input priority 0
        icmp type echo-request counter
    }
}
"""


@pytest.mark.parametrize("internal", [True, False])
def test_what_is_sent_to_the_bridges_own_mac_address_leaves_no_internal_network(
    networks: Networks, *, internal: bool
) -> None:
    masquerade = "com.docker.network.bridge.enable_ip_masquerade=false"
    words = ("--internal",) if internal else ("-o", masquerade)
    bridge = networks.create("one", *words)["plugins"][0]["bridge"]
    networks.create("forwarding")
    first, second = networks.host.netns("cnien1", "cnien2")
    networks.add("one", first)
    networks.add("forwarding", second)  # with the first gateway, the host forwards
    networks.host.run("ip", "netns", "exec", "outside", "nft", "-f", "-", input=COUNTING)
    (link,) = json.loads(networks.host.run("ip", "-j", "link", "show", bridge).stdout)
    networks.host.run("ip", "-n", "cnien1", "route", "replace", "default", "dev", "eth0")
    neighbour = ("192.0.2.2", "lladdr", link["address"], "dev", "eth0")
    networks.host.run("ip", "-n", "cnien1", "neigh", "replace", *neighbour)
    networks.is_cut_off("cnien1", "192.0.2.2")  # no answer finds the way back, so the packets are counted
    seen = networks.host.run("ip", "netns", "exec", "outside", "nft", "list", "table", "ip", "t").stdout
    assert ("packets 0" in seen) == internal
    networks.delete("one", first)
    assert "internal" not in networks.host.run("nft", "list", "ruleset").stdout


def test_without_icc_containers_reach_the_outside_alone(networks: Networks) -> None:
    networks.create("apart", "-o", "com.docker.network.bridge.enable_icc=false")
    first, second = networks.host.netns("cnien1", "cnien2")
    networks.add("apart", first)
    other = networks.add("apart", second)
    assert networks.reaches("cnien1", "192.0.2.2")
    assert networks.is_cut_off("cnien1", other)


def test_two_bridges_are_kept_apart_as_dockers_are(networks: Networks) -> None:
    networks.create("blue")
    networks.create("red")
    first, second = networks.host.netns("cnien1", "cnien2")
    networks.add("blue", first)
    assert networks.is_cut_off("cnien1", networks.add("red", second))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--subnet", "10.5.0.0/24", "--ip-range", "10.5.0.128/25"), "10.5.0.128"),
        (("--subnet", "10.5.0.0/24", "--aux-address", "a=10.5.0.2", "--gateway", "10.5.0.1"), "10.5.0.3"),
        (("-d", "ptp", "--subnet", "10.5.0.0/24"), "10.5.0.2"),
        (
            (
                "-d",
                "macvlan",
                "--subnet",
                "192.0.2.0/24",
                "--ip-range",
                "192.0.2.64/26",
                "-o",
                "parent=uplink",
            ),
            "192.0.2.64",
        ),
        (
            (
                "-d",
                "macvlan",
                "--subnet",
                "192.0.2.0/24",
                "--gateway",
                "192.0.2.2",
                "-o",
                "macvlan_mode=vepa",
            ),
            "192.0.2.1",
        ),
        (("-d", "vxlan", "--subnet", "10.5.0.0/16", "-o", "peers=/etc/cni/peers.json"), "10.5.7.2"),
        (
            ("-d", "overlay", "--internal", "--subnet", "10.5.0.0/16", "-o", "peers=/etc/cni/peers.json"),
            "10.5.7.2",
        ),
    ],
)
def test_what_every_driver_creates_attaches_a_container(
    networks: Networks, words: tuple[str, ...], expected: str
) -> None:
    peers = {"peers": [{"node": "h1", "vtep": "192.0.2.1", "subnet": "10.5.7.0/24"}]}
    networks.host.write("/etc/cni/peers.json", json.dumps(peers))
    idle = observe(networks.host)
    networks.create("net", *words)
    [netns] = networks.host.netns("cnien1")
    assert networks.add("net", netns) == expected
    assert networks.refused("rm", "net").startswith("cnictl: network net is in use by cnitool-")
    networks.delete("net", netns)
    networks.ok("rm", "net")
    networks.host.remove_netns("cnien1")
    assert observe(networks.host)["links"] == idle["links"]


def test_twenty_networks_created_at_once_have_twenty_subnets(networks: Networks) -> None:
    with ThreadPoolExecutor(20) as pool:
        found = [*pool.map(lambda n: networks.create(f"n{n}"), range(20))]
    subnets = {document["plugins"][0]["ipam"]["ranges"][0][0]["subnet"] for document in found}
    assert len(subnets) == 20
    assert len(networks.files()) == 20
    assert networks.ok("ls", "-q").splitlines() == sorted(f"n{n}" for n in range(20))


def test_one_name_that_is_created_twice_at_once_is_given_once(networks: Networks) -> None:
    with ThreadPoolExecutor(4) as pool:
        done = [*pool.map(lambda _: networks.run("create", "blue").returncode, range(4))]
    assert sorted(done) == [0, 1, 1, 1]
    assert networks.files() == ["80-blue.conflist"]


def test_a_chosen_subnet_is_none_that_the_host_uses(networks: Networks) -> None:
    for words in (
        "addr add 172.17.3.1/24 dev lo",
        "route add 172.18.9.0/24 via 192.0.2.2",
        "route add blackhole 172.19.0.0/16 table 77",
    ):
        networks.host.run("ip", *words.split())
    networks.host.write("/run/systemd/resolve/resolv.conf", "nameserver 172.20.0.53\n")
    own = {"cniVersion": "1.0.0", "name": "own", "plugins": [bridge_with("172.21.0.0/24")]}
    networks.host.write(f"{CONFS}/10-own.conflist", json.dumps(own))
    (ranges,) = networks.create("blue")["plugins"][0]["ipam"]["ranges"]
    assert ranges == [{"subnet": "172.22.0.0/16"}]
    for subnet, by in (
        ("172.17.0.0/16", "address 172.17.3.1/24 of link lo"),
        ("172.18.0.0/16", "route 172.18.9.0/24 out of link uplink"),
        ("172.19.1.0/24", "route 172.19.0.0/16"),
        ("172.20.0.0/24", "DNS server 172.20.0.53 of /run/systemd/resolve/resolv.conf"),
        ("172.21.0.128/25", f"network own ({CONFS}/10-own.conflist), which has 172.21.0.0/24"),
        ("172.16.0.0/12", "address 172.17.3.1/24 of link lo"),
    ):
        assert (
            networks.refused("create", "--subnet", subnet, "red")
            == f"cnictl: --subnet {subnet} overlaps {by}\n"
        )


def bridge_with(subnet: str) -> dict[str, Any]:
    return {"type": "bridge", "bridge": "cni7", "ipam": {"type": "host-local", "subnet": subnet}}


def test_files_of_others_stay(networks: Networks) -> None:
    own = {"cniVersion": "1.0.0", "name": "own", "plugins": [bridge_with("172.21.0.0/24")]}
    networks.host.write(f"{CONFS}/10-own.conflist", json.dumps(own))
    networks.host.write(f"{CONFS}/80-red.conflist", "{")
    before = observe(networks.host)
    for words, message in (
        (("create", "own"), f"{CONFS}/10-own.conflist has a network own already"),
        (("create", "red"), f"{CONFS}/80-red.conflist exists, and is of another network"),
        (("create", "-o", "com.docker.network.bridge.name=cni7", "x"), "has bridge cni7 already"),
        (("create", "-o", "mtu=70000", "x"), "invalid MTU 70000"),
        (("create", "-o", "com.docker.network.bridge.name=a/b", "x"), "link name 'a/b' contains / or :"),
        (("create", "-d", "vxlan", "x"), "driver vxlan needs to know the hosts"),
        (
            ("create", "-d", "vxlan", "--subnet", "10.5.0.0/16", "-o", "peers=/nowhere", "x"),
            "peers file cannot be",
        ),
        (("create", "--registry", "/nowhere", "x"), "/nowhere: No such file or directory"),
        (("rm", "own"), "was not written by cnictl network create: remove it by hand"),
        (("rm", "none"), "there is no network none"),
    ):
        assert message in networks.refused(*words)
    assert_unchanged(networks.host, before)
    assert networks.files() == ["10-own.conflist", "80-red.conflist"]


def test_a_broken_file_is_told_and_hides_no_network(networks: Networks) -> None:
    networks.create("blue")
    networks.host.write(f"{CONFS}/90-red.conflist", "{")
    done = networks.run("ls", "--json")
    assert [one["name"] for one in json.loads(done.stdout)] == ["blue"]
    assert done.returncode == 1
    assert done.stderr.startswith(f"cnictl: {CONFS}/90-red.conflist: ")
