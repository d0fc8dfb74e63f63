"""Configs as the reference reads JSON, errors that name every fault."""

from ipaddress import ip_address, ip_interface
from typing import Any

import pytest
from pydantic import Field

from cni_plugins.contract.model import (
    Address,
    Cidr,
    ClosedModel,
    ConfigModel,
    DnsField,
    Gateway,
    RouteField,
    load,
)
from cni_plugins.errors import InvalidNetworkConfig


class Inner(ConfigModel):
    subnet: Cidr
    gateway: Gateway = None


class Outer(ConfigModel):
    some_number: int = 0
    flag: bool = False
    inner: list[list[Inner]] = Field(default=[])
    server: Address | None = None
    dns: DnsField | None = None
    routes: list[RouteField] = Field(default=[])


def test_keys_fold_null_is_absent_and_strangers_are_ignored() -> None:
    loaded = load(Outer, {"SOMENUMBER": 5, "Flag": None, "stranger": {"flag": "x"}})
    assert (loaded.some_number, loaded.flag) == (5, False)


def test_the_last_spelling_wins_as_in_go() -> None:
    assert load(Outer, {"someNumber": 1, "SOMENUMBER": 2}).some_number == 2
    assert load(Outer, {"SOMENUMBER": 2, "someNumber": 1}).some_number == 1


def test_values_arrive_parsed() -> None:
    conf = {
        "inner": [[{"subnet": "10.0.0.0/8", "gateway": ""}]],
        "server": "192.0.2.1",
        "dns": {"domain": "example.org"},
        "routes": [{"dst": "0.0.0.0/0", "gw": "192.0.2.1"}],
    }
    loaded = load(Outer, conf)
    assert loaded.inner[0][0].subnet == ip_interface("10.0.0.0/8")
    assert loaded.inner[0][0].gateway is None
    assert loaded.server == ip_address("192.0.2.1")
    assert loaded.dns is not None
    assert loaded.dns.domain == "example.org"
    assert loaded.routes[0].gw == ip_address("192.0.2.1")


@pytest.mark.parametrize(
    ("conf", "fault"),
    [
        ({"someNumber": "5"}, "someNumber: input should be a valid integer, got '5'"),
        ({"someNumber": 5.0}, "someNumber: input should be a valid integer, got 5.0"),
        ({"flag": 0}, "flag: input should be a valid boolean, got 0"),
        ({"inner": [[{}]]}, "inner[0][0].subnet: field required"),
        (
            {"inner": [[{"subnet": "10.0.0.0"}]]},
            "inner[0][0].subnet: '10.0.0.0' is not an address in CIDR notation",
        ),
        ({"inner": [["x"]]}, "inner[0][0]: expected an object, got 'x'"),
        ({"server": "x"}, "server: 'x' is not an IP address"),
        ({"dns": []}, "dns: expected an object, got []"),
        ({"routes": [5]}, "routes[0]: route: expected an object, got 5"),
        ({"routes": [{"dst": "x"}]}, "routes[0]: route.dst: 'x' is not an address in CIDR notation"),
    ],
)
def test_each_fault_names_path_and_value(conf: dict[str, Any], fault: str) -> None:
    with pytest.raises(InvalidNetworkConfig) as caught:
        load(Outer, conf)
    assert fault in caught.value.details
    assert caught.value.msg.startswith("invalid network config: ")


def test_what_is_not_an_object_at_all() -> None:
    with pytest.raises(InvalidNetworkConfig, match="invalid network config: expected an object"):
        load(Outer, [])  # type: ignore[arg-type]


class Part(ClosedModel):
    some_number: int = 0
    within: list[Inner] = Field(default=[])
    own: str = Field(default="", alias="self")


class Whole(ConfigModel):
    part: Part = Part()


def test_an_object_of_ours_alone_takes_no_strangers() -> None:
    assert load(Part, {"SOMENUMBER": 5, "self": "x", "within": None}) == Part(someNumber=5, self="x")
    with pytest.raises(InvalidNetworkConfig) as caught:
        load(Part, {"someNumbers": 5})
    known = "(known are self, someNumber, within)"
    assert caught.value.details == f"unknown key 'someNumbers' {known}"
    with pytest.raises(InvalidNetworkConfig) as caught:
        load(Whole, {"part": {"own": "x"}})
    assert caught.value.details == f'part: unknown key \'own\' {known}, got {{"own": "x"}}'


def test_a_stranger_that_is_null_is_one_all_the_same() -> None:
    with pytest.raises(InvalidNetworkConfig, match="unknown key 'typo'"):
        load(Part, {"typo": None})


def test_what_an_object_of_ours_holds_may_have_strangers() -> None:
    assert load(Part, {"within": [{"subnet": "10.0.0.0/8", "comment": "x"}]}).within[0].subnet


@pytest.mark.parametrize(
    ("conf", "fault"),
    [
        ({"someNumber": "5"}, "backend.someNumber: input should be a valid integer, got '5'"),
        ({"within": [{}]}, "backend.within[0].subnet: field required"),
        ({"typo": 1}, "backend: unknown key 'typo'"),
    ],
)
def test_a_part_is_named_by_its_place_in_the_whole(conf: dict[str, Any], fault: str) -> None:
    with pytest.raises(InvalidNetworkConfig) as caught:
        load(Part, conf, at=("backend",))
    assert fault in caught.value.details
    with pytest.raises(InvalidNetworkConfig, match="invalid file x: "):
        load(Part, conf, "file x")


def test_of_very_many_faults_most_are_counted() -> None:
    with pytest.raises(InvalidNetworkConfig) as caught:
        load(Outer, {"inner": [[{}] * 500]})
    assert caught.value.details.count("field required") == 100
    assert caught.value.details.endswith("; and 400 more")
    with pytest.raises(InvalidNetworkConfig) as caught:
        load(Outer, {"inner": [[{}] * 100]})
    assert "more" not in caught.value.details
