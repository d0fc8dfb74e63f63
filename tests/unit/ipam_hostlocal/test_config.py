import pytest

from cni_plugins.errors import BadEnvironment, InvalidNetworkConfig
from cni_plugins.ipam_hostlocal.config import HostLocal, parse
from cni_plugins.leases.ranges import described
from cni_plugins.protocol.request import Request


def parsed(ipam: object, args: str = "", version: str = "1.1.0", **conf: object) -> HostLocal:
    return parse(Request("ADD", "net", conf={"ipam": ipam, **conf}, args=args, cni_version=version))


def sets(config: HostLocal) -> list[str]:
    return [described(ranges) for ranges in config.sets]


def test_run_time_ranges_come_first_then_the_old_style_then_the_ranges() -> None:
    config = parsed(
        {"subnet": "10.2.0.0/24", "rangeStart": "10.2.0.9", "ranges": [[{"subnet": "10.3.0.0/30"}]]},
        runtimeConfig={"ipRanges": [[{"subnet": "10.1.0.0/30"}, {"subnet": "10.1.1.0/30"}]]},
    )
    assert sets(config) == ["10.1.0.1-10.1.0.2,10.1.1.1-10.1.1.2", "10.2.0.9-10.2.0.254", "10.3.0.1-10.3.0.2"]


def test_keys_match_in_any_case_and_null_means_absent() -> None:
    config = parsed(
        {
            "RANGES": [[{"SubNet": "10.1.0.0/24", "rangestart": "10.1.0.5", "rangeEnd": None}]],
            "DATADIR": "/d",
        },
        RuntimeConfig={"IPS": ["10.1.0.7"]},
    )
    assert sets(config) == ["10.1.0.5-10.1.0.254"]
    assert config.data_dir == "/d"
    assert [str(address) for address in config.requested] == ["10.1.0.7"]


def test_an_empty_text_is_an_absent_address() -> None:
    assert sets(parsed({"subnet": "10.1.0.0/24", "rangeStart": "", "rangeEnd": "", "gateway": ""})) == [
        "10.1.0.1-10.1.0.254"
    ]


def test_the_data_directory_defaults_to_that_of_the_reference() -> None:
    assert parsed({"subnet": "10.1.0.0/24"}).data_dir == "/var/lib/cni/networks"
    assert parsed({"subnet": "10.1.0.0/24", "dataDir": ""}).data_dir == "/var/lib/cni/networks"


def test_requested_addresses_are_united_without_prefix_and_without_doubles() -> None:
    config = parse(
        Request(
            "ADD",
            "net",
            args="IgnoreUnknown=1;IP=10.1.0.7/24;K8S_POD_NAME=x",
            conf={
                "ipam": {"subnet": "10.1.0.0/24"},
                "args": {"cni": {"ips": ["10.1.0.8", "::ffff:10.1.0.7"]}, "labels": []},
                "runtimeConfig": {"ips": ["10.1.0.9/24", "10.1.0.9"]},
            },
        )
    )
    assert [str(address) for address in config.requested] == ["10.1.0.7", "10.1.0.8", "10.1.0.9"]


def test_a_mac_in_the_arguments_is_for_another_plugin() -> None:
    assert parsed({"subnet": "10.1.0.0/24"}, args="MAC=02:00:00:00:00:01").requested == ()


def test_routes_are_read_whole() -> None:
    config = parsed(
        {"subnet": "10.1.0.0/24", "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.0.1", "mtu": 1400}]}
    )
    assert str(config.routes[0].dst) == "0.0.0.0/0"
    assert config.routes[0].mtu == 1400


ONE = {"subnet": "10.1.0.0/24"}
BAD = [
    ({}, "no IP ranges specified", "ipam.ranges and ipam.subnet are absent or empty"),
    ({"ranges": []}, "no IP ranges specified", "ipam.ranges"),
    ({"ranges": [[]]}, "invalid range set 0: empty range set", "ipam.ranges[0]: []"),
    ({"ranges": [[{}]]}, "ipam.ranges[0][0].subnet", "field required"),
    ({"ranges": [ONE]}, "ipam.ranges[0]", "10.1.0.0/24"),
    ({"ranges": {}}, "ipam.ranges", "{}"),
    ({"subnet": 7}, "ipam.subnet: 7 is not an address in CIDR notation", "ipam.subnet"),
    ({"subnet": "10.1.0.0"}, "'10.1.0.0' is not an address in CIDR notation", "ipam.subnet"),
    ({"subnet": "10.1.0.0/33"}, "'10.1.0.0/33' is not an address in CIDR notation", "ipam.subnet"),
    (
        {"subnet": "10.1.0.0/31"},
        "invalid range set 0: Network 10.1.0.0/31 too small",
        "ipam: subnet 10.1.0.0/31",
    ),
    ({"subnet": "10.1.0.3/24"}, "invalid range set 0: Network has host bits set", "ipam: subnet 10.1.0.3/24"),
    (
        {"ranges": [[ONE], [{"subnet": "10.2.0.0/24"}, {"subnet": "10.3.0.0/24", "rangeStart": "10.9.0.0"}]]},
        "invalid range set 1: RangeStart 10.9.0.0 not in network 10.3.0.0/24",
        "ipam.ranges[1][1]: rangeStart 10.9.0.0",
    ),
    ({**ONE, "rangeStart": "10.1.0.300"}, "'10.1.0.300' is not an IP address", "ipam.rangeStart"),
    (
        {**ONE, "rangeStart": "10.1.0.9", "rangeEnd": "10.1.0.8"},
        "RangeStart 10.1.0.9 is after",
        "rangeEnd 10.1.0.8",
    ),
    ({**ONE, "gateway": ["10.1.0.1"]}, "is not an IP address", "ipam.gateway"),
    (
        {**ONE, "ranges": [[{"subnet": "10.1.0.128/25"}]]},
        "range set 0 overlaps with 1",
        "ipam, ipam.ranges[0]",
    ),
    (
        {"ranges": [[ONE, {"subnet": "fd00::/64"}]]},
        "invalid range set 0: mixed address families",
        "ipam.ranges[0]",
    ),
    ({"ranges": [[ONE, {"subnet": "10.1.0.0/16"}]]}, "overlap", "ipam.ranges[0]: subnet 10.1.0.0/24"),
    ({**ONE, "dataDir": 7}, "ipam.dataDir is not an absolute path", "ipam.dataDir is 7"),
    ({**ONE, "dataDir": "leases"}, "ipam.dataDir is not an absolute path", "ipam.dataDir is 'leases'"),
    ({**ONE, "dataDir": "/a\0b"}, "ipam.dataDir is not an absolute path", "ipam.dataDir"),
    ({**ONE, "resolvConf": []}, "ipam.resolvConf", "[]"),
    (
        {**ONE, "routes": [{"dst": "nowhere"}]},
        "'nowhere' is not an address in CIDR notation",
        "ipam.routes[0]",
    ),
    ({**ONE, "routes": "all"}, "ipam.routes", "'all'"),
    ("x", "IPAM config missing 'ipam' key", "ipam is 'x'"),
    (None, "IPAM config missing 'ipam' key", "ipam is null"),
]


@pytest.mark.parametrize(("ipam", "message", "details"), BAD)
def test_a_config_that_cannot_work_is_refused_with_key_and_value(
    ipam: object, message: str, details: str
) -> None:
    with pytest.raises(InvalidNetworkConfig) as refused:
        parsed(ipam)
    assert message in refused.value.msg
    assert details in refused.value.details


@pytest.mark.parametrize(
    ("runtime", "where"),
    [
        ({"ips": ["x"]}, "runtimeConfig.ips[0]"),
        ({"ips": "10.1.0.7"}, "runtimeConfig.ips"),
        ({"ipRanges": [ONE]}, "runtimeConfig.ipRanges[0]"),
        ({"ipRanges": [[{"subnet": "10.9.0.1/24"}]]}, "runtimeConfig.ipRanges[0][0]"),
        (7, "runtimeConfig"),
    ],
)
def test_what_the_runtime_sends_is_checked_too(runtime: object, where: str) -> None:
    with pytest.raises(InvalidNetworkConfig) as refused:
        parsed(ONE, runtimeConfig=runtime)
    assert where in refused.value.details


@pytest.mark.parametrize("args", ["IP=10.1.0.300", "IP", "IP=1=2", "COLOUR=red"])
def test_malformed_arguments_are_a_fault_of_the_environment(args: str) -> None:
    with pytest.raises(BadEnvironment) as refused:
        parsed(ONE, args=args)
    assert args in refused.value.details


def test_old_versions_have_room_for_one_address_of_each_family() -> None:
    two = {"ranges": [[ONE], [{"subnet": "10.2.0.0/24"}]]}
    dual = {"ranges": [[ONE], [{"subnet": "fd00::/64"}]]}
    assert len(parsed(dual, version="0.2.0").sets) == 2
    assert len(parsed(two, version="0.3.0").sets) == 2
    with pytest.raises(
        InvalidNetworkConfig, match=r"CNI version 0\.2\.0 does not support more than 1 address per family"
    ):
        parsed(two, version="0.2.0")


def test_a_config_as_long_as_stdin_allows_is_checked_in_good_time() -> None:
    ranges = [[{"subnet": f"10.{n >> 8 & 255}.{n & 255}.0/30"}] for n in range(19_999)]
    with pytest.raises(InvalidNetworkConfig, match="range set 0 overlaps with 19999"):
        parsed({"ranges": [*ranges, ranges[0]]})
