"""The macvlan plugin's config: defaults, sources of the MAC address, and one error for every fault."""

from typing import Any

import pytest

from cni_plugins.errors import InvalidNetworkConfig
from cni_plugins.macvlan.config import parse
from cni_plugins.protocol.request import Request


def parsed(cni_args: str = "", **conf: Any) -> Any:
    return parse(Request("ADD", "net1", conf={"name": "net1", "type": "macvlan", **conf}, args=cni_args))


def test_defaults_are_the_references() -> None:
    config = parsed()
    assert (config.master, config.mode, config.mtu, config.mac) == ("", "bridge", 0, "")
    assert not config.link_in_container
    assert not config.routes_for_containers
    assert parsed(mode="").mode == "bridge"
    assert parsed(master="").master == ""


@pytest.mark.parametrize(
    ("conf", "args", "mac"),
    [
        ({"mac": "02:00:00:00:00:01"}, "", 1),
        ({"mac": "02:00:00:00:00:01"}, "MAC=02:00:00:00:00:02", 2),
        ({"args": {"cni": {"mac": "02:00:00:00:00:03"}}}, "MAC=02:00:00:00:00:02", 3),
        (
            {"args": {"cni": {"mac": "02:00:00:00:00:03"}}, "RuntimeConfig": {"mac": "02-00-00-00-00-04"}},
            "MAC=02:00:00:00:00:02",
            4,
        ),
    ],
)
def test_the_mac_address_nearest_to_the_container_wins(conf: Any, args: str, mac: int) -> None:
    assert parsed(args, **conf).mac == f"02:00:00:00:00:0{mac}"


@pytest.mark.parametrize("source", ["mac", "args", "runtimeConfig", "CNI_ARGS"])
@pytest.mark.parametrize("mac", ["01:00:5e:00:00:01", "00:00:00:00:00:00", "nonsense"])
def test_a_mac_address_that_no_link_can_have(source: str, mac: str) -> None:
    conf = {
        "mac": {"mac": mac},
        "args": {"args": {"cni": {"mac": mac}}},
        "runtimeConfig": {"runtimeConfig": {"mac": mac}},
        "CNI_ARGS": {},
    }[source]
    with pytest.raises(InvalidNetworkConfig, match=mac):
        parsed(f"MAC={mac}" if source == "CNI_ARGS" else "", **conf)


def test_every_fault_is_named_at_once() -> None:
    with pytest.raises(InvalidNetworkConfig) as caught:
        parsed(mode="tunnel", vlan=4095, mtu=-1, master="a/b", bcqueuelen="1")
    for key in ("mode", "vlan", "mtu", "master", "bcqueuelen"):
        assert key in caught.value.details


@pytest.mark.parametrize(
    ("conf", "said"),
    [
        ({"mode": "source"}, "allowedMACs and mode source need each other"),
        ({"allowedMACs": ["02:00:00:00:00:01"]}, "allowedMACs and mode source need each other"),
        ({"hostAccess": True, "mode": "private"}, "in mode private links on one master are isolated"),
        ({"hostAccess": True, "linkInContainer": True}, "hostAccess needs a master in the host"),
        ({"vlan": 5, "linkInContainer": True}, "vlan needs a master in the host"),
        ({"vlanProtocol": "802.1x"}, "vlanProtocol"),
    ],
)
def test_keys_that_do_not_go_together(conf: Any, said: str) -> None:
    with pytest.raises(InvalidNetworkConfig, match=said):
        parsed(**conf)


def test_the_gateway_keys_count_only_together_with_host_access() -> None:
    keys = {"isGateway": True, "ipMasq": True}
    assert not parsed(**keys).routes_for_containers
    assert not parsed(**keys).masquerades
    assert parsed(**keys, hostAccess=True).masquerades
    assert not parsed(ipMasq=True, hostAccess=True).masquerades


def test_keys_match_in_any_case() -> None:
    config = parsed(LinkInContainer=True, MODE="vepa", BcQueueLen=7, VLANPROTOCOL="802.1AD")
    assert (config.link_in_container, config.mode, config.bcqueuelen) == (True, "vepa", 7)
    assert config.vlan_protocol == "802.1ad"
