from ipaddress import ip_address, ip_interface

import pytest

from cni_plugins.leases.ranges import Range, canonical, check_set, check_sets, described, text


def made(subnet: str, start: int | None = None, end: str | None = None, gateway: str | None = None) -> Range:
    return canonical(ip_interface(subnet), *(ip_address(x) if x else None for x in (start, end, gateway)))


@pytest.mark.parametrize(
    ("subnet", "expected", "gateway"),
    [
        ("10.1.2.0/24", "10.1.2.1-10.1.2.254", "10.1.2.1"),
        ("10.1.2.0/30", "10.1.2.1-10.1.2.2", "10.1.2.1"),
        ("fd00::/64", "fd00::1-fd00::ffff:ffff:ffff:ffff", "fd00::1"),
        ("fd00::/126", "fd00::1-fd00::3", "fd00::1"),
    ],
)
def test_a_subnet_alone_gives_all_its_addresses_and_the_first_as_gateway(
    subnet: str, expected: str, gateway: str
) -> None:
    found = made(subnet)
    assert str(found) == expected
    assert text(found.version, found.gateway) == gateway


def test_bounds_are_inclusive_and_the_gateway_may_lie_outside_the_subnet() -> None:
    found = made("10.1.2.0/24", "10.1.2.0", "10.1.2.255", "192.168.0.1")
    assert ip_address("10.1.2.0") in found
    assert ip_address("10.1.2.255") in found
    assert ip_address("10.1.3.0") not in found
    assert text(4, found.gateway) == "192.168.0.1"


def test_bounds_of_an_ipv4_range_may_be_written_as_ipv6() -> None:
    found = made("10.1.2.0/24", "::ffff:10.1.2.9", "::ffff:10.1.2.20", "::ffff:10.1.2.1")
    assert found == made("10.1.2.0/24", "10.1.2.9", "10.1.2.20", "10.1.2.1")


def test_an_address_of_the_other_family_is_in_no_range() -> None:
    assert ip_address("::a01:201") not in made("10.1.2.0/24")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("10.1.2.0/31",), "Network 10.1.2.0/31 too small to allocate from"),
        (("fd00::/127",), "Network fd00::/127 too small to allocate from"),
        (
            ("10.1.2.3/24",),
            "Network has host bits set. For a subnet mask of length 24 the network address is 10.1.2.0",
        ),
        (("10.1.2.0/24", "10.1.3.9"), "RangeStart 10.1.3.9 not in network 10.1.2.0/24"),
        (("10.1.2.0/24", None, "10.1.3.9"), "RangeEnd 10.1.3.9 not in network 10.1.2.0/24"),
        (("10.1.2.0/24", None, "fd00::1"), "RangeEnd fd00::1 not in network 10.1.2.0/24"),
        (("10.1.2.0/24", "10.1.2.9", "10.1.2.5"), "RangeStart 10.1.2.9 is after RangeEnd 10.1.2.5"),
        (("10.1.2.0/24", None, "10.1.2.0"), "RangeStart 10.1.2.1 is after RangeEnd 10.1.2.0"),
        (("10.1.2.0/24", None, None, "fd00::1"), "gateway fd00::1 is not of the address family of network"),
        (("::ffff:10.1.2.0/120",), "IPNet IP and Mask version mismatch"),
    ],
)
def test_a_range_that_cannot_work_is_refused(arguments: tuple[str | None, ...], message: str) -> None:
    with pytest.raises(ValueError) as refused:
        made(*arguments)
    assert message in str(refused.value)


def test_a_set_needs_ranges_of_one_family_that_do_not_overlap() -> None:
    first, second = made("10.1.2.0/24"), made("10.1.0.0/16")
    check_set((first, made("10.1.3.0/24")))
    for ranges, message in [
        ((), "empty range set"),
        ((first, made("fd00::/64")), "mixed address families"),
        ((first, second), f"subnets {first} and {second} overlap"),
    ]:
        with pytest.raises(ValueError, match=message):
            check_set(ranges)


def test_sets_may_not_share_an_address() -> None:
    sets = ((made("10.2.0.0/24"),), (made("10.1.2.0/24"), made("10.5.0.0/24")), (made("10.1.0.0/16"),))
    with pytest.raises(ValueError, match="range set 1 overlaps with 2"):
        check_sets(sets)


def test_sets_may_share_a_subnet_in_parts() -> None:
    check_sets(
        ((made("10.1.0.0/24", None, "10.1.0.9"),), (made("10.1.0.0/24", "10.1.0.10"),), (made("fd00::/64"),))
    )


@pytest.mark.parametrize(
    "address", ["10.0.0.1", "fd00::", "::1", "1:0:0:2::", "1:2:3:4:5:6:0:8", "::102:304"]
)
def test_an_address_is_written_as_the_reference_names_its_files(address: str) -> None:
    found = ip_address(address)
    assert text(found.version, int(found)) == address


def test_a_set_is_described_by_its_ranges() -> None:
    ranges = (made("10.1.2.0/30"), made("10.1.3.0/30"))
    assert described(ranges) == "10.1.2.1-10.1.2.2,10.1.3.1-10.1.3.2"
