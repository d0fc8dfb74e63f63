"""Hosts that find each other in a real store: what containers notice of joins, deaths, faults and lies."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cni import Answer
from tests.e2e.lab.fleet import NAME, Fleet, are_apart, conf_from, raise_fleet, reach_each_other
from tests.e2e.lab.host import Completed
from tests.e2e.lab.overlay import OUTSIDE, UPLINK, Node, attach, detach, raise_bed
from tests.e2e.lab.plugin import Call, run

pytestmark = pytest.mark.needs("ip", "nsenter", "ping")

STORES = [
    pytest.param("etcd", marks=pytest.mark.needs("server:etcd")),
    pytest.param("consul", marks=pytest.mark.needs("server:consul")),
    pytest.param("zookeeper", marks=pytest.mark.needs("server:zookeeper", "java")),
]


@pytest.fixture(scope="class", params=STORES)
def fleet(
    request: pytest.FixtureRequest, dist: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    """Three hosts, of which two have joined with a container each."""
    directory = tmp_path_factory.mktemp(request.param)
    with raise_bed(dist, (0, 0, 0)) as bed, raise_fleet(bed, request.param, directory) as made:
        made.join(1, 2)
        for number in (1, 2):
            made.attach(number)
        made.require_reach(1, 2)
        yield made


class TestThreeHosts:
    """In this order, on one fleet for each store: it has to bear one thing after the other."""

    def test_a_host_that_joins_is_reached(self, fleet: Fleet) -> None:
        with fleet.losing_nothing():
            fleet.join(3)
            fleet.attach(3)
            fleet.require_reach(1, 2, 3)
        assert are_apart(fleet.subnet(number) for number in (1, 2, 3))

    def test_an_agent_that_is_killed_and_comes_back(self, fleet: Fleet) -> None:
        subnet = fleet.subnet(1)
        with fleet.losing_nothing():
            fleet.kill_agent(1)
            detach(fleet.attach(1, "ovkeftcold"))
            since = time.time()
            fleet.start_agent(1)
            fleet.until(lambda: fleet.is_calm(1, since=since), "h1 follows again")
        assert fleet.subnet(1) == subnet
        assert set(fleet.peers(1)) == {"h1", "h2", "h3"}

    def test_containers_come_and_go_while_the_store_is_down(self, fleet: Fleet) -> None:
        kind, endpoint = fleet.cluster.kind, f"{OUTSIDE[4]}:"
        with fleet.losing_nothing():
            fleet.stop_store()
            fleet.until(lambda: fleet.status(1).code, "h1 has noticed")
            answer = fleet.status(1)
            assert (answer.code, answer.document["code"]) == (1, 51)
            assert kind in answer.document["msg"]
            assert endpoint in json.dumps(answer.document)
            added = fleet.attach(1, "ovkeftdown")
            reach_each_other((added, fleet.containers[2], fleet.containers[3]))
            assert added.check().code == 0
            detach(added)
            fleet.start_store()
            fleet.until(lambda: fleet.is_calm(1, 2, 3), "all follow again")
            assert fleet.status(1).code == 0

    def test_a_store_that_is_emptied_is_filled_again(self, fleet: Fleet) -> None:
        before = fleet.peers(2)
        with fleet.losing_nothing():
            since = time.time()
            fleet.start_store(wiped=True)
            fleet.until(lambda: fleet.is_calm(1, 2, 3, since=since), "all follow again")
            assert all(fleet.peers(number) == before for number in (1, 2, 3))
        assert fleet.routes(1) == {fleet.subnet(2), fleet.subnet(3)}
        listed = json.loads(fleet.cnictl(2, "overlay", "status", NAME, "--json").stdout)
        assert listed

    def test_lies_in_the_store_are_left_out_and_named(self, fleet: Fleet) -> None:
        before = fleet.routes(1)
        own, second = fleet.bed.node(1).vteps[4], fleet.subnet(2)
        lies = {
            "a1": b"{",
            "a2": json.dumps({"node": "a2", "vtep": "10.99.0.90", "subnets": ["172.16.0.0/24"]}).encode(),
            "a3": json.dumps({"node": "a3", "vtep": own, "subnets": ["10.77.255.0/24"]}).encode(),
            "a4": json.dumps({"node": "a4", "vtep": "10.99.0.91", "subnets": [second]}).encode(),
        }
        named = ("'a1' is left out: ", "172.16.0.0/24 is outside", f"vtep {own} is that of", "and 1 more")
        with fleet.losing_nothing():
            for node, value in lies.items():
                fleet.put_record(node, value)
            for number in (1, 2, 3):
                fleet.until(
                    lambda number=number: all(said in self._trouble(fleet, number) for said in named),
                    f"h{number} names them",
                )
            assert fleet.routes(1) == before
            fleet.require_reach(1, 2, 3)

    @staticmethod
    def _trouble(fleet: Fleet, number: int) -> str:
        state = fleet.state(number)
        return state.trouble if state else ""

    def test_a_host_whose_address_changes_is_reached(self, fleet: Fleet) -> None:
        with fleet.losing_nothing():
            fleet.bed.node(3).readdress(33)
            fleet.require_reach(1, 2, 3)
        assert [fleet.peers(number)["h3"]["vtep"] for number in (1, 2, 3)] == ["10.99.0.33"] * 3

    def test_a_dead_host_is_released_by_another(self, fleet: Fleet) -> None:
        gone = fleet.subnet(3)
        with fleet.losing_nothing():
            fleet.kill_agent(3)
            fleet.bed.node(3).host.run("ip", "link", "set", UPLINK, "down")
            refused = fleet.cnictl(1, "overlay", "release", "h3", NAME)
            assert refused.returncode == 1
            assert "node 'h3' is live" in refused.stderr
            assert gone in fleet.routes(2)
            done = fleet.cnictl(1, "overlay", "release", "h3", NAME, "--force")
            assert (done.returncode, gone in done.stdout) == (0, True), done
            fleet.until(lambda: gone not in fleet.routes(1) | fleet.routes(2), "routes to it are gone")
        assert fleet.routes(1) == {fleet.subnet(2)}


# ------------------------------------------------------------------------------------------------------- etcd


@pytest.fixture(scope="class")
def ten(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Ten hosts, none of which has joined, and etcd."""
    directory = tmp_path_factory.mktemp("ten")
    with raise_bed(dist, [0] * 10) as bed, raise_fleet(bed, "etcd", directory) as made:
        yield made


@pytest.mark.needs("server:etcd")
class TestTenHosts:
    """On one fleet, in this order."""

    def test_ten_that_join_at_once_have_ten_subnets(self, ten: Fleet) -> None:
        numbers = range(1, 11)
        names = {f"h{number}" for number in numbers}
        ten.join(*numbers)
        ten.until(lambda: all(set(ten.peers(n)) == names for n in numbers), "each knows all")
        assert len({ten.subnet(number) for number in numbers}) == 10
        assert are_apart(ten.subnet(number) for number in numbers)
        for number in (1, 2, 9):
            ten.attach(number)
        ten.require_reach(1, 2, 9)

    def test_an_agent_that_stood_still_while_etcd_compacted_catches_up(self, ten: Fleet) -> None:
        moved = ten.bed.node(9)
        with ten.losing_nothing():
            ten.freeze(2)
            try:
                moved.readdress(99)
                ten.until(lambda: ten.peers(1)["h9"]["vtep"] == "10.99.0.99", "h1 knows the new address")
                # What h2 has followed ends with the server, and what it missed is no more in the history.
                ten.start_store()
                with ten.near():
                    ten.cluster.compact()  # type: ignore[attr-defined]
                assert ten.peers(2)["h9"]["vtep"] == "10.99.0.9"
            finally:
                ten.thaw(2)
            ten.until(lambda: ten.peers(2)["h9"]["vtep"] == "10.99.0.99", "h2 knows it, too")
            ten.require_reach(1, 2, 9)

    def test_addresses_of_a_network_without_overlay_are_one_hosts_each(self, ten: Fleet) -> None:
        confs = {number: wire(ten, number) for number in (4, 5)}
        for number, conf in confs.items():
            ten.configure(number, conf)
            directory = ten.bed.node(number).host.path("/run/cni-plugins/blocks/ovkewire")
            ten.until((directory / "blocks.json").exists, f"h{number} has a block")
        made = [
            attach(ten.bed.node(number), f"ovkeft{number}w{one}", confs[number])
            for one in range(3)
            for number in confs
        ]
        for number in confs:
            plug_in(ten, number)
        addresses = [container.addresses[0] for container in made]
        assert len(set(addresses)) == 6
        reach_each_other(made)
        free = asked(ten.bed.node(5), confs[5], made[0].addresses[0])
        assert free.code == 1
        assert "belongs to host h4" in json.dumps(free.document)
        shown = ten.cnictl(4, "ipam", "show")
        assert shown.returncode == 0, shown
        assert {"h4", "h5"} <= set(shown.stdout.split())
        for container in made:
            detach(container)

    def test_a_network_that_one_host_creates_is_on_all(self, ten: Fleet) -> None:
        numbers = (6, 7, 8)
        for number in numbers:
            ten.bed.node(number).host.write(
                "/etc/cni-plugins/registry.json", json.dumps(ten.registry(number))
            )
        words = ("-d", "vxlan", "--registry", "/etc/cni-plugins/registry.json", "ovkenew")
        created = ten.cnictl(6, "network", "create", *words)
        assert created.returncode == 0, created
        files = [ten.bed.node(n).host.path("/etc/cni/net.d/80-ovkenew.conflist") for n in numbers]
        ten.until(lambda: all(file.exists() for file in files), "each has the network")
        made = []
        for number in numbers[1:]:
            node = ten.bed.node(number)
            ten.until(node.host.path("/run/cni-plugins/overlay/ovkenew/peers.json").exists, "it has a subnet")
            made.append(attach(node, f"ovkeft{number}n", conf_from(node, "ovkenew")))
        reach_each_other(made)
        ten.until(lambda: users(ten) == {"h7", "h8"}, "both have said that they have containers")
        for host in ("h7", "h8"):
            refused = remove(ten)
            assert refused.returncode == 1
            assert "network ovkenew is in use by" in refused.stderr
            assert f"on {host}" in refused.stderr
        detach(made.pop())
        ten.until(lambda: users(ten) == {"h7"}, "h8 has said that it has none")
        assert "on h7" in remove(ten).stderr
        assert all(file.exists() for file in files)
        detach(made.pop())
        ten.until(lambda: users(ten) == set(), "h7 has said that it has none")
        assert remove(ten).returncode == 0
        ten.until(lambda: not any(file.exists() for file in files), "the files are gone")


def users(fleet: Fleet) -> set[str]:
    """The other hosts with containers on the network, as the store has them."""
    (seen,) = json.loads(fleet.cnictl(6, "network", "inspect", "ovkenew").stdout)
    return {host for host, listed in seen["elsewhere"].items() if listed}


def remove(fleet: Fleet) -> Completed:
    return fleet.cnictl(6, "network", "rm", "ovkenew")


def plug_in(fleet: Fleet, number: int) -> None:
    """Make another cable to the switch a port of the host's bridge."""
    host = fleet.bed.node(number).host
    peer = ("name", "ovkeup", "netns", str(host.anchor))
    words = ("name", f"ovkew{number}", "master", "ovkesw0", "up", "type", "veth", "peer", *peer)
    fleet.bed.switch.run("ip", "link", "add", *words)
    host.run("ip", "link", "set", "ovkeup", "master", "ovkewb", "up")


def wire(fleet: Fleet, number: int) -> dict[str, object]:
    """A bridge of a host, and addresses of one subnet for all hosts."""
    ipam = {"type": "cluster", "subnet": "10.78.0.0/24", "blockLen": 28, "registry": fleet.registry(number)}
    return {"cniVersion": "1.0.0", "name": "ovkewire", "type": "bridge", "bridge": "ovkewb", "ipam": ipam}


def asked(node: Node, conf: dict[str, object], address: str) -> Answer:
    """Ask for an address."""
    node.host.netns("ovkeftask")
    try:
        conf = {**conf, "capabilities": {"ips": True}, "runtimeConfig": {"ips": [address]}}
        return run(node.host, Call("ADD", conf, "ovkeftask", "/run/netns/ovkeftask"))
    finally:
        node.host.remove_netns("ovkeftask")
