"""Hosts whose settings for new links differ from those of the host: what a plugin says works, works."""

import json
from typing import Any

import pytest

SUBNETS = "10.7.0.0/24", "fd00:7::/64"
ROUTES = [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
OUTSIDE = "192.0.2.2", "2001:db8::2"
KINDS: dict[str, dict[str, Any]] = {
    "bridge": {"bridge": "br0", "isGateway": True},
    "ptp": {},
    "macvlan": {"master": "wire0", "hostAccess": True, "isGateway": True},
}


def write(place: Any, key: str, value: str) -> None:
    place.run("sh", "-c", f"echo {value} > /proc/sys/net/{key}")


def outside(bed: Any) -> None:
    """Give the host a neighbour with routes to the containers, and a wire that leads nowhere."""
    far = bed.sandbox()
    for place in (bed.host, far):
        place.skip_dad()
    bed.host.run("ip", "link", "add", "up0", "type", "veth", "peer", "name", "far0", "netns", far.path)
    bed.host.run("ip", "link", "add", "wire0", "type", "veth", "peer", "name", "wire1")
    for place, link, end in ((bed.host, "up0", "1"), (far, "far0", "2")):
        place.run("ip", "link", "set", link, "up")
        place.run("ip", "address", "add", f"192.0.2.{end}/24", "dev", link)
        place.run("ip", "address", "add", f"2001:db8::{end}/64", "dev", link, "nodad")
    for link in ("wire0", "wire1"):
        bed.host.run("ip", "link", "set", link, "up")
    far.run("ip", "route", "add", SUBNETS[0], "via", "192.0.2.1")
    far.run("ip", "route", "add", SUBNETS[1], "via", "2001:db8::1")


@pytest.mark.parametrize("kind", KINDS)
def test_containers_reach_the_world_where_new_links_forward_nothing(bed: Any, kind: str) -> None:
    outside(bed)
    for key in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        write(bed.host, key, "1")
    write(bed.host, "ipv4/conf/default/forwarding", "0")
    write(bed.host, "ipv6/conf/default/forwarding", "0")
    write(bed.host, "ipv6/conf/default/disable_ipv6", "1")
    ipam = bed.host_local(*SUBNETS, routes=ROUTES)
    conf = {"cniVersion": "1.1.0", "name": "net1", "type": kind, **KINDS[kind], "ipam": ipam}
    assert bed.call("STATUS", conf) == (0, None)
    sandbox = bed.sandbox()
    result = bed.add(conf, sandbox)
    for address in OUTSIDE:
        assert sandbox.reaches(address)
    with_result = {**conf, "prevResult": result}
    assert bed.call("CHECK", with_result, sandbox) == (0, None)
    gateway = json.loads(bed.host.run("ip", "-j", "route", "get", result["ips"][0]["address"][:-3]))[0]["dev"]
    write(bed.host, f"ipv4/conf/{gateway}/forwarding", "0")
    code, error = bed.call("CHECK", with_result, sandbox)
    assert (code, error["code"]) == (1, 103)
    assert f"sysctl net.ipv4.conf.{gateway}.forwarding is 0, not 1" in json.dumps(error)
    assert bed.call("DEL", conf, sandbox) == (0, None)
