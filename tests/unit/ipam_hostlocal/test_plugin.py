import errno
import os
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from cni_plugins.contract import ipam
from cni_plugins.errors import (
    CniError,
    InvalidNetworkConfig,
    IoFailed,
    NotAvailable,
    PoolExhausted,
    StateDrifted,
)
from cni_plugins.ipam_hostlocal.plugin import IPAM
from tests.unit.ipam_hostlocal.host import Host, addresses


def test_an_address_is_leased_in_the_format_of_the_reference(host: Host) -> None:
    result = IPAM.reserve(host.request())
    assert addresses(result) == ["10.1.0.2/24"]
    assert str(result.ips[0].gateway) == "10.1.0.1"
    assert result.ips[0].interface is None
    assert host.leased() == {"10.1.0.2": "c1\r\neth0"}
    assert (host.leases / "last_reserved_ip.0").read_bytes() == b"10.1.0.2"
    modes = {
        name: (host.leases / name).stat().st_mode & 0o7777
        for name in ("10.1.0.2", "last_reserved_ip.0", "lock")
    }
    assert modes == {"10.1.0.2": 0o600, "last_reserved_ip.0": 0o600, "lock": 0o750}
    assert sorted(path.name for path in host.leases.iterdir()) == ["10.1.0.2", "last_reserved_ip.0", "lock"]


def test_every_range_set_gives_one_address_with_routes_and_dns(host: Host, tmp_path: Path) -> None:
    (tmp_path / "resolv.conf").write_text("nameserver 10.0.0.1\n")
    host.ipam = {
        "ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00:1::/64"}]],
        "routes": [{"dst": "0.0.0.0/0"}],
        "resolvConf": str(tmp_path / "resolv.conf"),
    }
    result = IPAM.reserve(host.request())
    assert addresses(result) == ["10.1.0.2/24", "fd00:1::2/64"]
    assert [str(route.dst) for route in result.routes] == ["0.0.0.0/0"]
    assert result.dns.nameservers == ("10.0.0.1",)
    assert set(host.leased()) == {"10.1.0.2", "fd00:1::2"}
    assert (host.leases / "last_reserved_ip.1").read_text() == "fd00:1::2"


def test_a_freed_address_is_given_again_last(host: Host) -> None:
    host.ipam = {"subnet": "10.1.0.0/29"}
    for expected in ("2", "3", "4", "5", "6", "2", "3"):
        assert addresses(IPAM.reserve(host.request())) == [f"10.1.0.{expected}/29"]
        IPAM.release(host.request())


def test_it_goes_on_where_the_reference_stopped(host: Host) -> None:
    host.lease("last_reserved_ip.0", "10.1.0.200")
    assert addresses(IPAM.reserve(host.request())) == ["10.1.0.201/24"]


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"10.9.9.9", b"x" * 100_000])
def test_rubbish_for_the_last_address_only_loses_the_turn(host: Host, content: bytes) -> None:
    host.lease("last_reserved_ip.0", content)
    assert addresses(IPAM.reserve(host.request())) == ["10.1.0.2/24"]
    assert (host.leases / "last_reserved_ip.0").read_bytes() == b"10.1.0.2"


def test_adding_twice_is_an_error_and_the_live_lease_stays(host: Host) -> None:
    host.ipam = {"ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64"}]]}
    IPAM.reserve(host.request())
    before = host.leased()
    with pytest.raises(
        PoolExhausted, match=r"10\.1\.0\.2 has been allocated to c1, duplicate allocation is not allowed"
    ):
        IPAM.reserve(host.request())
    with pytest.raises(PoolExhausted, match="fd00::2 has been allocated to c1"):
        IPAM.reserve(host.request(args="IP=10.1.0.77"))
    assert host.leased() == before


def test_two_interfaces_of_a_container_and_two_containers_are_four_attachments(host: Host) -> None:
    for container_id in ("c1", "c2"):
        for ifname in ("eth0", "eth1"):
            IPAM.reserve(host.request(container_id, ifname))
    IPAM.release(host.request("c1", "eth0"))
    assert sorted(host.leased().values()) == ["c1\r\neth1", "c2\r\neth0", "c2\r\neth1"]


def test_a_requested_address_is_given_and_remembered_as_the_last(host: Host) -> None:
    assert addresses(IPAM.reserve(host.request(args="IP=10.1.0.50"))) == ["10.1.0.50/24"]
    assert addresses(IPAM.reserve(host.request("c2"))) == ["10.1.0.51/24"]


def test_a_second_requested_address_is_released_with_the_first(host: Host) -> None:
    IPAM.reserve(host.request())
    IPAM.reserve(host.request(args="IP=10.1.0.50"))
    assert set(host.leased()) == {"10.1.0.2", "10.1.0.50"}
    IPAM.release(host.request())
    assert host.leased() == {}


@pytest.mark.parametrize(
    ("wanted", "kind"),
    [("10.1.0.1", InvalidNetworkConfig), ("10.1.0.2", PoolExhausted), ("10.2.0.2", PoolExhausted)],
)
def test_a_refused_request_changes_nothing(host: Host, wanted: str, kind: type[CniError]) -> None:
    IPAM.reserve(host.request())
    before = host.leased()
    with pytest.raises(kind):
        IPAM.reserve(host.request("c2", args=f"IP={wanted}"))
    assert host.leased() == before


def test_a_second_set_that_is_full_leaves_nothing_of_the_first(host: Host) -> None:
    host.ipam = {"ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "10.2.0.0/30"}]]}
    IPAM.reserve(host.request())
    with pytest.raises(
        PoolExhausted, match=r"range 1: no IP addresses available in range set: 10\.2\.0\.1-10\.2\.0\.2"
    ):
        IPAM.reserve(host.request("c2"))
    assert sorted(host.leased()) == ["10.1.0.2", "10.2.0.2"]


def test_removal_succeeds_twice_and_for_strangers_and_makes_no_directory(host: Host) -> None:
    IPAM.release(host.request("nobody"))
    assert not host.data_dir.exists()
    IPAM.reserve(host.request())
    IPAM.release(host.request())
    IPAM.release(host.request())
    IPAM.release(host.request("nobody"))
    assert host.leased() == {}


@pytest.mark.parametrize("ipam", [{}, {"subnet": "nonsense"}, {"ranges": [[{"subnet": "192.168.0.0/24"}]]}])
def test_removal_does_not_depend_on_the_ranges(host: Host, ipam: dict[str, object]) -> None:
    IPAM.reserve(host.request())
    host.ipam = ipam
    IPAM.release(host.request(args="garbage"))
    assert host.leased() == {}


def test_the_one_line_format_is_released_only_when_nothing_else_matches(host: Host) -> None:
    IPAM.reserve(host.request())
    host.lease("10.1.0.99", "c1\n")
    IPAM.release(host.request())
    assert set(host.leased()) == {"10.1.0.99"}
    IPAM.check(host.request())
    IPAM.release(host.request())
    assert host.leased() == {}


def test_the_one_line_format_counts_as_an_allocation(host: Host) -> None:
    host.lease("10.1.0.99", "c1")
    with pytest.raises(PoolExhausted, match=r"10\.1\.0\.99 has been allocated to c1"):
        IPAM.reserve(host.request())


def prev(*ips: object, names: Sequence[str] = ("eth0",)) -> dict[str, object]:
    return {"interfaces": [{"name": name, "sandbox": "/x"} for name in names], "ips": list(ips)}


def test_a_check_passes_while_exactly_the_addresses_of_the_result_are_leased(host: Host) -> None:
    IPAM.reserve(host.request())
    IPAM.check(host.request())
    IPAM.check(host.request(prev=prev({"address": "10.1.0.2/24", "interface": 0})))
    IPAM.check(
        host.request(
            prev=prev(
                {"address": "10.1.0.2/24", "interface": 0},
                {"address": "10.1.0.9/24", "interface": 1},
                {"address": "192.168.0.9/24", "interface": 0},
                names=("eth0", "eth1"),
            )
        )
    )


@pytest.mark.parametrize(
    ("content", "expected", "said"),
    [
        ("c2\r\neth0", "10.1.0.2", "10.1.0.2 is leased to c2 eth0"),
        ("", "10.1.0.2", "10.1.0.2 is not leased"),
        (None, "10.1.0.3", "10.1.0.3 is not leased"),
        (None, "10.1.0.3", "10.1.0.2 is leased and not in prevResult"),
    ],
)
def test_a_check_names_every_difference(host: Host, content: bytes, expected: str, said: str) -> None:
    IPAM.reserve(host.request())
    if content is not None:
        host.lease("10.1.0.2", content)
    with pytest.raises(StateDrifted) as drifted:
        IPAM.check(host.request(prev=prev({"address": f"{expected}/24"})))
    assert said in drifted.value.details


def test_a_check_without_any_lease_fails(host: Host) -> None:
    with pytest.raises(StateDrifted, match="host-local: Failed to find address added by container c1"):
        IPAM.check(host.request())
    assert not host.data_dir.exists()


def test_collection_keeps_valid_attachments_and_nothing_else(host: Host) -> None:
    for container_id in ("live", "dead"):
        for ifname in ("eth0", "eth1"):
            IPAM.reserve(host.request(container_id, ifname))
    host.lease("10.1.0.90", "live")
    host.lease("10.1.0.91", "dead")
    host.lease("10.1.0.92", "")
    host.lease("10.1.0.93", b"\0" * 70)
    (host.leases / "10.1.0.94").mkdir()
    host.lease("README", "kept")
    IPAM.gc(host.request("", valid=(("live", "eth1"), ("unknown", "eth0"))))
    assert host.leased() == {"10.1.0.3": "live\r\neth1", "10.1.0.90": "live", "README": "kept"}
    IPAM.check(host.request("live", "eth1"))
    IPAM.gc(host.request(""))
    assert set(host.leased()) == {"README"}


def test_collection_goes_on_after_a_refusal_and_names_it(host: Host) -> None:
    IPAM.reserve(host.request())
    (host.leases / "10.1.0.90").mkdir()
    (host.leases / "10.1.0.90" / "inside").touch()
    with pytest.raises(IoFailed, match="1 addresses could not be freed") as refused:
        IPAM.gc(host.request(""))
    assert "10.1.0.90" in refused.value.full_details()
    assert "Directory not empty" in refused.value.full_details()
    assert not (host.leases / "10.1.0.2").exists()


def test_collection_without_a_directory_has_nothing_to_do(host: Host) -> None:
    IPAM.gc(host.request("", valid=(("c1", "eth0"),)))
    assert not host.data_dir.exists()


def test_the_state_is_good_while_every_set_has_a_free_address(host: Host) -> None:
    host.ipam = {"ranges": [[{"subnet": "10.1.0.0/30"}], [{"subnet": "fd00::/64"}]]}
    IPAM.status(host.request(""))
    IPAM.reserve(host.request())
    with pytest.raises(
        NotAvailable, match=r"no IP addresses available in range set: 10\.1\.0\.1-10\.1\.0\.2"
    ) as refused:
        IPAM.status(host.request(""))
    assert refused.value.code == 50
    assert refused.value.details == "range set 0"


def test_a_set_that_is_full_of_rubbish_is_good_because_an_attachment_would_clear_it(host: Host) -> None:
    host.ipam = {"subnet": "10.1.0.0/30"}
    host.lease("10.1.0.2", "")
    IPAM.status(host.request(""))
    assert addresses(IPAM.reserve(host.request())) == ["10.1.0.2/30"]


def test_the_state_tells_of_a_resolver_file_that_is_gone(host: Host) -> None:
    host.ipam = {"subnet": "10.1.0.0/24", "resolvConf": "/nonexistent"}
    with pytest.raises(NotAvailable, match="open /nonexistent: No such file or directory"):
        IPAM.status(host.request(""))


def test_the_state_of_an_invalid_config_is_an_invalid_config(host: Host) -> None:
    host.ipam = {}
    with pytest.raises(InvalidNetworkConfig):
        IPAM.status(host.request(""))


def test_status_tells_that_the_data_directory_takes_no_records(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a file system without symbolic links, where an ADD fails too."""
    IPAM.reserve(host.request())

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "symlink", refuse)
    with pytest.raises(NotAvailable, match="Operation not permitted"):
        IPAM.status(host.request(""))
    with pytest.raises(IoFailed):
        IPAM.reserve(host.request("c2"))


@pytest.mark.parametrize(("subnet", "ready"), [("10.1.0.0/24", True), ("fd00::/64", False)])
def test_status_tells_that_the_kernel_has_no_ipv6(
    host: Host, monkeypatch: pytest.MonkeyPatch, subnet: str, ready: bool
) -> None:
    host.ipam = {"subnet": subnet}
    IPAM.status(host.request(""))
    monkeypatch.setattr(ipam, "_IPV6", "/proc/sys/net/no such")
    with nullcontext() if ready else pytest.raises(NotAvailable, match="this kernel has no IPv6"):
        IPAM.status(host.request(""))
