"""Good and bad configs of the tuning plugin, each fault with its message, and which source decides."""

import json
from pathlib import Path
from typing import Any

import pytest

from cni_plugins.errors import BadEnvironment, InvalidNetworkConfig
from cni_plugins.protocol.request import Request
from cni_plugins.tuning import allow_list
from cni_plugins.tuning.config import Tuning, parse
from cni_plugins.tuning.data_dir import DEFAULT, possible
from cni_plugins.tuning.plugin import PLUGIN

MACS = [f"02:00:00:00:00:0{digit}" for digit in range(6)]


def parsed(cni_args: str = "", ifname: str = "eth0", **keys: Any) -> Tuning:
    conf = {"name": "net1", "type": "tuning", **keys}
    stdin = json.dumps(conf).encode()
    return parse(Request("ADD", "net1", conf=conf, args=cni_args, ifname=ifname, stdin=stdin))


def test_without_keys_nothing_is_set() -> None:
    assert parsed() == Tuning(data_dir="/run/cni/tuning")
    assert parsed(sysctl=None, mac=None, promisc=None, mtu=None, allmulti=None, txQLen=None) == parsed()
    assert parsed(sysctl={}, mac="", mtu=0, promisc=False, dataDir="", runtimeConfig={}, args={}) == parsed()


def test_every_key_in_any_case() -> None:
    keys = {
        "SYSCTL": {"net.core.somaxconn": "500"},
        "Mac": MACS[1].upper(),
        "PROMISC": True,
        "mTU": 1400,
        "AllMulti": False,
        "txqlen": 0,
        "DataDir": "/d",
        "MTUbothEnds": True,
    }
    expected = Tuning(
        sysctls=((("core", "somaxconn"), "500"),),
        names=("net.core.somaxconn",),
        mac=MACS[1],
        promisc=True,
        mtu=1400,
        mtu_both_ends=True,
        allmulti=False,
        tx_queue_len=0,
        data_dir="/d",
    )
    assert parsed(**keys) == expected


@pytest.mark.parametrize(
    ("args", "keys", "mac"),
    [
        ("", {"mac": MACS[1]}, MACS[1]),
        (f"MAC={MACS[2]}", {"mac": MACS[1]}, MACS[2]),
        (f"MAC={MACS[2]}", {"mac": MACS[1], "runtimeConfig": {"mac": MACS[3]}}, MACS[3]),
        ("", {"runtimeConfig": {"mac": MACS[3]}, "args": {"cni": {"mac": MACS[4]}}}, MACS[4]),
        (f"MAC={MACS[2]}", {"mac": MACS[1], "args": {"cni": {"mac": ""}}}, ""),
        (f"MAC={MACS[2]}", {"args": {"cni": {"mac": None}}}, MACS[2]),
        ("", {"mac": MACS[1], "runtimeConfig": {"mac": ""}}, MACS[1]),
        (f"IgnoreUnknown=1;K8S_POD_NAME=p;MAC={MACS[2]};IP=10.0.0.1", {}, MACS[2]),
    ],
)
def test_the_mac_address_in_effect(args: str, keys: dict[str, Any], mac: str) -> None:
    assert parsed(args, **keys).mac == mac


def test_args_override_every_key_and_may_be_alone() -> None:
    own = {"promisc": True, "mtu": 1400, "allmulti": True, "txQLen": 5}
    theirs = {"promisc": False, "mtu": 0, "allmulti": False, "txQLen": 0}
    overridden = parsed(**own, args={"cni": theirs})
    found = (overridden.promisc, overridden.mtu, overridden.allmulti, overridden.tx_queue_len)
    assert found == (False, 0, False, 0)
    alone = parsed(args={"cni": {**own, "sysctl": {"net.core.somaxconn": "5"}, "labels": {"a": "b"}}})
    assert (alone.promisc, alone.mtu, alone.allmulti, alone.tx_queue_len) == (True, 1400, True, 5)
    assert alone.sysctls == ((("core", "somaxconn"), "5"),)


def test_sysctls_of_args_are_merged_whatever_their_spelling() -> None:
    own = {"net.ipv4.conf.IFNAME.arp_filter": "1", "net.core.somaxconn": "5", "net.ipv4.ip_forward": "1"}
    theirs = {"net/ipv4/conf/eth0/arp_filter": "0", "net.core.somaxconn": "6", "net.ipv4.tcp_syncookies": "1"}
    merged = parsed(sysctl=own, args={"cni": {"sysctl": theirs}})
    assert merged.sysctls == (
        (("ipv4", "conf", "eth0", "arp_filter"), "0"),
        (("core", "somaxconn"), "6"),
        (("ipv4", "ip_forward"), "1"),
        (("ipv4", "tcp_syncookies"), "1"),
    )
    assert set(merged.names) == own.keys() | theirs.keys()


KEYS = [
    ("net.ipv4.conf.IFNAME.rp_filter", "eth0", "ipv4/conf/eth0/rp_filter"),
    ("net.ipv4.conf.IFNAME.rp_filter", "eth0.5", "ipv4/conf/eth0.5/rp_filter"),
    ("net/ipv4/conf/eth0.5/rp_filter", "eth0", "ipv4/conf/eth0.5/rp_filter"),
    ("net.ipv4.conf.eth0/5.rp_filter", "eth0", "ipv4/conf/eth0.5/rp_filter"),
    ("net/ipv4/conf/IFNAME/rp_filter", "eth0", "ipv4/conf/eth0/rp_filter"),
    ("net.ipv4.conf.IFNAME.IFNAME", "eth0", "ipv4/conf/eth0/IFNAME"),
    ("net.ipv4.conf.xIFNAMEy.a", "eth0", "ipv4/conf/xeth0y/a"),
    ("net.ipv4.conf.IFNAME.a", "IFNAME", "ipv4/conf/IFNAME/a"),
    ("net.ipv4.conf.IFNAME.a", "", "ipv4/conf/IFNAME/a"),
    ("net.ipv4.conf.é.a", "eth0", "ipv4/conf/é/a"),
]


@pytest.mark.parametrize(("name", "ifname", "path"), KEYS)
def test_a_name_leads_to_a_path(name: str, ifname: str, path: str) -> None:
    assert parsed(ifname=ifname, sysctl={name: "1"}).sysctls == ((tuple(path.split("/")), "1"),)


TRICKS = [
    ("kernel.hostname", "kernel/hostname"),
    ("net", "net"),
    ("net.", "net/"),
    ("net/", "net/"),
    ("", ""),
    (".", "/"),
    ("/", "/"),
    ("/proc/sys/net/core/somaxconn", "/proc/sys/net/core/somaxconn"),
    ("/net/core/somaxconn", "/net/core/somaxconn"),
    (".net.core.somaxconn", "/net/core/somaxconn"),
    ("net/ipv4/../../kernel/hostname", "net/ipv4/../../kernel/hostname"),
    ("net/./core/somaxconn", "net/./core/somaxconn"),
    ("net//core/somaxconn", "net//core/somaxconn"),
    ("net..core", "net//core"),
    ("net.core.somaxconn.", "net/core/somaxconn/"),
    ("net.ipv4.//.x", "net/ipv4/../x"),
    ("net.ipv4.conf.\\.x", "net/ipv4/conf/\\/x"),
    ("netx.core.somaxconn", "netx/core/somaxconn"),
    ("NET.core.somaxconn", "NET/core/somaxconn"),
    ("net.core.somaxconn\u0000", "net/core/somaxconn\u0000"),
    ("net.core.somaxconn\n", "net/core/somaxconn\n"),
    ("net.core. somaxconn", "net/core/ somaxconn"),
    ("net.core.\u00a0", "net/core/\u00a0"),
    ("net.core.\u202e", "net/core/\u202e"),
    ("IFNAME.x", "eth0/x"),
    ("kernel.x" + "y" * 300, "kernel/x" + "y" * 192),
]


@pytest.mark.parametrize(("name", "shown"), TRICKS)
def test_a_name_that_leads_elsewhere(name: str, shown: str) -> None:
    with pytest.raises(InvalidNetworkConfig) as caught:
        parsed(sysctl={"net.core.somaxconn": "1", name: "1"})
    assert caught.value.msg == f"invalid net sysctl key: {json.dumps(shown, ensure_ascii=False)}"
    assert caught.value.details.startswith("sysctl has ")
    with pytest.raises(InvalidNetworkConfig):
        parsed(args={"cni": {"sysctl": {name: "1"}}})


def test_an_interface_cannot_lead_out_either() -> None:
    """The kernel and the request know no such name, but the key would be where it takes effect."""
    with pytest.raises(InvalidNetworkConfig):
        parsed(ifname="..", sysctl={"net.IFNAME.kernel": "1"})


DUPLICATES = [
    (b'{"sysctl": {"net.a.b": "1", "net.a.b": "1"}}', 'sysctl has "net.a.b" twice'),
    (b'{"sysctl": {"net.a.b": "1", "net.c.d": "2", "net.a.b": "3"}}', "sysctl has 'net.a.b' twice"),
    (b'{"sysctl": {"net.a.b": "1"}, "SysCtl": {"net.a.b": "1"}}', "sysctl has 'net.a.b' twice"),
    (
        b'{"sysctl": {"net.a.b": "1"}, "args": {"cni": {"sysctl": {"net.c.d": "1", "net.c.d": "2"}}}}',
        "args.cni.sysctl has 'net.c.d' twice",
    ),
    (b'{"sysctl": {"net.a.b": "1", "net/a/b": "2"}}', "sysctl has 'net/a/b' in two spellings"),
    (b'{"sysctl": {"net.IFNAME.b": "1", "net.eth0.b": "2"}}', "sysctl has 'net.eth0.b' in two spellings"),
    (b'{"sysctl": {"net.a.b": "1"}, "SYSCTL": {"net.c.d": "1"}}', "sysctl is there twice"),
]


@pytest.mark.parametrize(("stdin", "details"), DUPLICATES)
def test_a_sysctl_given_twice(stdin: bytes, details: str) -> None:
    conf = json.loads(stdin)
    with pytest.raises(InvalidNetworkConfig) as caught:
        parse(Request("ADD", "net1", conf=conf, ifname="eth0", stdin=stdin))
    assert caught.value.msg == "duplicated sysctl keys are not allowed"
    assert caught.value.details == details.replace('"', "'")


def test_two_spellings_of_one_value_are_one() -> None:
    same = parsed(sysctl={"net.ipv4.conf.IFNAME.a": "1", "net.ipv4.conf.eth0.a": "1"})
    assert same.sysctls == ((("ipv4", "conf", "eth0", "a"), "1"),)


def test_null_values_are_absent() -> None:
    assert parsed(sysctl={"net.a.b": None, "net.c.d": "1"}).sysctls == ((("c", "d"), "1"),)


BAD = [
    ({"sysctl": []}, "sysctl: expected an object, got []"),
    ({"sysctl": "net.a.b=1"}, "sysctl: expected an object, got 'net.a.b=1'"),
    ({"sysctl": {"net.a.b": 1}}, "sysctl: 'net.a.b': expected a string, got 1"),
    ({"sysctl": {"net.a.b": True}}, "sysctl: 'net.a.b': expected a string, got true"),
    ({"sysctl": {"net.a.b": ["1"]}}, "sysctl: 'net.a.b': expected a string, got ["),
    ({"sysctl": {"net.a.b": "1\0"}}, r"sysctl: 'net.a.b': '1\x00' has a NUL character"),
    ({"mac": "zz"}, "mac: invalid MAC address 'zz'"),
    ({"mac": 5}, "mac: invalid MAC address 5"),
    ({"mac": "01:00:5e:00:00:01"}, "mac: MAC address '01:00:5e:00:00:01' is multicast"),
    ({"runtimeConfig": {"mac": "zz"}}, "runtimeConfig.mac: invalid MAC address 'zz'"),
    ({"args": {"cni": {"mac": "zz"}}}, "args.cni.mac: invalid MAC address 'zz'"),
    ({"promisc": "yes"}, "promisc: input should be a valid boolean, got 'yes'"),
    ({"promisc": 1}, "promisc: input should be a valid boolean, got 1"),
    ({"mtu": -1}, "mtu: invalid MTU -1 (must be 0, or 68 to 2147483647)"),
    ({"mtu": 67}, "mtu: invalid MTU 67"),
    ({"mtu": 1 << 31}, "mtu: invalid MTU 2147483648"),
    ({"mtu": "1400"}, "mtu: invalid MTU '1400'"),
    ({"mtu": True}, "mtu: invalid MTU true"),
    ({"mtu": 1400.0}, "mtu: invalid MTU 1400.0"),
    ({"allmulti": 0}, "allmulti: input should be a valid boolean, got 0"),
    ({"txQLen": -1}, "txQLen: invalid queue length -1 (must be 0 to 4294967295)"),
    ({"txQLen": 1 << 32}, "txQLen: invalid queue length 4294967296"),
    ({"txQLen": "5"}, "txQLen: invalid queue length '5'"),
    ({"mtuBothEnds": "yes"}, "mtuBothEnds: input should be a valid boolean"),
    ({"dataDir": "run"}, "dataDir: 'run' is not an absolute path"),
    ({"dataDir": 5}, "dataDir: 5 is not an absolute path"),
    ({"dataDir": "/a\0b"}, r"dataDir: '/a\x00b' is not an absolute path"),
    ({"args": []}, "args: expected an object"),
    ({"args": {"cni": 5}}, "args.cni: expected an object"),
    ({"args": {"cni": {"mtu": 5}}}, "args.cni.mtu: invalid MTU 5"),
    ({"args": {"cni": {"sysctl": {"net.a.b": 1}}}}, "args.cni.sysctl: 'net.a.b': expected a string, got 1"),
]


@pytest.mark.parametrize(("keys", "message"), BAD)
def test_a_bad_config_is_refused_with_key_and_value(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidNetworkConfig) as caught:
        parsed(**keys)
    assert message in caught.value.details


def test_every_fault_is_named() -> None:
    with pytest.raises(InvalidNetworkConfig) as caught:
        parsed(mtu="x", promisc="y", mac="z", txQLen=-1, sysctl=5)
    assert all(key in caught.value.details for key in ("mtu", "promisc", "mac", "txQLen", "sysctl"))


def test_bad_cni_args() -> None:
    with pytest.raises(InvalidNetworkConfig, match="invalid MAC address 'zz'"):
        parsed("MAC=zz")
    with pytest.raises(BadEnvironment, match="unknown args"):
        parsed("FOO=bar")


@pytest.mark.parametrize(
    ("conf", "directories"),
    [
        ({}, (DEFAULT,)),
        ({"dataDir": ""}, (DEFAULT,)),
        ({"dataDir": None}, (DEFAULT,)),
        ({"DATADIR": "/d"}, ("/d", DEFAULT)),
        ({"dataDir": DEFAULT}, (DEFAULT,)),
        ({"dataDir": 5}, (DEFAULT,)),
        ({"dataDir": "relative"}, (DEFAULT,)),
        ({"dataDir": ["/d"]}, (DEFAULT,)),
    ],
)
def test_where_backups_may_be(conf: dict[str, Any], directories: tuple[str, ...]) -> None:
    assert possible(conf) == directories


@pytest.fixture
def allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "allowlist.conf"
    monkeypatch.setattr(allow_list, "PATH", str(path))
    return path


def test_the_list_is_matched_against_names_as_they_are_spelled(allowed: Path) -> None:
    allowed.write_text("^net\\.core\\.\r\nconf.IFNAME.rp_filter$\n")
    allow_list.require_allowed(("net.core.somaxconn", "net.ipv4.conf.IFNAME.rp_filter"))
    for name in ("net/core/somaxconn", "net.ipv4.conf.eth0.rp_filter", "x.net.core.y"):
        with pytest.raises(InvalidNetworkConfig, match=f"Sysctl {name} is not allowed"):
            allow_list.require_allowed(("net.core.somaxconn", name))


def test_names_from_args_are_matched_too(allowed: Path) -> None:
    allowed.write_text("core")
    conf = {"sysctl": {"net.core.a": "1"}, "args": {"cni": {"sysctl": {"net.ipv4.b": "1"}}}}
    request = Request("ADD", "net1", conf=conf, ifname="eth0")
    with pytest.raises(InvalidNetworkConfig, match=r"Sysctl net\.ipv4\.b is not allowed"):
        PLUGIN.parse(request)
    assert PLUGIN.parse(request._replace(command="STATUS")).names == ("net.core.a", "net.ipv4.b")
    assert PLUGIN.parse(request._replace(command="DEL")).names == ("net.core.a", "net.ipv4.b")
