from ipaddress import ip_network
from itertools import islice
from typing import Any

import pytest

from cni_plugins.contract.model import load
from cni_plugins.keeper.claims import Wanted, candidates, needs_another, wanted
from cni_plugins.vxlan.config import VxlanConfig


def config(**keys: Any) -> VxlanConfig:
    return load(VxlanConfig, {"backend": {}, **keys})


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"network": "10.0.0.0/8"}, [("10.0.0.0/8", 24)]),
        ({"network": "10.0.0.0/8", "subnetLen": 26}, [("10.0.0.0/8", 26)]),
        ({"network": ["fd00::/48", "10.0.0.0/16"]}, [("10.0.0.0/16", 24), ("fd00::/48", 64)]),
        ({"network": "10.0.0.0/24"}, [("10.0.0.0/24", 28)]),
        ({"network": "10.0.0.0/29"}, [("10.0.0.0/29", 30)]),
        ({"network": "fd00::/64"}, [("fd00::/64", 68)]),
        ({"mode": "l2", "subnet": "10.0.0.0/16"}, [("10.0.0.0/16", 28)]),
        ({"mode": "l2", "subnet": ["10.0.0.0/16", "fd00::/64"]}, [("10.0.0.0/16", 28)]),
        ({"mode": "l2", "subnet": "fd00::/64"}, [("fd00::/64", 124)]),
        ({"mode": "l2", "subnet": "10.0.0.0/16", "blockLen": 24}, [("10.0.0.0/16", 24)]),
        ({"mode": "l2", "subnet": "10.0.0.0/16", "bum": "head-end", "ipam": {"type": "dhcp"}}, []),
    ],
)
def test_what_a_host_needs(keys: dict[str, Any], expected: list[tuple[str, int]]) -> None:
    assert [(str(one.network), one.length) for one in wanted(config(**keys))] == expected


WANT = Wanted(ip_network("10.0.0.0/22"), 24)
ALL = {"10.0.0.0/24", "10.0.1.0/24", "10.0.2.0/24", "10.0.3.0/24"}


def test_every_candidate_comes_once_from_the_own_place_on() -> None:
    found = list(candidates(WANT, "h1", ()))
    assert set(found) == ALL
    assert len(found) == 4
    assert found == list(candidates(WANT, "h1", ()))
    firsts = {next(candidates(WANT, f"h{number}", ())) for number in range(50)}
    assert firsts == ALL


@pytest.mark.parametrize(
    ("taken", "left"),
    [
        (["10.0.1.0/24"], ALL - {"10.0.1.0/24"}),
        (["10.0.1.128/25", "10.0.3.4/32"], {"10.0.0.0/24", "10.0.2.0/24"}),
        (["10.0.0.0/23"], {"10.0.2.0/24", "10.0.3.0/24"}),
        (["10.0.0.0/8"], set()),
        (["192.0.2.0/24", "fd00::/64"], ALL),
    ],
)
def test_what_others_have_of_any_length_is_no_candidate(taken: list[str], left: set[str]) -> None:
    assert set(candidates(WANT, "h1", map(ip_network, taken))) == left


def test_a_huge_range_is_not_enumerated() -> None:
    want = Wanted(ip_network("fd00::/8"), 64)
    assert len(list(islice(candidates(want, "h1", ()), 3))) == 3


def test_when_another_block_is_needed() -> None:
    blocks = [ip_network("10.0.0.0/28"), ip_network("10.0.1.0/28")]
    assert not needs_another(blocks, 23)
    assert needs_another(blocks, 24)
