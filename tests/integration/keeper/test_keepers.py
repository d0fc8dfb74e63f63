"""Several hosts with keepers: what containers notice of joins, deaths, wiped stores and mistakes."""

import json
import time
from typing import Any

import pytest

from tests.integration.conftest import Namespace
from tests.integration.keeper.conftest import Host, Ping, Wire, wait

Group = tuple[list[Host], list[Namespace], list[str]]


def names(*hosts: Host) -> set[str]:
    return {host.name for host in hosts}


def know_each_other(*hosts: Host) -> bool:
    return all(set(host.peers) == names(*hosts) and host.state.get("state") == "following" for host in hosts)


def are_wired(*hosts: Host) -> bool:
    """Say whether the kernel of each host sends to all others, and to no other."""
    all_of = {f"192.0.2.{host.number}" for host in hosts}
    return all(host.fdb() == all_of - {f"192.0.2.{host.number}"} for host in hosts)


@pytest.fixture
def group(wire: Wire) -> Group:
    """Three hosts with a container each, all in line."""
    hosts = [wire.host(number) for number in (1, 2, 3)]
    confs = [host.configure() for host in hosts]
    for host in hosts:
        host.tell("start")
    try:
        wait(lambda: know_each_other(*hosts))
        made = [host.add(conf) for host, conf in zip(hosts, confs, strict=True)]
        wait(lambda: are_wired(*hosts))
        sandboxes, addresses = [one for one, _ in made], [address for _, address in made]
        wait(lambda: all(sandboxes[0].reaches(address) for address in addresses[1:]))
    except AssertionError as err:
        told = [(host.name, host.state, sorted(host.peers), host.fdb(), host.log) for host in hosts]
        raise AssertionError(told) from err
    return hosts, sandboxes, addresses


def test_a_host_that_joins_is_reached_without_loss_between_others(wire: Wire, group: Group) -> None:
    hosts, sandboxes, addresses = group
    ping = Ping(sandboxes[0], addresses[1])
    fourth = wire.host(4)
    conf = fourth.configure()
    fourth.tell("start")
    wait(lambda: know_each_other(*hosts, fourth))
    sandbox, address = fourth.add(conf)
    wait(lambda: are_wired(*hosts, fourth))
    wait(lambda: sandboxes[0].reaches(address) and sandbox.reaches(addresses[2]))
    ping.require_all()


def test_a_store_that_is_wiped_or_away_is_not_noticed_by_containers(wire: Wire, group: Group) -> None:
    hosts, sandboxes, addresses = group
    before = hosts[0].peers
    pings = [Ping(sandboxes[0], addresses[1]), Ping(sandboxes[2], addresses[0])]
    wire.cluster.wipe()
    wait(lambda: len([key for key in wire.cluster.items if "/parts/" in key]) == 3)
    wait(lambda: know_each_other(*hosts))
    assert hosts[0].peers == before
    wire.cluster.set_down(True)
    wait(lambda: all(host.state["state"] == "broken" for host in hosts))
    hosts[1].tell("kill")
    hosts[1].tell("start")
    wait(lambda: hosts[1].state["state"] == "broken")
    assert hosts[1].peers == before
    wire.cluster.wipe()
    wire.cluster.set_down(False)
    wait(lambda: know_each_other(*hosts))
    for ping in pings:
        ping.require_all()


def test_an_emptied_list_is_held_and_a_host_that_died_keeps_its_place(wire: Wire, group: Group) -> None:
    hosts, sandboxes, addresses = group
    ping = Ping(sandboxes[0], addresses[1])
    hosts[1].tell("kill")
    hosts[2].tell("kill")
    with wire.cluster.changed:
        for key in [key for key in wire.cluster.items if "/nodes/" in key and "/h1;" not in key]:
            wire.cluster._write(key, None)
        wire.cluster.changed.notify_all()
    wait(lambda: hosts[0].state["state"] == "held")
    assert set(hosts[0].peers) == names(*hosts)
    assert are_wired(*hosts)
    ping.require_all()
    hosts[1].tell("start")
    hosts[2].tell("start")
    wait(lambda: know_each_other(*hosts))
    wait(lambda: are_wired(*hosts))


def test_keepers_that_are_killed_at_any_moment_leave_traffic_alone(wire: Wire, group: Group) -> None:
    hosts, sandboxes, addresses = group
    ping = Ping(sandboxes[0], addresses[1])
    taken = {one["subnets"][0] for one in hosts[0].peers.values()}
    unused = [cidr for third in range(256) if (cidr := f"10.0.{third}.0/24") not in taken]
    for number in range(8):
        record = {"node": f"x{number}", "vtep": f"192.0.2.{100 + number}", "subnets": [unused[number]]}
        wire.cluster.put(f"v1/blue/nodes/x{number};0", json.dumps(record).encode())
        time.sleep(0.05 * number)
        for host in hosts[:2]:
            host.tell("kill")
            host.tell("start")
    everyone = names(*hosts) | {f"x{number}" for number in range(8)}
    wait(lambda: all(set(host.peers) == everyone for host in hosts))
    wait(lambda: all(len(host.fdb()) == len(everyone) - 1 for host in hosts))
    ping.require_all()


def test_conflicting_hosts_and_hostile_records_disturb_nobody(wire: Wire, group: Group) -> None:
    hosts, sandboxes, addresses = group
    ping = Ping(sandboxes[0], addresses[1])
    subnet = hosts[0].peers["h1"]["subnets"][0]
    hostile: dict[str, Any] = {
        "a1": b"{",
        "a2": json.dumps({"node": "a2", "vtep": "192.0.2.1", "subnets": ["10.0.250.0/24"]}).encode(),
        "a3": json.dumps({"node": "a3", "vtep": "192.0.2.90", "subnets": [subnet]}).encode(),
        "a4": json.dumps({"node": "a4", "vtep": "192.0.2.91", "subnets": ["172.16.0.0/24"]}).encode(),
        "a5": b"\x00" * 100_000,
    }
    for name, value in hostile.items():
        wire.cluster.put(f"v1/blue/nodes/{name};0", value)
    twin = wire.host(5)
    twin.configure(backend={"node": "h1"})
    twin.tell("start")
    wait(lambda: twin.state.get("state") == "refused")
    assert "another host is node h1 already" in twin.state["trouble"]
    assert twin.peers == {}
    wait(lambda: all("a1" in host.state["trouble"] for host in hosts))
    assert are_wired(*hosts)
    assert all(set(host.peers) == names(*hosts) for host in hosts)
    ping.require_all()


def test_an_address_that_changes_is_followed_by_all(group: Group) -> None:
    hosts, sandboxes, addresses = group
    ping = Ping(sandboxes[0], addresses[1])
    third = hosts[2].namespace
    third.run("ip", "address", "del", "192.0.2.3/24", "dev", "eth0")
    third.run("ip", "address", "add", "192.0.2.33/24", "dev", "eth0")
    wait(lambda: all(host.peers["h3"]["vtep"] == "192.0.2.33" for host in hosts))
    wait(lambda: all("192.0.2.33" in host.fdb() and "192.0.2.3" not in host.fdb() for host in hosts[:2]))
    wait(lambda: sandboxes[0].reaches(addresses[2]))
    ping.require_all()


def test_what_is_deleted_is_there_again_at_once(group: Group) -> None:
    hosts, sandboxes, addresses = group
    host = hosts[2].namespace
    (vxlan,) = [one["ifname"] for one in host.ip("link", "show", "type", "vxlan")]
    ping = Ping(sandboxes[0], addresses[1])
    host.run("ip", "link", "del", vxlan)
    wait(lambda: host.link(vxlan) is not None and are_wired(*hosts))
    wait(lambda: sandboxes[0].reaches(addresses[2]))
    route = next(one for one in host.routes() if one.get("dev") == vxlan)
    host.run("ip", "route", "del", route["dst"], "dev", vxlan)
    wait(lambda: any(one["dst"] == route["dst"] for one in host.routes()))
    entries = host.run("bridge", "fdb", "show", "dev", vxlan).splitlines()
    entry = next(line for line in entries if "dst" in line)
    host.run("bridge", "fdb", "del", entry.split()[0], "dev", vxlan)
    wait(lambda: are_wired(*hosts))
    ping.require_all()


def test_somebody_who_keeps_deleting_is_not_fought(group: Group) -> None:
    hosts, _, _ = group
    host = hosts[0].namespace
    (vxlan,) = [one["ifname"] for one in host.ip("link", "show", "type", "vxlan")]
    end = time.monotonic() + 6
    repaired = 0
    while time.monotonic() < end:
        if host.succeeds("ip", "link", "del", vxlan):
            repaired += 1
        time.sleep(0.05)
    assert repaired <= 6, hosts[0].log
    wait(lambda: "fight" in hosts[0].log)
    wait(lambda: are_wired(*hosts))


def test_configs_that_come_and_go_are_followed(wire: Wire) -> None:
    host = wire.host(1)
    host.tell("start")
    time.sleep(0.7)
    conf = host.configure()
    wait(lambda: set(host.peers) == {"h1"})
    sandbox, _ = host.add(conf)
    (host.conf_dir / "blue.conf").unlink()
    wait(lambda: "its config is gone" in host.log)
    assert set(host.peers) == {"h1"}  # a container needs it
    code, _ = host.tell("call", "DEL", conf, "c1", sandbox.path)
    assert code == 0
    assert [key for key in wire.cluster.items if "/parts/" in key]
    told = host.log.count("'following'")
    host.configure()
    wait(lambda: host.log.count("'following'") > told)  # state.json still says so from before
    (host.conf_dir / "blue.conf").unlink()
    wait(lambda: host.peers == {} and host.state == {})


def test_a_peers_file_is_followed_without_a_timer(wire: Wire) -> None:
    host = wire.host(1)
    peers = host.directory / "peers.json"

    def write(*numbers: int) -> None:
        listed = [{"vtep": f"192.0.2.{number}", "subnet": f"10.0.{number}.0/24"} for number in numbers]
        temporary = host.directory / "peers.new"
        temporary.write_text(json.dumps(listed))
        temporary.rename(peers)

    write(1, 2)
    host.tell("start")
    conf = host.configure(keep=False)
    conf["backend"] = {"type": "static", "peersFile": str(peers)}
    (host.conf_dir / "blue.conf").write_text(json.dumps(conf))
    host.add(conf)
    assert host.fdb() == {"192.0.2.2"}
    time.sleep(0.7)
    write(1, 2, 3)
    wait(lambda: host.fdb() == {"192.0.2.2", "192.0.2.3"})
    write(1, 3)
    wait(lambda: host.fdb() == {"192.0.2.3"})


def test_a_keeper_ends_at_once_also_while_a_store_does_not_answer(wire: Wire, group: Group) -> None:
    hosts, _, _ = group
    wire.cluster.set_down(True)
    assert hosts[0].tell("stop") < 2.0
    assert [key for key in wire.cluster.items if "/parts/" in key]


def test_rounds_of_cnictl_beside_a_keeper_disturb_nothing(wire: Wire, group: Group) -> None:
    hosts, sandboxes, addresses = group
    ping = Ping(sandboxes[0], addresses[1])
    before = dict(wire.cluster.items)
    for _ in range(20):
        assert hosts[0].tell("round", "blue") == ""
    assert know_each_other(*hosts)
    kept = {key: item for key, item in wire.cluster.items.items() if "/live/" not in key}
    assert kept == {key: item for key, item in before.items() if "/live/" not in key}
    ping.require_all()
