"""The firewall plugin's keys: defaults, and the error for each value that is refused."""

from typing import Any

import pytest

from cni_plugins.errors import InvalidNetworkConfig
from cni_plugins.firewall.config import FirewallConfig, parse
from cni_plugins.protocol.request import Request


def parsed(**keys: Any) -> FirewallConfig:
    return parse(Request("ADD", "net1", conf=keys))


def test_defaults_are_the_references() -> None:
    config = parsed()
    assert (config.backend, config.ingress_policy) == ("", "open")
    assert (config.iptables_admin_chain_name, config.firewalld_zone) == ("CNI-ADMIN", "trusted")
    assert (config.is_apart, config.is_isolated) == (False, False)


@pytest.mark.parametrize("value", ["", None])
@pytest.mark.parametrize("key", ["backend", "iptablesAdminChainName", "firewalldZone", "ingressPolicy"])
def test_empty_texts_stand_for_the_defaults(key: str, value: str | None) -> None:
    assert parsed(**{key: value}) == parsed()


GOOD = [
    {"backend": "iptables"},
    {"backend": "nftables"},
    {"BACKEND": "firewalld"},
    {"iptablesAdminChainName": "x" * 28},
    {"iptablesAdminChainName": "site_1.forward:2-a"},
    {"firewalldZone": "containers"},
    {"firewalldZone": "site/containers-1_2"},
]


@pytest.mark.parametrize("keys", GOOD, ids=str)
def test_good_values(keys: dict[str, str]) -> None:
    config = parsed(**keys)
    values = (config.backend, config.iptables_admin_chain_name, config.firewalld_zone)
    assert next(iter(keys.values())) in values


@pytest.mark.parametrize(
    ("policy", "apart", "isolated"),
    [("open", False, False), ("same-bridge", True, False), ("isolated", True, True)],
)
def test_policies(policy: str, apart: bool, isolated: bool) -> None:
    config = parsed(ingressPolicy=policy)
    assert (config.is_apart, config.is_isolated) == (apart, isolated)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"backend": "ebtables"}, "backend: input should be '', 'iptables', 'nftables' or 'firewalld'"),
    ({"backend": 5}, "backend: input should be"),
    (
        {"ingressPolicy": "closed"},
        'ingressPolicy: unknown ingress policy: "closed" (known are open, same-bridge, isolated)',
    ),
    ({"ingressPolicy": 5}, "ingressPolicy: input should be a valid string, got 5"),
    (
        {"iptablesAdminChainName": "x" * 29},
        f"iptablesAdminChainName: '{'x' * 29}' cannot be a chain of iptables: 1 to 28 of A-Za-z0-9_.:-",
    ),
    ({"iptablesAdminChainName": "a b"}, "iptablesAdminChainName: 'a b' cannot be a chain of iptables"),
    ({"iptablesAdminChainName": "-A"}, "iptablesAdminChainName: '-A' cannot be a chain of iptables"),
    ({"iptablesAdminChainName": "A\n"}, "iptablesAdminChainName: 'A\\n' cannot be a chain of iptables"),
    (
        {"iptablesAdminChainName": "FORWARD"},
        "iptablesAdminChainName: 'FORWARD' is a chain or target of another purpose",
    ),
    ({"firewalldZone": "a b"}, "firewalldZone: 'a b' cannot be the name of a zone of firewalld"),
    ({"firewalldZone": "a/b/c"}, "firewalldZone: 'a/b/c' cannot be the name of a zone of firewalld"),
    ({"firewalldZone": 5}, "firewalldZone: input should be a valid string, got 5"),
]


@pytest.mark.parametrize(("keys", "message"), BAD, ids=str)
def test_bad_values(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidNetworkConfig) as caught:
        parsed(**keys)
    assert caught.value.msg.startswith(f"invalid network config: {message}")


def test_every_fault_is_named() -> None:
    with pytest.raises(InvalidNetworkConfig) as caught:
        parsed(backend="x", ingressPolicy="y", firewalldZone="a b", iptablesAdminChainName="DROP")
    assert caught.value.details.count(";") == 3
