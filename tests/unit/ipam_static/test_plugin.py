from collections.abc import Mapping

import pytest

from cni_plugins.errors import InvalidNetworkConfig, StateDrifted
from cni_plugins.ipam_static.plugin import IPAM
from cni_plugins.protocol.decode import parse_result
from cni_plugins.protocol.request import Request

CONF: Mapping[str, object] = {
    "ipam": {"addresses": [{"address": "10.1.0.5/24", "gateway": "10.1.0.1"}, {"address": "fd00::5/64"}]}
}


def request(conf: Mapping[str, object] = CONF, prev: Mapping[str, object] | None = None) -> Request:
    result = None if prev is None else parse_result(prev, "1.0.0")
    return Request("ADD", "net", "c1", "/x", "eth0", conf=conf, prev_result=result)


def test_the_result_has_what_the_config_says() -> None:
    result = IPAM.reserve(request())
    assert [str(ip.address) for ip in result.ips] == ["10.1.0.5/24", "fd00::5/64"]
    assert result.interfaces == ()


@pytest.mark.parametrize("deed", [IPAM.release, IPAM.gc])
def test_there_is_nothing_to_release_whatever_the_config(deed: object) -> None:
    assert callable(deed)
    deed(request({}))


@pytest.mark.parametrize("gateway", ["10.1.0.1", None])
def test_a_check_compares_the_gateway_of_each_address(gateway: str | None) -> None:
    ips = [{"address": "10.1.0.5/24", "gateway": gateway}, {"address": "fd00::5/64", "gateway": "fd00::9"}]
    asked = request(prev={"ips": ips})
    if gateway:
        IPAM.check(asked)
        return
    with pytest.raises(StateDrifted, match=r"Failed to match addr 10\.1\.0\.5 on interface eth0") as drifted:
        IPAM.check(asked)
    assert "gateway is None in prevResult and 10.1.0.1 in the config" in drifted.value.details


def test_a_check_needs_a_result_to_compare_with() -> None:
    with pytest.raises(InvalidNetworkConfig, match="Required prevResult missing"):
        IPAM.check(request())


def test_the_state_is_that_of_the_config() -> None:
    IPAM.status(request())
    with pytest.raises(InvalidNetworkConfig):
        IPAM.status(request({"ipam": {"addresses": [{}]}}))
