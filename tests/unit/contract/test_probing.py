"""Where each plugin asks whether anybody has an address, and when it does not."""

from typing import Any

import pytest

from cni_plugins.bridge.plugin import PLUGIN as BRIDGE
from cni_plugins.contract.facts import Asks, Facts
from cni_plugins.contract.plugin import Probing
from cni_plugins.loopback.plugin import PLUGIN as LOOPBACK
from cni_plugins.macvlan.plugin import PLUGIN as MACVLAN
from cni_plugins.protocol.request import Request
from cni_plugins.ptp.plugin import PLUGIN as PTP
from cni_plugins.steps.step import SANDBOX

IPAM = {"ipam": {"type": "host-local"}}
INSIDE = Probing(SANDBOX, "eth0")


def request(plugin: str, command: Any = "ADD", **keys: Any) -> Request:
    return Request(
        command=command, network="net", container_id="c1", ifname="eth0", conf={"type": plugin, **keys}
    )


TABLE: list[Any] = [
    (BRIDGE, {"acd": True, **IPAM}, True, INSIDE),
    (BRIDGE, {"acd": True, **IPAM}, False, None),
    (BRIDGE, {"acd": True}, True, None),
    (BRIDGE, {**IPAM}, True, None),
    (MACVLAN, {"acd": True, "master": "eth0", **IPAM}, False, INSIDE),
    (MACVLAN, {"acd": True, "master": "eth0"}, False, None),
    (MACVLAN, {"master": "eth0", **IPAM}, False, None),
    (PTP, {"acd": True, **IPAM}, True, None),
    (LOOPBACK, {"acd": True}, True, None),
]


@pytest.mark.parametrize(("plugin", "keys", "has_uplink", "expected"), TABLE)
def test_a_plugin_asks_where_somebody_may_answer(
    plugin: Any, keys: dict[str, Any], has_uplink: bool, expected: Probing | None
) -> None:
    asked = request(plugin.name, **keys)
    assert plugin.probes(asked, plugin.parse(asked), Facts(has_uplink=has_uplink)) == expected


@pytest.mark.parametrize(
    ("command", "keys", "bridge"),
    [
        ("ADD", {"acd": True}, "cni0"),
        ("ADD", {}, ""),
        ("CHECK", {"acd": True}, ""),
        ("STATUS", {"acd": True}, ""),
        ("DEL", {"acd": True}, ""),
    ],
)
def test_only_an_add_that_probes_looks_for_an_uplink(command: str, keys: dict[str, Any], bridge: str) -> None:
    asked = request("bridge", command, **keys, **IPAM)
    asks: Asks = BRIDGE.asks(asked, BRIDGE.parse(asked))
    assert asks.uplink_of == bridge
