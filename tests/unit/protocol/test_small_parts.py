"""CNI_ARGS, names, addresses, MACs, attachments."""

from typing import Any

import pytest

from cni_plugins.errors import BadEnvironment
from cni_plugins.ownership import ALIAS_LIMIT, Attachment, mac_from
from cni_plugins.protocol.args import parse_args
from cni_plugins.protocol.fields import get, parse_address, parse_cidr, rest, shown, typed
from cni_plugins.protocol.ifnames import ifname_fault
from cni_plugins.protocol.macs import parse_mac


def test_args_know_the_keys_of_the_whole_suite() -> None:
    assert parse_args("IP=10.1.0.5;MAC=02:00:00:00:00:01") == {"IP": "10.1.0.5", "MAC": "02:00:00:00:00:01"}
    assert parse_args("") == {}


@pytest.mark.parametrize("ignore", ["1", "true", "True"])
def test_unknown_args_can_be_ignored(ignore: str) -> None:
    assert parse_args(f"IgnoreUnknown={ignore};K8S_POD_NAME=x;IP=10.1.0.5") == {"IP": "10.1.0.5"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("FOO=bar", 'ARGS: unknown args ["FOO=bar"]'),
        ("FOO=bar;IgnoreUnknown=0", 'ARGS: unknown args ["FOO=bar"]'),
        ("ip=10.1.0.5", 'ARGS: unknown args ["ip=10.1.0.5"]'),
        ("IP", 'ARGS: invalid pair "IP"'),
        ("A=B=C", 'ARGS: invalid pair "A=B=C"'),
        ("IP=10.1.0.5;", 'ARGS: invalid pair ""'),
    ],
)
def test_bad_args(text: str, message: str) -> None:
    with pytest.raises(BadEnvironment) as caught:
        parse_args(text)
    assert caught.value.msg == message


@pytest.mark.parametrize("text", ["02:00:5e:00:53:01", "02-00-5E-00-53-01", "0200.5e00.5301", "02005e005301"])
def test_mac_addresses_come_in_many_notations(text: str) -> None:
    assert parse_mac(text) == "02:00:5e:00:53:01"


@pytest.mark.parametrize(
    "value", ["zz", "", 5, None, "01:00:5e:00:00:01", "00:00:00:00:00:00", "02:00:00:00:00"]
)
def test_an_impossible_mac_address_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="MAC address"):
        parse_mac(value)


@pytest.mark.parametrize("value", ["10.0.0.01", "10.0.0", "fe80::1%eth0", "", None, 5, "10.0.0.1/24"])
def test_a_bad_address(value: Any) -> None:
    with pytest.raises(ValueError, match="is not an IP address"):
        parse_address(value, "here")


@pytest.mark.parametrize(
    "value", ["10.0.0.1", "10.0.0.1/33", "10.0.0.1/255.255.255.0", "x/8", "10.0.0.1/-1", None]
)
def test_a_bad_cidr(value: Any) -> None:
    with pytest.raises(ValueError, match="is not an address in CIDR notation"):
        parse_cidr(value)


def test_host_bits_are_kept() -> None:
    assert str(parse_cidr("10.0.0.7/24")) == "10.0.0.7/24"


def test_names_of_an_attachment_follow_from_it_alone() -> None:
    one, other = Attachment("n", "c", "eth0"), Attachment("n", "c", "eth1")
    assert one.host_end == Attachment("n", "c", "eth0").host_end != other.host_end
    assert len(one.host_end) == 12
    assert one.tag != other.tag
    assert one.tag.split("-")[0] == other.tag.split("-")[0]
    assert one.mac("host", "h1") != one.mac("sandbox", "h1") != one.mac("sandbox", "h2")


def test_joined_parts_cannot_be_mistaken_for_others() -> None:
    assert Attachment("a", "bc", "d").host_end != Attachment("ab", "c", "d").host_end


def test_an_alias_fits_the_kernel() -> None:
    assert len(Attachment("n" * 255, "c" * 255, "eth0").alias) == ALIAS_LIMIT


@pytest.mark.parametrize("seed", [str(number) for number in range(50)])
def test_made_up_mac_addresses_are_local_and_unicast(seed: str) -> None:
    assert int(mac_from(seed)[:2], 16) & 3 == 2


def test_a_wrong_type_is_named_with_path_and_value() -> None:
    with pytest.raises(ValueError, match=r"a\.b: expected a whole number, got true"):
        typed({"B": True}, "b", int, "a.")
    assert typed({"b": None}, "b", list, "") == []


def test_rest_and_get_fold_case() -> None:
    conf = {"Known": 1, "other": 2}
    assert rest(conf, ("known",)) == {"other": 2}
    assert get(conf, "KNOWN") == 1


def test_what_is_shown_is_short() -> None:
    assert len(shown("x" * 1000)) == 80


@pytest.mark.parametrize(
    ("name", "fault"), [("eth0", ""), ("", "is empty"), ("x" * 16, "is too long, at most 15 bytes")]
)
def test_link_names(name: str, fault: str) -> None:
    assert ifname_fault(name) == fault
