"""A digest of the list of peers is the same on hosts that agree, and only there."""

from typing import Any

import pytest

from cni_plugins.vxlan.list_digest import list_digest
from tests.unit.vxlan import hosts


def digest(peers: Any = None, **keys: Any) -> str:
    return list_digest(hosts.parsed(**({} if peers is None else {"peers": peers}), **keys))


ONE, TWO, THREE = hosts.PEERS


@pytest.mark.parametrize(
    "peers",
    [
        [THREE, ONE, TWO],
        [ONE, {**TWO, "mac": "02:FE:0A:63:00:02"}, THREE],
        [ONE, {"node": "h2", "vtep": "10.99.0.2", "subnets": ["10.244.2.0/24"]}, THREE],
    ],
)
def test_order_notation_and_defaults_make_no_difference(peers: Any) -> None:
    assert digest(peers) == digest()
    assert len(digest()) == 12


@pytest.mark.parametrize(
    "peers",
    [
        [ONE, TWO],
        [ONE, {**TWO, "subnet": THREE["subnet"]}, {**THREE, "subnet": TWO["subnet"]}],
        [ONE, {**TWO, "mac": "02:00:00:00:00:01"}, THREE],
        [ONE, {**TWO, "mtu": 1400}, THREE],
        [ONE, {**TWO, "vtep": "10.99.0.22"}, THREE],
    ],
)
def test_what_hosts_disagree_about_does(peers: Any) -> None:
    assert digest(peers) != digest()


@pytest.mark.parametrize("keys", [{"vni": 78}, {"port": 8472}, {"network": "10.240.0.0/12"}])
def test_so_does_what_the_config_must_have_alike(keys: dict[str, Any]) -> None:
    assert digest(**keys) != digest()


def test_keys_of_one_host_do_not() -> None:
    assert digest(ipMasq=True, keep=True) == digest()


def test_without_a_list_there_is_none() -> None:
    assert digest(backend=hosts.GROUP, underlay={"interface": "eth0"}) == ""
