"""Messages about qdiscs and filters say to pyroute2 what they are meant to say."""

import struct
from typing import Any

import pytest
from pyroute2.netlink.rtnl.tcmsg import tcmsg

from cni_plugins.kernel.netlink import rtnetlink as wire
from cni_plugins.kernel.netlink import traffic_control as tc
from cni_plugins.kernel.netlink.socket import Answer

SETTINGS = tc.BucketSettings(rate=125_000, limit=200_000, buffer=3_125_000)
INFO = tc.filter_info(0xFFFF)


def read(message: bytearray) -> tuple[Any, dict[str, Any]]:
    """Return what pyroute2 reads: the header, and the attributes below TCA_OPTIONS."""
    found = tcmsg(bytes(message))
    found.decode()
    options = found.get_attr("TCA_OPTIONS")
    return found, dict(options["attrs"]) if options else {}


def new_bucket(settings: tc.BucketSettings, burst: int = 0) -> bytearray:
    body = tc.token_bucket(settings, burst)
    return wire.traffic_control(wire.RTM_NEWQDISC, 0x604, body, index=3, handle=0x0C410000, parent=tc.ROOT)


def new_redirection(target: int = 77) -> bytearray:
    attrs = tc.redirection(0x0C410001, target)
    return wire.traffic_control(
        wire.RTM_NEWTFILTER, 0x604, attrs, index=3, handle=5, parent=tc.CLSACT_INGRESS, info=INFO
    )


def answer(message: bytearray) -> Answer:
    return Answer(0, bytes(message))


def test_a_token_bucket() -> None:
    found, options = read(new_bucket(SETTINGS))
    assert (found["header"]["type"], found["header"]["flags"]) == (36, 0x605)
    assert (found["index"], found["handle"], found["parent"]) == (3, 0x0C410000, 0xFFFFFFFF)
    assert found.get_attr("TCA_KIND") == "tbf"
    parms = options["TCA_TBF_PARMS"]
    assert (parms["rate"], parms["limit"], parms["buffer"]) == SETTINGS[:1] + SETTINGS[1:]
    assert parms["rate___reserved"] == 1  # linklayer: Ethernet, so that no rate table is needed
    assert {key: value for key, value in parms.items() if value} == {
        "rate": 125_000,
        "limit": 200_000,
        "buffer": 3_125_000,
        "rate___reserved": 1,
    }


def test_a_rate_of_more_than_32_bits_and_a_burst_in_bytes_have_attributes_of_their_own() -> None:
    """pyroute2 does not know them: TCA_TBF_RATE64 is 4, TCA_TBF_BURST is 6 (linux/pkt_sched.h)."""
    message = new_bucket(SETTINGS._replace(rate=2**33), burst=9)
    assert read(message)[1]["TCA_TBF_PARMS"]["rate"] == 0xFFFFFFFF
    assert message.endswith(struct.pack("=HHQHHI", 12, 4, 2**33, 8, 6, 9))
    exact = new_bucket(SETTINGS._replace(rate=0xFFFFFFFF))
    assert len(exact) == len(new_bucket(SETTINGS))


@pytest.mark.parametrize("rate", [1, 125_000, 0xFFFFFFFF, 2**32, 2**61])
def test_a_token_bucket_is_read_as_it_was_written(rate: int) -> None:
    settings = SETTINGS._replace(rate=rate)
    assert tc.read_qdisc(answer(new_bucket(settings))) == ("tbf", 0x0C410000, settings)


def test_any_other_qdisc_is_read_by_its_kind() -> None:
    other = wire.traffic_control(
        36, 0, tc.qdisc("clsact"), index=3, handle=tc.CLSACT_HANDLE, parent=tc.INGRESS
    )
    assert read(other)[0].get_attr("TCA_KIND") == "clsact"
    assert tc.read_qdisc(answer(other)) == ("clsact", 0xFFFF0000, None)
    cut = wire.traffic_control(36, 0, tc.qdisc("tbf", wire.number(1, 5)), index=3, handle=1 << 16)
    assert tc.read_qdisc(answer(cut)) == ("tbf", 1 << 16, None)


def test_a_redirection() -> None:
    found, options = read(new_redirection())
    assert (found["header"]["type"], found["parent"], found["info"]) == (44, 0xFFFFFFF2, INFO)
    assert struct.pack("=I", INFO) == b"\0\3\xff\xff"  # ETH_P_ALL in network order, and the priority
    assert found.get_attr("TCA_KIND") == "u32"
    assert options["TCA_U32_CLASSID"] == 0x0C410001
    selector = options["TCA_U32_SEL"]
    assert (selector["flags"], selector["nkeys"]) == (1, 1)
    assert set(selector["keys"][0].values()) == {0}
    action = options["TCA_U32_ACT"].get_attr("TCA_ACT_PRIO_1")
    assert action.get_attr("TCA_ACT_KIND") == "mirred"
    mirred = action.get_attr("TCA_ACT_OPTIONS").get_attr("TCA_MIRRED_PARMS")
    assert (mirred["eaction"], mirred["ifindex"], mirred["action"]) == (1, 77, 4)


def test_a_redirection_is_read_as_it_was_written() -> None:
    found = tc.read_redirection(answer(new_redirection()))
    assert found == (5, INFO, 0x0C410001, 77)
    assert found is not None
    assert found.priority == 0xFFFF


MIRRED = struct.Struct("=IIiiiiI")


def changed(old: bytes, new: bytes) -> Answer:
    message = bytes(new_redirection())
    assert message.count(old) == 1
    return Answer(0, message.replace(old, new))


@pytest.mark.parametrize(
    "other",
    [
        changed(b"u32\0", b"bpf\0"),
        changed(b"mirred\0", b"police\0"),
        changed(MIRRED.pack(0, 0, 4, 0, 0, 1, 77), MIRRED.pack(0, 0, 4, 0, 0, 2, 77)),
        changed(struct.pack("=BBB13xII", 1, 0, 1, 0, 0), struct.pack("=BBB13xII", 1, 0, 1, 0xFF, 0)),
        Answer(0, bytes(wire.traffic_control(44, 0, tc.qdisc("u32"), index=3))),
        Answer(0, bytes(wire.traffic_control(44, 0, tc.matching_all(5), index=3))),
        Answer(0, bytes(wire.traffic_control(44, 0, index=3))),
    ],
    ids=["kind", "action", "mirror", "key", "table", "no action", "nothing"],
)
def test_a_filter_that_does_anything_else_is_no_redirection_of_all_packets(other: Answer) -> None:
    assert tc.read_redirection(other) is None
