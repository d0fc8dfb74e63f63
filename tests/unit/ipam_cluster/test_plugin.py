"""The commands of cluster on hosts that share a store in memory, with and without a keeper that answers."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cni_plugins.contract import snapshot
from cni_plugins.errors import CniError
from cni_plugins.ipam_cluster import plugin
from cni_plugins.ipam_cluster.plugin import IPAM
from cni_plugins.protocol.decode import parse_result
from tests.memory_store import MemoryCluster
from tests.unit.keeper.cluster_hosts import NETWORK, ClusterHost


class World:
    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.patch = root, monkeypatch
        self.cluster = MemoryCluster()
        monkeypatch.setattr(plugin, "_PATIENCE", 5.0)

    def host(self, node: str = "a", *, starts: bool = True, **ipam: Any) -> ClusterHost:
        found = ClusterHost(self.root, node, **ipam)
        if starts:
            found.start(self.cluster.store())
            found.step()
        return found

    def add(self, host: ClusterHost, container: str = "c1", args: str = "") -> list[str]:
        return [str(ip.address) for ip in host.add(self.patch, container, args).ips]

    def refused(self, host: ClusterHost, container: str = "c1", args: str = "") -> CniError:
        with pytest.raises(CniError) as raised:
            self.add(host, container, args)
        return raised.value

    def call(self, what: Any, host: ClusterHost, *arguments: Any) -> Any:
        with self.patch.context() as patched:
            patched.setattr(snapshot, "blocks_dir", lambda *_: str(host.directory))
            return what(*arguments)

    def status(self, host: ClusterHost) -> CniError | None:
        try:
            self.call(IPAM.status, host, host.request())
        except CniError as err:
            return err
        return None


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


@contextmanager
def kept(host: ClusterHost) -> Iterator[None]:
    """Run a block while the keeper answers demands."""
    over = threading.Event()

    def follow() -> None:
        while not over.wait(0.01):
            assert host.keeper is not None
            if host.keeper.has_demand():
                host.step()

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def leased(host: ClusterHost) -> list[str]:
    names = (host.data_dir / NETWORK).iterdir() if (host.data_dir / NETWORK).exists() else ()
    return sorted(one.name for one in names if one.name[0].isdigit())


def test_an_address_of_this_hosts_block_is_leased_as_host_local_does(world: World) -> None:
    one = world.host()
    (address,) = world.add(one)
    assert leased(one) == [address.removesuffix("/24")]
    content = (one.data_dir / NETWORK / address.removesuffix("/24")).read_bytes()
    assert content == b"c1\r\neth0"
    world.call(IPAM.release, one, one.request())
    assert leased(one) == []


def test_the_gateway_is_the_subnets_and_both_families_are_given(world: World) -> None:
    one = world.host(
        ranges=[[{"subnet": "192.0.2.0/24", "gateway": "192.0.2.9"}], [{"subnet": "2001:db8::/64"}]]
    )
    result = one.add(world.patch)
    assert [str(ip.gateway) for ip in result.ips] == ["192.0.2.9", "2001:db8::1"]
    assert [ip.address.network.prefixlen for ip in result.ips] == [24, 64]


def test_no_two_hosts_give_out_one_address(world: World) -> None:
    hosts = [world.host(node, blockLen=30) for node in "abcdef"]
    found = [world.add(one, f"c{number}")[0] for one in hosts for number in range(2)]
    assert len(set(found)) == len(found)


def test_without_a_snapshot_the_caller_may_try_again(world: World) -> None:
    one = world.host(starts=False)
    error = world.refused(one)
    assert (error.code, error.msg) == (11, "the blocks of network net are not known yet")
    assert "cnictl ipam sync" in error.details
    assert leased(one) == []
    status = world.status(one)
    assert status is not None
    assert status.code == 50


def test_the_keepers_trouble_is_told_where_there_is_no_snapshot(world: World) -> None:
    world.cluster.set_down(True)
    one = world.host()
    assert "no endpoint answers" in world.refused(one).full_details()


def test_a_full_host_gets_another_block_while_it_waits(world: World) -> None:
    one = world.host(blockLen=30)
    size = len(one.followed.subnets[0].ranges(_only_block(one)))
    count = sum(item.last - item.first + 1 for item in one.followed.subnets[0].ranges(_only_block(one)))
    assert size == 1
    with kept(one):
        found = [world.add(one, f"c{number}")[0] for number in range(count + 1)]
    assert len(set(found)) == count + 1
    assert len(one.written["blocks"]) == 2


def _only_block(host: ClusterHost) -> Any:
    from ipaddress import ip_network

    (block,) = host.written["blocks"]
    return ip_network(block)


def test_a_full_host_that_nobody_answers_is_told_to_try_again(world: World) -> None:
    world.patch.setattr(plugin, "_PATIENCE", 0.1)
    one = world.host(blockLen=30)
    for address in _only_block(one):
        one.lease(str(address))
    error = world.refused(one)
    assert error.code == 11
    assert error.msg == "all addresses of this host's blocks in 192.0.2.0/24 are leased"
    assert list((one.directory / "demand").iterdir()) == []


def test_a_subnet_without_a_free_block_is_exhausted(world: World) -> None:
    hosts = [world.host(f"n{number}", blockLen=26) for number in range(4)]
    one = hosts[0]
    for address in _only_block(one):
        one.lease(str(address))
    one.step()
    error = world.refused(one)
    assert error.code == 102
    assert error.msg == "no IP address left in 192.0.2.0/24: every block belongs to a host"
    status = world.status(one)
    assert status is not None
    assert (status.code, status.msg) == (50, error.msg)


# ------------------------------------------------------------------------------------------ fixed addresses


def _outside(host: ClusterHost, *others: ClusterHost) -> str:
    """An address in no block of these hosts."""
    from ipaddress import ip_network

    blocks = [ip_network(block) for one in (host, *others) for block in one.written["blocks"]]
    network = host.followed.subnets[0].network
    return next(str(one) for one in [*network][2:] if not any(one in block for block in blocks))


def test_a_fixed_address_in_an_own_block_needs_no_keeper(world: World) -> None:
    one = world.host()
    wanted = str(_only_block(one)[5])
    assert world.add(one, args=f"IP={wanted}") == [f"{wanted}/24"]
    error = world.refused(one, "c2", f"IP={wanted}")
    assert error.code == 102


def test_a_fixed_address_outside_is_claimed_and_released_after_its_lease(world: World) -> None:
    one = world.host()
    wanted = _outside(one)
    with kept(one):
        assert world.add(one, args=f"IP={wanted}") == [f"{wanted}/24"]
    assert one.written["addresses"] == [wanted]
    assert f"v1/{NETWORK}/parts/{wanted}-32" in world.cluster.items
    one.clock += 1000
    one.step()
    assert one.written["addresses"] == [wanted]
    world.call(IPAM.release, one, one.request())
    one.step()
    assert one.written["addresses"] == []
    assert f"v1/{NETWORK}/parts/{wanted}-32" not in world.cluster.items


def test_a_fixed_address_stays_claimed_for_the_call_that_asked(world: World) -> None:
    one = world.host()
    wanted = _outside(one)
    (one.directory / "demand").mkdir(mode=0o700)
    (one.directory / "demand" / f"ip-{wanted}").touch()
    for _ in range(3):
        one.step()
        assert one.written["addresses"] == [wanted]
    assert list((one.directory / "demand").iterdir()) == []


def test_a_fixed_address_in_anothers_block_names_the_host(world: World) -> None:
    one, two = world.host("a"), world.host("b")
    with kept(one):
        error = world.refused(one, args=f"IP={_only_block(two)[5]}")
    assert error.code == 102
    assert error.msg == f"requested IP address {_only_block(two)[5]} belongs to host b"


def test_a_fixed_address_of_another_host_is_refused_and_never_given_out(world: World) -> None:
    one = world.host("a")
    wanted = _outside(one)
    with kept(one):
        world.add(one, args=f"IP={wanted}")
    two = world.host("b", blockLen=24 + 4)
    with kept(two):
        error = world.refused(two, args=f"IP={wanted}")
    assert (error.code, error.msg) == (102, f"requested IP address {wanted} belongs to host a")
    three = ClusterHost(world.root, "c", subnet="192.0.2.0/24", blockLen=24)
    world.cluster.items = {k: v for k, v in world.cluster.items.items() if "-28" not in k}
    three.start(world.cluster.store())
    three.step()
    assert three.written["taken"] == {wanted: "a"}
    world.patch.setattr(plugin, "_PATIENCE", 0.1)
    assert world.refused(three, args=f"IP={wanted}").code == 102
    given = {world.add(three, f"c{number}")[0] for number in range(252)}
    assert f"{wanted}/24" not in given


def test_a_fixed_address_that_nobody_answers_for_is_no_verdict(world: World) -> None:
    world.patch.setattr(plugin, "_PATIENCE", 0.1)
    one = world.host()
    error = world.refused(one, args=f"IP={_outside(one)}")
    assert error.code == 11
    assert "is not claimed for this host yet" in error.msg
    assert list((one.directory / "demand").iterdir()) == []


NEVER: list[Any] = [
    ("192.0.2.1", 7, "is subnet's gateway"),
    ("192.0.2.0", 102, "is not given out"),
    ("192.0.2.255", 102, "is not given out"),
    ("192.0.2.33", 102, "is not given out"),
    ("198.51.100.1", 102, "is not given out"),
    ("2001:db8::1", 102, "is not given out"),
]


@pytest.mark.parametrize(("address", "code", "text"), NEVER)
def test_what_no_host_gives_out_is_refused_at_once(world: World, address: str, code: int, text: str) -> None:
    one = world.host(exclude=["192.0.2.32/28"])
    error = world.refused(one, args=f"IP={address}")
    assert error.code == code
    assert text in error.msg


def test_an_attachment_gets_no_second_address(world: World) -> None:
    one = world.host()
    wanted = _outside(one)
    with kept(one):
        world.add(one, args=f"IP={wanted}")
    assert "duplicate allocation is not allowed" in world.refused(one).msg


# ----------------------------------------------------------------------- CHECK, GC, STATUS, take_back


def test_check_compares_leases_and_blocks(world: World) -> None:
    one = world.host()
    (address,) = world.add(one)
    prev = parse_result({"cniVersion": "1.0.0", "ips": [{"address": address}]}, "1.0.0")
    request = one.request()._replace(prev_result=prev)
    world.call(IPAM.check, one, request)
    written = one.written
    (one.directory / "blocks.json").write_text(json.dumps({**written, "blocks": []}))
    with pytest.raises(CniError, match="differ from prevResult") as raised:
        world.call(IPAM.check, one, request)
    assert raised.value.code == 103
    assert "is in no block of this host" in raised.value.details
    (one.directory / "blocks.json").write_text(json.dumps(written))
    world.call(IPAM.release, one, one.request())
    with pytest.raises(CniError, match="Failed to find address"):
        world.call(IPAM.check, one, request)


def test_gc_and_take_back_free_what_they_are_told(world: World) -> None:
    one = world.host()
    lease = one.add(world.patch, "c1")
    world.add(one, "c2")
    world.add(one, "c3")
    world.call(IPAM.take_back, one, one.request("c1"), lease)
    assert len(leased(one)) == 2
    world.call(IPAM.gc, one, one.request()._replace(valid_attachments=(("c3", "eth0"),)))
    assert len(leased(one)) == 1


def test_del_works_whatever_the_config_and_the_keeper_say(world: World) -> None:
    one = world.host()
    world.add(one)
    (one.directory / "blocks.json").write_text("}")
    request = one.request()
    broken = {**request.conf, "ipam": {"type": "cluster", "dataDir": str(one.data_dir), "subnet": 7}}
    world.call(IPAM.release, one, request._replace(conf=broken))
    assert leased(one) == []


def test_status_names_trouble_and_age(world: World) -> None:
    one = world.host()
    one.clock = time.time()
    one.start(world.cluster.store())
    one.step()
    assert world.status(one) is None
    world.cluster.set_down(True)
    one.step()
    error = world.status(one)
    assert error is not None
    assert (error.code, error.msg) == (51, "blocks of network net: no endpoint answers")
    assert "last confirmed" in error.details
    world.cluster.set_down(False)
    one.clock -= 3600
    one.start(world.cluster.store())
    one.step()
    (one.directory / "state.json").write_text(
        json.dumps({"state": "following", "trouble": "", "since": 0, "confirmed": time.time() - 3600})
    )
    error = world.status(one)
    assert error is not None
    assert (error.code, error.msg) == (51, "blocks of network net are not kept up to date")


@pytest.mark.parametrize(
    "content", ["", "}", "[]", "{}", '{"self": "a", "blocks": ["x"]}', '{"self": "a", "addresses": [7, {}]}']
)
def test_a_file_that_the_keeper_did_not_write_is_named(world: World, content: str) -> None:
    one = world.host()
    (one.directory / "blocks.json").write_text(content)
    error = world.refused(one)
    assert error.code == 5
    assert "blocks.json is not as the keeper writes it" in error.msg
    one.step()
    assert world.add(one)
