import json
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni_plugins.contract.model import load
from cni_plugins.keeper import sift as module
from cni_plugins.keeper.sift import Sieve, Sifted, Sound, sound
from cni_plugins.vxlan.records import Extent, RecordModel, faults

L3 = Extent("l3", (ip_network("10.0.0.0/8"),), 24, 4789)


def record(number: int, **keys: Any) -> dict[str, Any]:
    base = {"v": 1, "node": f"h{number}", "vtep": f"192.0.2.{number}", "subnets": [f"10.0.{number}.0/24"]}
    return {**base, **keys}


OWN: Sound = sound("h1", record(1), L3)


def sift(*documents: Any, before: dict[str, str] | None = None) -> Sifted:
    found = {f"h{number}": json.dumps(document).encode() for number, document in enumerate(documents, 2)}
    return Sieve(L3).sift(found, OWN, before or {})


def test_good_records_are_kept_and_stripped() -> None:
    found = sift(record(2, host="secret", epoch="boot", later="key"), record(3))
    assert list(found.records) == ["h1", "h2", "h3"]
    assert found.faults == ()
    assert json.loads(found.records["h2"].text) == record(2)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"", "record of node 'h2' is left out"),
        (b"{", "record of node 'h2' is left out"),
        (b"[]", "it is not an object"),
        (b"\xff\xfe", "record of node 'h2' is left out"),
        (b"[" * 5000, "nested too deeply"),
        (b'"' + b"x" * 20_000 + b'"', "it has 20002 bytes"),
        (json.dumps(record(3)).encode(), "it says that it is of node 'h3'"),
        (json.dumps(record(2, vtep="127.0.0.1")).encode(), "is not a host address"),
        (json.dumps(record(2, vtep="192.0.2.1")).encode(), "vtep 192.0.2.1 is that of this host"),
        (json.dumps(record(2, vtep="2001:db8::2")).encode(), "is not of the family"),
        (json.dumps(record(2, vtep="10.0.9.9")).encode(), "is an address of the overlay itself"),
        (json.dumps(record(2, subnets=["10.0.1.0/24"])).encode(), "overlaps that of this host"),
        (json.dumps(record(2, subnets=["172.16.0.0/24"])).encode(), "is outside 10.0.0.0/8"),
        (json.dumps(record(2, subnets=["10.0.0.0/16"])).encode(), "must have prefix length /24"),
        (json.dumps(record(2, subnets=[])).encode(), "it has no subnet"),
        (json.dumps(record(2, blocks=["10.0.9.0/28"])).encode(), "blocks 10.0.9.0/28 in mode l3"),
        (
            json.dumps(record(2, mac="02:fe:c0:00:02:01")).encode(),
            "mac 02:fe:c0:00:02:01 is that of",
        ),
        (json.dumps(record(2, mac="x")).encode(), "record of node 'h2' is left out: mac"),
        (json.dumps(record(2, port=1)).encode(), "port is 1"),
        (json.dumps(record(2, mtu="x")).encode(), "mtu"),
        (json.dumps(record(2, v=2)).encode(), "v is 2"),
    ],
)
def test_a_bad_record_is_named_and_hides_no_other(value: bytes, text: str) -> None:
    good = json.dumps(record(3)).encode()
    found = Sieve(L3).sift({"h2": value, "h3": good}, OWN, {})
    assert list(found.records) == ["h1", "h3"]
    assert len(found.faults) == 1
    assert text in found.faults[0]


def test_a_listed_record_of_this_host_is_not_used() -> None:
    found = Sieve(L3).sift({"h1": json.dumps(record(1, vtep="192.0.2.77")).encode()}, OWN, {})
    assert found.records == {"h1": OWN}


def test_of_two_that_conflict_the_known_one_stays() -> None:
    newcomer, known = record(2, subnets=["10.0.3.0/24"]), record(3)
    found = sift(newcomer, known, before={"h3": sound("h3", known, L3).text})
    assert list(found.records) == ["h1", "h3"]
    assert "subnet 10.0.3.0/24 overlaps that of node 'h3'" in found.faults[0]
    assert list(sift(newcomer, known).records) == ["h1", "h2"]  # neither is known: by name, alike everywhere


def test_more_records_than_peers_are_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_PEERS", 3)
    found = sift(*map(record, range(2, 7)))
    assert len(found.records) == 3
    assert len(found.faults) == 3
    assert "more than 3 peers" in found.faults[0]


def test_a_record_that_is_mended_is_used() -> None:
    sieve = Sieve(L3)
    assert len(sieve.sift({"h2": b"{"}, OWN, {}).records) == 1
    assert len(sieve.sift({"h2": json.dumps(record(2)).encode()}, OWN, {}).records) == 2
    assert len(sieve.sift({}, OWN, {}).records) == 1


SMALL = st.integers(1, 4)
LENGTH = st.sampled_from([23, 24, 25])
ANY = st.fixed_dictionaries(
    {"vtep": st.builds("192.0.2.{}".format, SMALL)},
    optional={
        "subnets": st.lists(st.builds("10.0.{}.0/{}".format, SMALL, LENGTH), max_size=2),
        "mac": st.builds("02:00:00:00:00:0{}".format, SMALL),
        "mtu": st.integers(0, 2000),
    },
)


@given(st.lists(ANY, max_size=6))
def test_what_is_kept_never_conflicts(items: list[dict[str, Any]]) -> None:
    extent = L3._replace(length=0)
    found = {f"h{n}": json.dumps({"node": f"h{n}", **item}).encode() for n, item in enumerate(items, 2)}
    own = sound("h1", record(1), extent)
    sifted = Sieve(extent).sift(found, own, {})
    models = [load(RecordModel, json.loads(one.text)) for one in sifted.records.values()]
    assert list(faults(models, extent)) == []
    assert len(sifted.records) + len(sifted.faults) == len(items) + 1
    assert ip_address("192.0.2.1") in {one.record.vtep for one in sifted.records.values()}
