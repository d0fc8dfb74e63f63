"""Which subnet a network gets when none is given, and who keeps it from having one."""

from ipaddress import ip_network

import pytest

from cni_plugins.cli.failure import Failed
from cni_plugins.cli.network.pools import ONE_HOST, ROUTED_OVERLAY, settle
from cni_plugins.upkeep.networks.taken import Taken, clash, dns_servers


def used(*texts: str) -> list[Taken]:
    return [Taken(ip_network(text), f"route {text}") for text in texts]


def chosen(*texts: str, versions: tuple[int, ...] = (4,)) -> list[str]:
    return [*map(str, settle((), versions, used(*texts), ONE_HOST, lambda _: 0x0123456789))]


@pytest.mark.parametrize(
    ("taken", "expected"),
    [
        ((), "172.17.0.0/16"),
        (("172.17.0.1/32",), "172.18.0.0/16"),
        (("172.16.0.0/12",), "192.168.0.0/20"),
        (("172.16.0.0/12", "192.168.7.0/24", "192.168.16.53/32"), "192.168.32.0/20"),
    ],
)
def test_the_first_free_pool_is_taken(taken: tuple[str, ...], expected: str) -> None:
    assert chosen(*taken) == [expected]


def test_ipv6_is_unique_local() -> None:
    assert chosen(versions=(4, 6)) == ["172.17.0.0/16", "fd01:2345:6789::/64"]


def test_an_overlay_is_large_enough_for_many_hosts() -> None:
    assert settle((), (4, 6), (), ROUTED_OVERLAY, lambda _: 1, 48) == (
        ip_network("10.128.0.0/16"),
        ip_network("fd00:0:1::/48"),
    )


def test_a_given_subnet_stays_and_the_other_version_is_chosen() -> None:
    given = (ip_network("fd00:1::/64"),)
    assert settle(given, (4, 6), (), ONE_HOST, lambda _: 0) == (*given, ip_network("172.17.0.0/16"))


def test_a_given_subnet_that_overlaps_is_refused_with_what_it_overlaps() -> None:
    with pytest.raises(Failed) as caught:
        settle((ip_network("10.0.0.0/8"),), (4,), used("fd00::/8", "10.9.0.0/16"), ONE_HOST, lambda _: 0)
    assert str(caught.value) == "--subnet 10.0.0.0/8 overlaps route 10.9.0.0/16"


@pytest.mark.parametrize(("taken", "version"), [("172.0.0.0/8", 4), ("fd00::/8", 6)])
def test_when_all_are_in_use_a_subnet_must_be_given(taken: str, version: int) -> None:
    with pytest.raises(Failed) as caught:
        settle((), (version,), used(taken, "192.168.0.0/16"), ONE_HOST, lambda _: 5)
    assert f"every IPv{version} subnet" in str(caught.value)


def test_servers_of_dns_are_kept_out_and_those_of_this_host_are_not_meant() -> None:
    lines = ("127.0.0.53", "172.17.0.9", "fe80::1%eth0", "x", "")
    text = "".join(f"nameserver {address}\n" for address in lines) + "search 172.17.0.8\n"
    assert [one.by for one in dns_servers(text, "resolv.conf")] == ["DNS server 172.17.0.9 of resolv.conf"]
    assert chosen("172.17.0.9/32") == ["172.18.0.0/16"]


def test_a_link_of_the_networks_own_is_no_clash() -> None:
    taken = [Taken(ip_network("10.1.0.0/24"), "address 10.1.0.1/24 of link br0", "br0")]
    assert clash(ip_network("10.1.0.0/16"), taken) == taken[0]
    assert clash(ip_network("10.1.0.0/16"), taken, {"br0"}) is None
