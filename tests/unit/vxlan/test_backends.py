"""Where peers are known from: the config, a file, or nowhere."""

import json
import os
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from cni_plugins.errors import CniError, InvalidNetworkConfig, IoFailed
from cni_plugins.vxlan.backends import static
from cni_plugins.vxlan.backends.registry import backend
from cni_plugins.vxlan.backends.roster import Roster
from cni_plugins.vxlan.records import MOST_PEERS, Extent
from tests.unit.vxlan.hosts import BARE, BLOCKS, PEERS

ROUTED = Extent("l3", (ip_network("10.244.0.0/16"),), 0, 4789)
STRETCHED = Extent("l2", (ip_network("192.168.100.0/24"),), 0, 4789)


def roster(extent: Extent = ROUTED, **keys: Any) -> Roster:
    return backend({"type": "static", **keys}).roster("blue", extent)


def group(extent: Extent = ROUTED, **keys: Any) -> Roster:
    return backend({"type": "multicast", "group": "239.7.7.7", **keys}).roster("blue", extent)


def test_a_list_in_the_config() -> None:
    told = roster(peers=PEERS, self="h2")
    assert told.own == "h2"
    assert [str(record.vtep) for record in told.records or ()] == BARE
    assert not told.is_bare
    assert (told.parts, told.group) == ((), None)


def test_addresses_alone() -> None:
    told = roster(peers=BARE, subnet="10.244.1.0/24")
    assert told.is_bare
    assert told.parts == (ip_network("10.244.1.0/24"),)
    assert roster(STRETCHED, peers=BARE).parts == ()
    assert roster(STRETCHED, peers=BARE, block=["192.168.100.0/28", "192.168.100.32/28"]).parts == (
        ip_network("192.168.100.0/28"),
        ip_network("192.168.100.32/28"),
    )


def test_a_group_instead_of_a_list() -> None:
    told = group(subnet="10.244.1.0/24", ttl=4)
    assert (told.records, told.group, told.ttl) == (None, ip_address("239.7.7.7"), 4)
    assert told.parts == (ip_network("10.244.1.0/24"),)
    assert group(STRETCHED).parts == ()
    assert group(group="ff05::7:7", subnet="10.244.1.0/24").group == ip_address("ff05::7:7")


BAD: list[tuple[dict[str, Any], Extent, str]] = [
    ({"type": "redis"}, ROUTED, "backend.type: there is no backend 'redis'"),
    ({"type": None}, ROUTED, "backend.type: there is no backend null"),
    ({"type": 5}, ROUTED, "backend.type: there is no backend 5"),
    ({"peer": []}, ROUTED, "backend: unknown key 'peer' (known are block, peers, peersFile, self, "),
    ({}, ROUTED, "backend: one of peers and peersFile is needed, and not both"),
    ({"peers": PEERS, "peersFile": "/x"}, ROUTED, "backend: one of peers and peersFile is needed"),
    ({"peers": []}, ROUTED, "there are no peers, not even this host"),
    ({"peers": {}}, ROUTED, "backend.peers: input should be a valid list, got {}"),
    ({"peers": ["x"]}, ROUTED, "backend.peers[0].vtep: 'x' is not an IP address"),
    ({"peers": PEERS, "self": 1}, ROUTED, "backend.self: input should be a valid string, got 1"),
    ({"peers": PEERS, "self": "h" * 254}, ROUTED, "backend.self: "),
    ({"peersFile": "peers.json"}, ROUTED, "backend: peersFile 'peers.json' must be an absolute path"),
    ({"peersFile": 5}, ROUTED, "backend.peersFile: input should be a valid string, got 5"),
    ({"peersFile": "/x\0y"}, ROUTED, "peersFile '/x\\x00y'"),
    ({"peers": PEERS, "subnet": "10.244.1.0/24"}, ROUTED, "backend.subnet is set, but the peers'"),
    ({"peers": BARE}, ROUTED, "no peer has a subnet, and backend.subnet is missing"),
    ({"peers": BARE, "subnet": "10.245.1.0/24"}, ROUTED, "subnet 10.245.1.0/24 is outside 10.244.0.0/16"),
    ({"peers": BARE, "subnet": "10.244.1.0/31"}, ROUTED, "subnet 10.244.1.0/31 is too small"),
    ({"peers": BARE, "subnet": "10.244.1.0/24", "block": "10.244.1.0/28"}, ROUTED, "/28 in mode l3"),
    ({"peers": BARE, "subnet": ["10.244.1.0/24", "10.244.2.0/24"]}, ROUTED, "more than one IPv4 subnet"),
    ({"peers": BLOCKS, "block": "192.168.100.0/28"}, STRETCHED, "backend.block is set, but the peers'"),
    ({"peers": BARE, "block": "192.168.101.0/28"}, STRETCHED, "block 192.168.101.0/28 is outside"),
]
BAD_GROUP: list[tuple[dict[str, Any], Extent, str]] = [
    ({"group": None}, ROUTED, "backend.group: field required"),
    ({"group": "10.7.7.7"}, ROUTED, "backend: group 10.7.7.7 is not a multicast address"),
    ({"group": "239.7.7.7/8"}, ROUTED, "backend.group: '239.7.7.7/8' is not an IP address"),
    ({"ttl": 256}, ROUTED, "backend.ttl: input should be less than or equal to 255, got 256"),
    ({"ttl": -1}, ROUTED, "backend.ttl: input should be greater than or equal to 0, got -1"),
    ({"ttl": "4"}, ROUTED, "backend.ttl: input should be a valid integer, got '4'"),
    ({}, ROUTED, "backend.subnet is missing"),
    ({"peers": []}, ROUTED, "backend: unknown key 'peers' (known are block, group, subnet, ttl, type)"),
    ({"subnet": "10.245.1.0/24"}, ROUTED, "subnet 10.245.1.0/24 is outside 10.244.0.0/16"),
    ({"subnet": "10.244.1.0/24", "block": "10.244.1.0/28"}, ROUTED, "10.244.1.0/28 in mode l3"),
    ({"subnet": "192.168.100.0/28"}, STRETCHED, "192.168.100.0/28 in mode l2"),
]


@pytest.mark.parametrize(
    ("keys", "extent", "message"),
    [*BAD, *(({"type": "multicast", "group": "239.7.7.7", **keys}, *rest) for keys, *rest in BAD_GROUP)],
)
def test_a_bad_backend_is_refused_with_path_and_value(
    keys: dict[str, Any], extent: Extent, message: str
) -> None:
    with pytest.raises(InvalidNetworkConfig) as caught:
        roster(extent, **keys)
    assert message in f"{caught.value.msg}; {caught.value.details}"


def test_of_many_bad_records_some_are_named_and_the_others_counted() -> None:
    peers = [{"node": f"h{n}", "vtep": f"10.99.0.{n}", "subnet": f"10.9.{n}.0/24"} for n in range(1, 31)]
    with pytest.raises(InvalidNetworkConfig) as caught:
        roster(peers=peers)
    assert caught.value.details.count("is outside") == 10
    assert caught.value.details.endswith("and 20 more")
    assert caught.value.details.startswith("backend.peers: ")


# ------------------------------------------------------------------------------------------------ the file


def file(directory: Path, content: Any, mode: int = 0o644) -> str:
    path = directory / "peers.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    path.chmod(mode)
    return str(path)


@pytest.mark.parametrize("content", [PEERS, {"peers": PEERS}, {"PEERS": PEERS, "comment": "kept elsewhere"}])
def test_a_file_is_a_list_or_has_one(tmp_path: Path, content: Any) -> None:
    path = file(tmp_path, content)
    assert roster(peersFile=path) == roster(peers=PEERS)._replace(path=path)


def test_the_file_is_read_anew_each_time(tmp_path: Path) -> None:
    asked = backend({"type": "static", "peersFile": file(tmp_path, PEERS)})
    assert len(asked.roster("blue", ROUTED).records or ()) == 3
    file(tmp_path, PEERS[:2])
    assert len(asked.roster("blue", ROUTED).records or ()) == 2


def test_a_link_to_a_file_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(file(tmp_path, PEERS))
    assert len(roster(peersFile=str(tmp_path / "link")).records or ()) == 3


def test_as_many_peers_as_there_may_be(tmp_path: Path) -> None:
    peers = [str(ip_address("100.64.0.0") + number) for number in range(1, MOST_PEERS + 2)]
    told = roster(peersFile=file(tmp_path, peers[:-1]), subnet="10.244.1.0/24")
    assert len(told.records or ()) == MOST_PEERS
    with pytest.raises(InvalidNetworkConfig, match=f"{MOST_PEERS} items"):
        roster(peersFile=file(tmp_path, peers), subnet="10.244.1.0/24")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"[",
        json.dumps(PEERS).encode()[:-20],
        b'["10.99.0.1\0"]',
        b"\0" * 100,
        b'["\xff\xfe"]',
        b"[" * 200_000,
        b'{"peers":' * 100_000,
        b"[" + b"9" * 10_000 + b"]",
        b'["\\ud800"]',
        b"[NaN]",
        b'"10.99.0.1"',
        b"5",
        b"null",
        b"{}",
        b'{"peers": null}',
        b'{"peers": {"h1": "10.99.0.1"}}',
        b"[]",
        b"[[]]",
        b"[null]",
        b'[{"vtep": "10.99.0.1", "node": "\\ud800", "subnet": "10.1.0.0/24"}]',
    ],
    ids=lambda content: repr(content[:24]),
)
def test_what_is_in_a_broken_file_is_never_a_crash(tmp_path: Path, content: bytes) -> None:
    path = file(tmp_path, content)
    with pytest.raises(InvalidNetworkConfig) as caught:
        roster(peersFile=path)
    assert path in f"{caught.value.msg} {caught.value.details}"
    assert json.dumps([caught.value.msg, caught.value.details]).encode()


def test_a_broken_file_of_many_faults_makes_no_endless_error(tmp_path: Path) -> None:
    path = file(tmp_path, ["x"] * MOST_PEERS)
    with pytest.raises(InvalidNetworkConfig) as caught:
        roster(peersFile=path)
    assert len(caught.value.details) < 100_000


def refused(path: str) -> CniError:
    with pytest.raises(IoFailed) as caught:
        roster(peersFile=path)
    assert f"peersFile is {path}" in caught.value.details
    return caught.value


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert "No such file" in refused(str(tmp_path / "none")).msg
    assert "Not a directory" in refused(file(tmp_path, PEERS) + "/x").msg
    assert "too long" in refused(f"/{'x' * 5000}").msg
    (tmp_path / "dangling").symlink_to("nowhere")
    refused(str(tmp_path / "dangling"))
    (tmp_path / "loop").symlink_to("loop")
    refused(str(tmp_path / "loop"))


def test_what_is_no_file(tmp_path: Path) -> None:
    """Nobody writes into the FIFO, and still nobody waits."""
    os.mkfifo(tmp_path / "fifo")
    for path in (str(tmp_path / "fifo"), str(tmp_path), "/dev/null", "/dev/zero"):
        assert refused(path).msg == "the peers file is not a regular file"


@pytest.mark.parametrize("mode", [0o646, 0o666, 0o664, 0o602])
def test_a_file_that_others_can_write(tmp_path: Path, mode: int) -> None:
    assert refused(file(tmp_path, PEERS, mode)).msg == "users other than root can write the peers file"
    (tmp_path / "link").symlink_to(tmp_path / "peers.json")
    refused(str(tmp_path / "link"))


def test_a_file_of_somebody_else(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    path = file(tmp_path, PEERS)
    os.chown(path, 65534, 65534)
    assert "owner 65534" in refused(path).details


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    path = file(tmp_path, PEERS)
    os.truncate(path, 1 << 40)
    assert refused(path).msg == "the peers file is larger than 4194304 bytes"
    padded = json.dumps(PEERS).encode().ljust(4 << 20)
    assert roster(peersFile=file(tmp_path, padded))
    refused(file(tmp_path, padded + b" "))


# --------------------------------------------------------------------------- what a process keeps of a file


def old(path: str) -> None:
    """Have the file look as if it had not been changed for a while, but for its change time."""
    os.utime(path, ns=(10**18, 10**18))


def test_a_file_that_is_rewritten_in_place_is_noticed_at_once(tmp_path: Path) -> None:
    """Length and times of modification are the same."""
    asked = backend({"type": "static", "peersFile": file(tmp_path, PEERS)})
    for last in range(1, 10):
        path = file(tmp_path, [{**PEERS[0], "vtep": f"10.99.0.{last}"}, *PEERS[1:2]][:1])
        old(path)
        (record,) = asked.roster("blue", ROUTED).records or ()
        assert str(record.vtep) == f"10.99.0.{last}"


def test_a_file_that_has_not_changed_is_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = file(tmp_path, PEERS)
    asked = backend({"type": "static", "peersFile": path})
    monkeypatch.setattr(static.time, "time_ns", lambda: os.stat(path).st_ctime_ns + 10**9)
    records = asked.roster("blue", ROUTED).records
    monkeypatch.setattr(static.os, "read", lambda *_: pytest.fail("it was read"))
    assert asked.roster("blue", ROUTED).records is records


def test_a_kept_list_is_checked_for_each_network_that_it_is_used_for(tmp_path: Path) -> None:
    path = file(tmp_path, PEERS)
    assert roster(peersFile=path).records
    elsewhere = ROUTED._replace(within=(ip_network("10.9.0.0/16"),))
    with pytest.raises(InvalidNetworkConfig, match="is outside"):
        roster(elsewhere, peersFile=path)
    with pytest.raises(InvalidNetworkConfig, match="in mode l2"):
        roster(STRETCHED, peersFile=path)
    assert roster(peersFile=path).records


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: os.chmod(path, 0o666), "users other than root"),
        (lambda path: (os.unlink(path), os.mkfifo(path, 0o600)), "not a regular file"),
        (os.unlink, "cannot be read"),
    ],
)
def test_a_kept_list_does_not_hide_what_became_of_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Any, message: str
) -> None:
    path = file(tmp_path, PEERS)
    monkeypatch.setattr(static.time, "time_ns", lambda: 10**19)
    assert roster(peersFile=path).records
    spoil(path)
    with pytest.raises(IoFailed, match=message):
        roster(peersFile=path)


def test_few_lists_are_kept(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / str(number)).mkdir()
        roster(peersFile=file(tmp_path / str(number), PEERS[: 1 + number % 3]), subnet=[])
        roster(peersFile=file(tmp_path / str(number), [{**PEERS[0], "node": f"n{number}"}]))
    assert len(static._kept) <= 4
    assert len(static._seen) <= 4
