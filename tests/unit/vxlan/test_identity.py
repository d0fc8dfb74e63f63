"""Names, numbers and MAC addresses that every host computes alike."""

import zlib
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni_plugins.protocol.ifnames import ifname_fault
from cni_plugins.protocol.macs import parse_mac
from cni_plugins.vxlan.identity import (
    LARGEST_VNI,
    ContainerMacs,
    bridge_name,
    default_vni,
    vtep_mac,
    vxlan_name,
)

vnis = st.integers(1, LARGEST_VNI)
addresses = st.ip_addresses()


@given(vnis)
def test_names_are_ones_that_links_can_have(vni: int) -> None:
    names = {vxlan_name(vni), bridge_name(vni)}
    assert len(names) == 2
    assert not any(ifname_fault(name) for name in names)
    numbers = vxlan_name(vni).removeprefix("vx"), bridge_name(vni).removeprefix("vxbr")
    assert [int(number, 36) for number in numbers] == [vni, vni]


def test_the_longest_names() -> None:
    assert (vxlan_name(LARGEST_VNI), bridge_name(LARGEST_VNI)) == ("vx9zldr", "vxbr9zldr")


@given(vnis, vnis)
def test_the_link_of_one_network_is_never_named_as_the_bridge_of_another(one: int, other: int) -> None:
    assert vxlan_name(one) != bridge_name(other)


@given(st.text(min_size=1, max_size=255))
def test_a_default_vni_is_clear_of_what_others_use(network: str) -> None:
    assert 0x400000 <= default_vni(network) <= LARGEST_VNI
    assert default_vni(network) == default_vni(network)


@given(vnis, addresses)
def test_mac_addresses_are_ones_that_links_can_have(vni: int, address: IPv4Address | IPv6Address) -> None:
    for mac in (ContainerMacs(vni).of(address), vtep_mac(address)):
        assert parse_mac(mac) == mac
        first = int(mac[:2], 16)
        assert first & 1 == 0, "unicast"
        assert first & 2, "local"


@given(vnis, st.lists(st.ip_addresses(v=4), unique=True, max_size=50))
def test_mac_addresses_of_ipv4_are_never_shared(vni: int, several: list[IPv4Address]) -> None:
    macs = ContainerMacs(vni)
    assert len({macs.of(address) for address in several}) == len(several)
    assert len({vtep_mac(address) for address in several}) == len(several)


@given(vnis, st.integers(0, (1 << 128) - (1 << 17)))
def test_mac_addresses_of_an_ipv6_subnet_are_never_shared(vni: int, start: int) -> None:
    macs = ContainerMacs(vni)
    first = start & ~0xFFFF
    near = [IPv6Address(first + offset) for offset in (0, 1, 2, 255, 256, 4095, 65535)]
    assert len({macs.of(address) for address in near}) == len(near)


def test_an_ipv6_block_has_a_mac_address_for_each_of_its_addresses() -> None:
    """Of 65536 addresses, 32 bits of a digest would be shared by two in every other subnet."""
    macs = ContainerMacs(77)
    start = int(ip_address("fd64::"))
    assert len({macs.of(IPv6Address(start + offset)) for offset in range(1 << 16)}) == 1 << 16


@pytest.mark.parametrize("address", ["10.99.0.1", "255.255.255.255", "0.0.0.0"])
def test_a_vteps_mac_address_has_the_ipv4_address_in_it(address: str) -> None:
    assert bytes.fromhex(vtep_mac(ip_address(address)).replace(":", ""))[2:] == ip_address(address).packed


def test_networks_differ_in_their_containers_mac_addresses() -> None:
    address = ip_address("192.168.100.5")
    assert len({ContainerMacs(vni).of(address) for vni in range(1, 50)}) > 1


@given(st.text(max_size=200))
def test_the_default_vni_is_made_of_zlibs_crc(network: str) -> None:
    assert default_vni(network) == 0x400000 + zlib.crc32(network.encode()) % 0x3FFFFF
