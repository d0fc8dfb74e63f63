"""A host that is a router: nothing that a plugin does grows with the routes of others."""

import tempfile
import time
from typing import Any

import pytest

from cni_plugins.kernel.ip import route_lookup

ROUTES = 30_000
SLOWER = 15  # times; decoding every route was four hundred times slower


def many_routes(host: Any) -> None:
    host.run("ip", "link", "add", "up0", "type", "veth", "peer", "name", "up1")
    for link in ("up0", "up1"):
        host.run("ip", "link", "set", link, "up")
    host.run("ip", "address", "add", "192.0.2.1/24", "dev", "up0")
    lines = (f"route add 100.{n >> 16}.{n >> 8 & 255}.{n & 255}/32 via 192.0.2.2" for n in range(ROUTES))
    with tempfile.NamedTemporaryFile("w") as batch:
        batch.write("\n".join([*lines, "route add default via 192.0.2.9", ""]))
        batch.flush()
        host.run("ip", "-batch", batch.name)


def seconds(call: Any) -> float:
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        assert call() == (0, None)
        times.append(time.perf_counter() - begin)
    return min(times)


@pytest.mark.parametrize(
    "keys",
    [{"type": "ptp"}, {"type": "bridge", "isDefaultGateway": True, "mtu": "auto"}],
    ids=lambda k: k["type"],
)
def test_check_does_not_grow_with_the_routes_of_the_host(bed: Any, keys: dict[str, Any]) -> None:
    ipam = bed.host_local("10.7.0.0/24", "fd00:7::/64")
    conf = {"cniVersion": "1.1.0", "name": "net1", "ipam": ipam, **keys}
    sandbox = bed.sandbox()
    result = bed.add(conf, sandbox)

    def check() -> Any:
        return bed.call("CHECK", {**conf, "prevResult": result}, sandbox)

    alone = seconds(check)
    many_routes(bed.host)
    assert seconds(check) < SLOWER * alone


def test_the_default_route_is_found_among_many(bed: Any) -> None:
    many_routes(bed.host)
    bed.host.run("ip", "link", "set", "up0", "mtu", "1300")
    sandbox = bed.sandbox()
    bed.add(bed.conf(mtu="auto", ipam=bed.host_local("10.7.0.0/24")), sandbox)
    assert sandbox.link("eth0")["mtu"] == 1300


def test_the_default_route_of_ipv6_is_found(bed: Any) -> None:
    bed.host.run("ip", "link", "add", "up0", "mtu", "1300", "type", "veth", "peer", "name", "up1")
    for link in ("up0", "up1"):
        bed.host.run("ip", "link", "set", link, "up")
    for route in ("2001:db8:1::/48", "2001:db8:2::/48", "default"):
        bed.host.run("ip", "-6", "route", "add", route, "dev", "up0")
    sandbox = bed.sandbox()
    bed.add(bed.conf(mtu="auto", ipam=bed.host_local("10.7.0.0/24")), sandbox)
    assert sandbox.link("eth0")["mtu"] == 1300


@pytest.mark.parametrize("specific", [False, True], ids=["default alone", "behind a more specific one"])
def test_the_default_route_of_ipv6_is_found_without_reading_the_table(
    bed: Any, monkeypatch: pytest.MonkeyPatch, specific: bool
) -> None:
    """Only where another route leads to the address that is asked for, the table is read."""
    bed.host.run("ip", "link", "add", "up0", "mtu", "1300", "type", "veth", "peer", "name", "up1")
    bed.host.run("ip", "link", "add", "up2", "type", "veth", "peer", "name", "up3")
    for link in ("up0", "up1", "up2", "up3"):
        bed.host.run("ip", "link", "set", link, "up")
    bed.host.run("ip", "-6", "route", "add", "default", "dev", "up0")
    if specific:
        bed.host.run("ip", "-6", "route", "add", "3000::/4", "dev", "up2")
    read, original = [], route_lookup._default_routes

    def reading(session: Any, where: Any, family: int) -> list[int]:
        read.append(family)
        return original(session, where, family)

    monkeypatch.setattr(route_lookup, "_default_routes", reading)
    sandbox = bed.sandbox()
    bed.add(bed.conf(mtu="auto", ipam=bed.host_local("10.7.0.0/24")), sandbox)
    assert sandbox.link("eth0")["mtu"] == 1300
    assert (6 in read) == specific


def test_the_default_route_of_the_lowest_metric_is_taken(bed: Any) -> None:
    many_routes(bed.host)
    bed.host.run("ip", "link", "add", "up2", "mtu", "1280", "type", "veth", "peer", "name", "up3")
    for link in ("up2", "up3"):
        bed.host.run("ip", "link", "set", link, "up")
    bed.host.run("ip", "route", "add", "0.0.0.0/8", "dev", "up0")
    bed.host.run("ip", "route", "replace", "default", "dev", "up0", "metric", "50")
    bed.host.run("ip", "route", "del", "default", "via", "192.0.2.9")
    bed.host.run("ip", "route", "add", "default", "dev", "up2", "metric", "20")
    sandbox = bed.sandbox()
    bed.add(bed.conf(mtu="auto", ipam=bed.host_local("10.7.0.0/24")), sandbox)
    assert sandbox.link("eth0")["mtu"] == 1280
