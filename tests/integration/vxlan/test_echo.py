"""Echoes over a wire of two hosts, and through a router whose far side is narrower."""

from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from cni_plugins.errors import KernelRefused
from cni_plugins.kernel import echo
from tests.integration.conftest import Bed, Namespace

NEAR = [ip_address("10.1.0.1"), ip_address("fd00:1::1")]
FAR = [ip_address("10.2.0.9"), ip_address("fd00:2::9")]
SILENT = [ip_address("10.2.0.77"), ip_address("fd00:2::77")]
NARROW = 1400

Asked = Callable[..., dict[Any, Any]]


def join(left: tuple[Namespace, str], right: tuple[Namespace, str], mtu: int) -> None:
    """Lay a wire between two namespaces."""
    (here, name), (there, other) = left, right
    ends = ("type", "veth", "peer", "name", other, "mtu", str(mtu), "netns", there.path)
    here.run("ip", "link", "add", name, "mtu", str(mtu), *ends)
    for where, link in (left, right):
        where.run("ip", "link", "set", link, "up")


def address(where: Namespace, link: str, *addresses: str) -> None:
    for item in addresses:
        where.run("ip", "address", "add", item, "dev", link, *(("nodad",) if ":" in item else ()))


@pytest.fixture
def bed_with_a_narrow_hop(bed: Bed) -> Iterator[Bed]:
    """Host, router, and a far machine behind a link of 1400 bytes that it knows, and the host does not."""
    router, far = bed.sandbox(), bed.sandbox()
    for where in (bed.host, router, far):
        where.skip_dad()
    join((bed.host, "eth0"), (router, "near0"), 1500)
    join((router, "far0"), (far, "eth0"), NARROW)
    address(bed.host, "eth0", "10.1.0.2/24", "fd00:1::2/64")
    address(router, "near0", "10.1.0.1/24", "fd00:1::1/64")
    address(router, "far0", "10.2.0.1/24", "fd00:2::1/64")
    address(far, "eth0", "10.2.0.9/24", "fd00:2::9/64")
    with router.entered():
        for key in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            Path("/proc/sys/net", key).write_text("1")
    for where, link, gateways in ((bed.host, "eth0", NEAR), (far, "eth0", ("10.2.0.1", "fd00:2::1"))):
        for gateway in gateways:
            family = "-6" if ":" in str(gateway) else "-4"
            where.run("ip", family, "route", "add", "default", "via", str(gateway), "dev", link)
    return bed


def test_those_who_answer_are_told_from_those_who_do_not(bed_with_a_narrow_hop: Bed) -> None:
    with bed_with_a_narrow_hop.inside():
        answered = echo.echo([*SILENT, *NEAR, *FAR], timeout=0.5)
    assert set(answered) == {*NEAR, *FAR}
    assert all(seconds > 0 for seconds in answered.values())


def test_a_packet_that_may_not_be_fragmented_stays_before_a_narrow_hop(bed_with_a_narrow_hop: Bed) -> None:
    with bed_with_a_narrow_hop.inside():
        whole = echo.echo([*NEAR, *FAR], NARROW + 1, 0.5, df=True)
        again = echo.echo(FAR, NARROW + 1, 0.5, df=True)  # though the kernel has been told of the hop by now
        in_parts = echo.echo(FAR, NARROW + 1, 0.5)
    assert set(whole) == {*NEAR}
    assert again == {}
    assert set(in_parts) == {*FAR}


def test_the_size_of_a_path_is_found_whatever_the_kernel_remembers(bed_with_a_narrow_hop: Bed) -> None:
    with bed_with_a_narrow_hop.inside():
        for _ in range(2):
            found = echo.path_mtu([*NEAR, *FAR, *SILENT], 1500, 0.1)
            expected = {**dict.fromkeys(NEAR, 1500), **dict.fromkeys(FAR, NARROW)}
            assert found == {**expected, **dict.fromkeys(SILENT)}


def test_a_size_above_the_links_own_is_no_ones_path(bed_with_a_narrow_hop: Bed) -> None:
    with bed_with_a_narrow_hop.inside():
        assert echo.path_mtu(NEAR, 9000, 0.2) == dict.fromkeys(NEAR, 1500)


def test_link_and_source_are_the_callers_choice(bed_with_a_narrow_hop: Bed) -> None:
    bed = bed_with_a_narrow_hop
    unknown_there = "192.0.2.5"
    address(bed.host, "lo", f"{unknown_there}/32")
    with bed.inside():
        assert echo.echo(NEAR, link="eth0", timeout=0.5).keys() == {*NEAR}
        assert echo.echo(NEAR, link="lo", timeout=0.2) == {}
        assert echo.echo(NEAR[:1], source=ip_address("10.1.0.2"), timeout=0.5).keys() == {NEAR[0]}
        assert echo.echo(NEAR[:1], source=ip_address(unknown_there), timeout=0.2) == {}


def test_an_impossible_source_is_refused_in_words(bed: Bed) -> None:
    with (
        bed.inside(),
        pytest.raises(KernelRefused, match="send echo requests: Cannot assign requested address"),
    ):
        echo.echo(NEAR[:1], source=ip_address("192.0.2.1"))
