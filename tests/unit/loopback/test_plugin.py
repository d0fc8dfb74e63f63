"""The loopback plugin's decisions."""

from ipaddress import ip_interface

import pytest

from cni_plugins.contract.facts import Facts, LinkFacts
from cni_plugins.errors import KernelRefused
from cni_plugins.loopback.plugin import PLUGIN
from cni_plugins.protocol.request import Request
from cni_plugins.protocol.result import Result
from cni_plugins.steps.links import EnsureUp, SetDown

ADD = Request("ADD", "lo", "c1", "/ns", "eth0")


def lo(*addresses: str) -> Facts:
    link = LinkFacts(
        "lo", 1, "", "00:00:00:00:00:00", 65536, up=False, addresses=tuple(map(ip_interface, addresses))
    )
    return Facts(sandbox={"lo": link}, has_sandbox=True)


def test_add_brings_lo_up_and_del_takes_it_down() -> None:
    assert PLUGIN.decide(ADD, None, Result(), lo()).plan == (EnsureUp("sandbox", "lo"),)
    assert PLUGIN.delete(ADD, None, lo()) == (SetDown("sandbox", "lo"),)
    assert PLUGIN.delete(ADD, None, Facts()) == ()
    assert PLUGIN.collect(ADD, Facts()) == ()


def test_only_loopback_addresses_may_be_there() -> None:
    PLUGIN.decide(ADD, None, Result(), lo("127.0.0.1/8", "::1/128", "127.0.0.53/32"))
    with pytest.raises(KernelRefused, match="non-loopback address"):
        PLUGIN.decide(ADD, None, Result(), lo("192.0.2.1/32"))


def test_a_prev_result_is_the_result() -> None:
    earlier = Result(extra={"x": 1})
    assert PLUGIN.decide(ADD._replace(prev_result=earlier), None, Result(), lo()).result is earlier
