"""Good and bad configs of the bandwidth plugin, each fault with its message."""

from typing import Any

import pytest

from cni_plugins.bandwidth.config import BandwidthConfig, Limit, parse
from cni_plugins.errors import InvalidNetworkConfig
from cni_plugins.protocol.request import Request

NONE = Limit(0, 0)
LARGEST = 34359738359
"""The largest burst that the reference takes, and what CRI-O sends."""


def parsed(**keys: Any) -> BandwidthConfig:
    return parse(Request("ADD", "net1", conf={"name": "net1", "type": "bandwidth", **keys}))


def runtime(**keys: Any) -> dict[str, Any]:
    return {"runtimeConfig": {"bandwidth": keys}}


@pytest.mark.parametrize(
    ("keys", "received", "sent"),
    [
        ({}, NONE, NONE),
        ({"ingressRate": 0, "ingressBurst": 0, "egressRate": None}, NONE, NONE),
        ({"ingressRate": 8, "ingressBurst": 1}, Limit(8, 1), NONE),
        ({"EGRESSRATE": 800, "egressburst": 900}, NONE, Limit(800, 900)),
        (runtime(ingressRate=800, ingressBurst=LARGEST), Limit(800, LARGEST), NONE),
        (runtime(egressRate=2**64 - 1, egressBurst=4294967295), NONE, Limit(2**64 - 1, 4294967295)),
        ({"RuntimeConfig": {"bandWidth": {"ingressRate": 80, "ingressBurst": 8}}}, Limit(80, 8), NONE),
        ({"runtimeConfig": {"bandwidth": None}}, NONE, NONE),
        ({"runtimeConfig": None, "capabilities": None}, NONE, NONE),
        ({"runtimeConfig": {"portMappings": [], "ips": []}, "ingressrates": 5}, NONE, NONE),
    ],
)
def test_a_good_config(keys: dict[str, Any], received: Limit, sent: Limit) -> None:
    assert (parsed(**keys).received, parsed(**keys).sent) == (received, sent)


STATIC = {"ingressRate": 800, "ingressBurst": 80, "egressRate": 1600, "egressBurst": 160}


@pytest.mark.parametrize(
    ("of_container", "received", "sent"),
    [
        ({}, Limit(800, 80), Limit(1600, 160)),
        ({"ingressRate": 16, "ingressBurst": 8}, Limit(16, 8), Limit(1600, 160)),
        ({"egressRate": 16, "egressBurst": 8}, Limit(800, 80), Limit(16, 8)),
        # containerd sends 0 for the direction that a pod does not limit
        (
            {"ingressRate": 16, "ingressBurst": 8, "egressRate": 0, "egressBurst": 0},
            Limit(16, 8),
            Limit(1600, 160),
        ),
    ],
)
def test_limits_of_the_container_replace_those_of_the_network_each_direction_alone(
    of_container: dict[str, Any], received: Limit, sent: Limit
) -> None:
    config = parsed(**STATIC, **runtime(**of_container))
    assert (config.received, config.sent) == (received, sent)


def test_rates_are_in_bits_and_the_kernels_in_bytes() -> None:
    assert Limit(17, 39).in_bytes == (2, 4)


BAD = [
    ({"ingressRate": 800}, "if rate is set, burst must also be set: ingressRate is 800, ingressBurst is 0"),
    ({"egressRate": 800, "egressBurst": 0}, "if rate is set, burst must also be set: egressRate is 800"),
    ({"ingressBurst": 80}, "if burst is set, rate must also be set: ingressRate is 0, ingressBurst is 80"),
    ({"egressBurst": 80}, "if burst is set, rate must also be set: egressRate is 0, egressBurst is 80"),
    (
        {"ingressRate": 800, "ingressBurst": LARGEST + 1},
        f"burst cannot be more than 4GB: ingressRate is 800, ingressBurst is {LARGEST + 1}",
    ),
    ({"egressRate": 7, "egressBurst": 80}, "rate cannot be less than 8 bit/s: egressRate is 7"),
    (runtime(ingressRate=800), "runtimeConfig.bandwidth: if rate is set, burst must also be set"),
    ({**STATIC, **runtime(egressBurst=5)}, "runtimeConfig.bandwidth: if burst is set, rate must also be set"),
    (
        {"ingressRate": -1, "ingressBurst": 80},
        "ingressRate: -1 is not a whole number from 0 to",
    ),
    ({"ingressRate": 2**64, "ingressBurst": 80}, "ingressRate: 18446744073709551616 is not a whole number"),
    ({"ingressRate": "800", "ingressBurst": 80}, "ingressRate: '800' is not a whole number"),
    ({"ingressRate": True, "ingressBurst": 80}, "ingressRate: true is not a whole number"),
    ({"ingressRate": 800, "ingressBurst": 8e1}, "ingressBurst: 80.0 is not a whole number"),
    ({"egressRate": [800], "egressBurst": 80}, "egressRate: [800] is not a whole number"),
    ({"egressRate": {}, "egressBurst": 80}, "egressRate: {} is not a whole number"),
    (runtime(egressRate="1M"), "runtimeConfig.bandwidth.egressRate: '1M' is not a whole number"),
    ({"runtimeConfig": {"bandwidth": []}}, "runtimeConfig.bandwidth: expected an object, got []"),
    ({"runtimeConfig": "x"}, "runtimeConfig: expected an object, got 'x'"),
    ({"capabilities": {"bandwidth": "yes"}}, "capabilities.bandwidth: input should be a valid boolean"),
]


@pytest.mark.parametrize(("keys", "message"), BAD)
def test_a_bad_config_is_refused_with_key_and_value(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidNetworkConfig) as caught:
        parsed(**keys)
    assert caught.value.msg.startswith("invalid network config: ")
    assert message in caught.value.msg


def test_all_faults_are_named() -> None:
    with pytest.raises(InvalidNetworkConfig) as caught:
        parsed(ingressRate="x", egressBurst=-5)
    assert "ingressRate: 'x'" in caught.value.details
    assert "egressBurst: -5" in caught.value.details
