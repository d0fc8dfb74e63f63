"""Gateways that a host bears itself, and the routes to them."""

from ipaddress import ip_address, ip_interface

import pytest

from cni_plugins.contract.gateways import default_routes, with_gateways
from cni_plugins.errors import InvalidNetworkConfig
from cni_plugins.protocol.result import IPConfig, Route

V4 = IPConfig(ip_interface("10.1.0.2/24"), ip_address("10.1.0.1"))
V6 = IPConfig(ip_interface("fd00::2/64"), ip_address("fd00::1"))
DEFAULT_4 = Route(ip_interface("0.0.0.0/0"), ip_address("10.1.0.1"))
DEFAULT_6 = Route(ip_interface("::/0"), ip_address("fd00::1"))
OTHER = Route(ip_interface("192.0.2.0/24"))


def test_each_family_gets_one_default_route() -> None:
    second = IPConfig(ip_interface("10.2.0.2/24"), ip_address("10.2.0.1"))
    assert default_routes((V4, V6, second), ()) == (DEFAULT_4, DEFAULT_6)
    assert default_routes((V6,), (OTHER,)) == (OTHER, DEFAULT_6)
    assert default_routes((), (OTHER,)) == (OTHER,)


def test_a_default_route_that_is_given_stays_the_only_one() -> None:
    own = Route(ip_interface("0.0.0.0/0"), ip_address("10.1.0.9"))
    assert default_routes((V4, V6), (own,)) == (own, DEFAULT_6)
    once = default_routes((V4, V6), ())
    assert default_routes((V4, V6), once) == once


def test_a_route_of_the_same_address_is_no_default_route() -> None:
    half = Route(ip_interface("0.0.0.0/1"), ip_address("10.1.0.9"))
    assert default_routes((V4,), (half,)) == (half, DEFAULT_4)


def test_a_gateway_that_is_missing_is_the_first_address() -> None:
    bare = (V4._replace(gateway=None), V6._replace(gateway=None))
    assert with_gateways(bare) == (V4, V6)
    kept = V4._replace(gateway=ip_address("10.1.0.9"))
    assert with_gateways((kept,)) == (kept,)
    message = r"10\.1\.0\.1/24 has no gateway, and its subnet has no address left for one"
    with pytest.raises(InvalidNetworkConfig, match=message):
        with_gateways((IPConfig(ip_interface("10.1.0.1/24")),))
