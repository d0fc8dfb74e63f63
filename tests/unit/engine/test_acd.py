"""Addresses that somebody on the wire has are not given out, whichever IPAM plugin chooses them."""

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address, ip_interface
from typing import Any

import pytest

from cni_plugins.contract.ipam import IpamPlugin
from cni_plugins.engine import acd
from cni_plugins.errors import CniError, KernelRefused, PoolExhausted
from cni_plugins.protocol.fields import IPAddress
from cni_plugins.protocol.request import Request
from cni_plugins.protocol.result import IPConfig, Result

MAC = "02:00:00:00:00:99"


class Pool:
    """An IPAM plugin with ten addresses, that gives out the first free one or goes round."""

    def __init__(self, kind: str, taken: Iterable[int] = ()) -> None:
        self.kind, self.last = kind, 0
        self.leases: dict[int, str] = dict.fromkeys(taken, "others")
        nothing = lambda *_: None  # noqa: E731
        self.plugin = IpamPlugin("pool", self.reserve, nothing, self.take_back, nothing, nothing, nothing)

    def reserve(self, request: Request) -> Result:
        order = range(1, 11) if self.kind == "first" else [(self.last + n) % 10 + 1 for n in range(10)]
        number = 5 if self.kind == "fixed" else next((n for n in order if n not in self.leases), 0)
        if not number:
            raise PoolExhausted("nothing left")
        self.leases[number] = request.container_id
        self.last = number
        return Result(ips=(IPConfig(ip_interface(f"192.0.2.{number}/24")),))

    def take_back(self, request: Request, lease: Result) -> None:
        for ip in lease.ips:
            number = int(ip.address.ip) & 0xFF
            assert self.leases.pop(number) == request.container_id or self.kind == "fixed"


class Wire:
    def __init__(self, *used: int) -> None:
        self.used = {ip_address(f"192.0.2.{number}") for number in used}
        self.asked: list[str] = []

    def __call__(self, addresses: Sequence[IPAddress]) -> Mapping[IPAddress, str]:
        self.asked += map(str, addresses)
        return {address: MAC for address in addresses if address in self.used}


def request(**conf: Any) -> Request:
    return Request(
        command="ADD", network="net", container_id="c1", ifname="eth0", conf={"name": "net", **conf}
    )


@pytest.mark.parametrize("kind", ["first", "round"])
@pytest.mark.parametrize(("used", "given"), [((), 1), ((1,), 2), ((1, 2, 3), 4), ((1, 2, 3, 4, 5, 6, 7), 8)])
def test_the_first_address_that_nobody_has_is_given_out(kind: str, used: Sequence[int], given: int) -> None:
    pool, wire = Pool(kind), Wire(*used)
    lease = acd.reserve(pool.plugin, request(), wire)
    assert [str(ip.address.ip) for ip in lease.ips] == [f"192.0.2.{given}"]
    assert pool.leases == {given: "c1"}
    assert wire.asked == [f"192.0.2.{number}" for number in range(1, given + 1)]


@pytest.mark.parametrize("kind", ["first", "round"])
def test_the_last_free_address_is_found_beside_one_in_use(kind: str) -> None:
    pool = Pool(kind, taken=(1, 2, 3, 4, 5, 6, 7, 8))
    lease = acd.reserve(pool.plugin, request(), Wire(9))
    assert [str(ip.address.ip) for ip in lease.ips] == ["192.0.2.10"]
    assert {n: who for n, who in pool.leases.items() if who != "others"} == {10: "c1"}


@pytest.mark.parametrize("kind", ["first", "round"])
def test_after_eight_addresses_in_use_the_last_is_named_with_who_has_it(kind: str) -> None:
    pool, wire = Pool(kind), Wire(*range(1, 11))
    with pytest.raises(PoolExhausted) as raised:
        acd.reserve(pool.plugin, request(), wire)
    assert raised.value.msg == f"IP address 192.0.2.8 is in use: {MAC} answers for it on the container's link"
    assert f"192.0.2.1 is in use by {MAC}" in raised.value.details
    assert len(wire.asked) == 8
    assert pool.leases == {}


@pytest.mark.parametrize("kind", ["first", "round"])
def test_a_pool_whose_only_address_is_in_use_is_exhausted(kind: str) -> None:
    pool = Pool(kind, taken=(1, 2, 3, 4, 5, 6, 7, 8, 9))
    with pytest.raises(CniError) as raised:
        acd.reserve(pool.plugin, request(), Wire(10))
    assert raised.value.code == 102
    assert MAC in raised.value.full_details()
    assert set(pool.leases.values()) == {"others"}


ASKING: list[Any] = [
    {"conf": {"runtimeConfig": {"ips": ["192.0.2.5/24"]}}},
    {"conf": {"args": {"cni": {"ips": ["192.0.2.5"]}}}},
    {"args": "IgnoreUnknown=1;IP=192.0.2.5"},
]


@pytest.mark.parametrize("asking", ASKING)
def test_an_address_that_was_asked_for_and_is_in_use_is_refused(asking: dict[str, Any]) -> None:
    pool, wire = Pool("fixed"), Wire(5)
    asked = request(**asking.get("conf", {}))._replace(args=asking.get("args", ""))
    with pytest.raises(PoolExhausted, match="requested IP address 192.0.2.5 is in use: 02:00") as raised:
        acd.reserve(pool.plugin, asked, wire)
    assert raised.value.code == 102
    assert wire.asked == ["192.0.2.5"]


def test_a_plugin_that_knows_one_address_only_is_asked_no_longer() -> None:
    wire = Wire(5)
    pool = Pool("fixed")
    pool.take_back = lambda *_: None  # type: ignore[method-assign]
    plugin = pool.plugin._replace(take_back=lambda *_: None)
    with pytest.raises(PoolExhausted, match="IP address 192.0.2.5 is in use"):
        acd.reserve(plugin, request(), wire)
    assert wire.asked == ["192.0.2.5"]


def test_nothing_stays_reserved_if_the_wire_cannot_be_asked() -> None:
    pool = Pool("round")

    def refuse(_: Sequence[IPAddress]) -> Mapping[IPAddress, str]:
        raise KernelRefused("probe for addresses on eth0: Operation not permitted")

    with pytest.raises(KernelRefused):
        acd.reserve(pool.plugin, request(), refuse)
    assert pool.leases == {}


def test_a_lease_without_addresses_is_not_asked_about() -> None:
    plugin = Pool("round").plugin._replace(reserve=lambda _: Result())
    wire = Wire(1)
    assert acd.reserve(plugin, request(), wire) == Result()
    assert wire.asked == []
