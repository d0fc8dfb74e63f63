"""Whatever a config says, it is taken or refused in words: no other error, and none of it takes long."""

import json
from ipaddress import ip_interface
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cni_plugins.contract.facts import NextHop
from cni_plugins.errors import CniError
from cni_plugins.protocol.result import IPConfig, Result
from cni_plugins.vxlan.config import parse
from cni_plugins.vxlan.host_plan import host_plan, require_no_clash
from cni_plugins.vxlan.local_host import find
from cni_plugins.vxlan.plan import decide
from cni_plugins.vxlan.plugin import PLUGIN
from tests.unit.vxlan.hosts import BARE, BLOCKS, DUAL_PEERS, addresses, conf, facts, link, request

# Each on the edge of what some key takes.
TEXTS = [
    *(
        "",
        "l2",
        "l3",
        "auto",
        "static",
        "multicast",
        "host-local",
        "none",
        "head-end",
        "always",
        "same-subnet",
    ),
    *("10.244.1.0/24", "10.244.0.0/16", "10.244.0.0/31", "0.0.0.0/0", "255.255.255.255/32", "::/0", "::/127"),
    *("fd00::/16", "fd00:1::/64", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128", "224.0.0.0/4", "fe80::/64"),
    *("10.99.0.1", "10.99.0.2", "10.99.0.0/24", "0.0.0.0", "239.1.1.1", "ff02::1", "::ffff:10.99.0.1"),
    *("192.168.100.0/24", "192.168.100.0/28", "192.168.100.1", "02:00:00:00:00:01", "h1", "\0", "\ud800"),
]
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.sampled_from([-1, 0, 1, 4, 67, 68, 1280, 1450, 65535, 65536, 1 << 24, 1 << 70, 0.5])
    | st.sampled_from(TEXTS),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "vtep", "subnet", "block", "cidr", "mac", "x"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)
KEYS = [
    *(
        "mode",
        "vni",
        "port",
        "underlay",
        "mtu",
        "df",
        "sysctls",
        "network",
        "subnetLen",
        "subnet",
        "blockLen",
    ),
    *("gateway", "directRouting", "bum", "ipMasq", "restrictSources", "isDefaultGateway", "backend", "ipam"),
    *("dns", "args", "runtimeConfig"),
]
BASES = [
    conf(),
    conf(network=["10.244.0.0/16", "fd00::/16"], peers=DUAL_PEERS, directRouting="same-subnet"),
    conf(peers=BARE, backend={"subnet": "10.244.1.0/24"}),
    conf(mode="l2", subnet=["192.168.100.0/24", "fd64::/64"], peers=BLOCKS),
    conf(mode="l2", subnet="192.168.100.0/24", bum="head-end", peers=BLOCKS),
    conf(backend={"type": "multicast", "group": "239.7.7.7", "subnet": "10.244.1.0/24"}),
]
HERE = link("eth0", "10.99.0.1/24", "fd99::1/64")
WAYS = {peer: NextHop("eth0", None, None) for peer in addresses(*BARE)}
LEASED = ["10.244.1.5/24", "10.244.1.5/0", "192.168.100.5/24", "192.168.100.255/24", "fd64::5/128", "::/0"]
LEASES = st.lists(st.sampled_from(LEASED), max_size=2).map(
    lambda texts: Result(ips=tuple(IPConfig(ip_interface(text)) for text in texts))
)


def carried_through(given_conf: dict[str, Any], lease: Result) -> None:
    """Ask everything of the plugin that ADD does, up to the kernel's part."""
    asked = request(conf=given_conf)
    overlay = parse(asked)
    there = facts(HERE, default_route=HERE, routes_to=WAYS)
    PLUGIN.asks(asked, overlay)
    find(overlay, there)
    require_no_clash(overlay, there)
    told = PLUGIN.ipam_request(asked, overlay, there)
    assert json.loads(told.stdin or b"{}") is not None
    host_plan(overlay, there)
    decide(asked, overlay, lease, there)


@pytest.mark.timeout(60)
@settings(max_examples=150, deadline=2000, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(BASES),
    st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=3),
    st.dictionaries(st.sampled_from(["type", "self", "subnet", "block", "group", "ttl"]), VALUES, max_size=2),
    LEASES,
)
def test_any_config_is_taken_or_refused(
    base: dict[str, Any], changes: dict[str, Any], backend: dict[str, Any], lease: Result
) -> None:
    changed = {**base, "backend": {**base["backend"], **backend}, **changes}
    with_words(changed, lease)


RECORD_KEYS = st.sampled_from(
    ["node", "vtep", "port", "mac", "subnet", "subnets", "block", "blocks", "mtu", "v", "epoch"]
)


@pytest.mark.timeout(60)
@settings(max_examples=150, deadline=2000)
@given(st.sampled_from(BASES[:5]), st.lists(st.dictionaries(RECORD_KEYS, VALUES, max_size=2), max_size=3))
def test_any_records_are_taken_or_refused(base: dict[str, Any], changes: list[dict[str, Any]]) -> None:
    listed = base["backend"]["peers"]
    peers: list[Any] = [
        {**record, **change} if isinstance(record, dict) else change
        for record, change in zip(listed, changes, strict=False)
    ]
    with_words({**base, "backend": {**base["backend"], "peers": peers + listed[len(changes) :]}}, Result())


def with_words(given_conf: dict[str, Any], lease: Result) -> None:
    try:
        carried_through(given_conf, lease)
    except CniError as err:
        said = err
    else:
        return
    assert said.code != CniError.code
    assert said.msg
    json.dumps([said.msg, said.full_details()]).encode()


@pytest.mark.parametrize("base", BASES)
def test_the_bases_are_taken_as_they_are(base: dict[str, Any]) -> None:
    carried_through(base, Result())
