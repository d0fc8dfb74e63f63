"""CHECK of bandwidth finds every change, and says what it is."""

from typing import Any

import pytest

from cni_plugins.ownership import Attachment
from tests.integration.bandwidth.conftest import BOTH, RECEIVED, SENT

ME = Attachment("net1", "c1", "eth0")
IFB, END = ME.reference_ifb, ME.host_end
DEL_FILTER = f"tc filter del dev {END} ingress"
NEW_FILTER = f"{DEL_FILTER}; tc filter add dev {END} ingress prio 65535 u32"
FAULTS = {
    f"tc qdisc del dev {END} root": f"link {END} has no rate limit, not a limit of 8000000 bit/s",
    f"tc qdisc replace dev {END} root handle 5: pfifo limit 9": f"link {END} has qdisc pfifo, not a limit of",
    f"tc qdisc replace dev {END} root handle 5: tbf rate 8mbit burst 100000b limit 125000b": (
        f"link {END} has qdisc tbf, not a limit of 8000000 bit/s"
    ),
    f"tc qdisc change dev {END} root handle c41: tbf rate 9mbit burst 100000b limit 125000b": (
        f"link {END} has a limit of 9000000 bit/s, not 8000000"
    ),
    f"tc qdisc change dev {END} root handle c41: tbf rate 8mbit burst 90000b limit 125000b": (
        f"the rate limit of link {END} has a burst of 1406250 ticks and a queue of 125000 bytes, "
        "not 1562500 and 125000"
    ),
    f"tc qdisc change dev {END} root handle c41: tbf rate 8mbit burst 100000b limit 120000b": (
        f"the rate limit of link {END} has a burst of 1562500 ticks and a queue of 120000 bytes"
    ),
    f"tc qdisc del dev {IFB} root": f"link {IFB} has no rate limit, not a limit of 16000000 bit/s",
    f"ip link del {IFB}": f"link {IFB} is missing in the host",
    f"ip link set {IFB} down": f"link {IFB} in the host is down",
    f"ip link del {IFB}; ip link add {IFB} address 02:00:00:00:00:77 type ifb; "
    f"ip link set {IFB} up alias '{ME.alias}'": f"link {IFB} has address 02:00:00:00:00:77, not ",
    f"ip link set {IFB} alias gone": f"link {IFB} has lost the alias by which GC recognises it",
    f"tc qdisc del dev {END} clsact": f"link {END} has no clsact or ingress qdisc",
    DEL_FILTER: f"what enters by link {END} is not redirected, not to {IFB}",
    f"{NEW_FILTER} match u32 0 0 flowid c41:1 "
    "action mirred egress redirect dev ifb7": f"what enters by link {END} is redirected to ifb7, not to",
    f"{NEW_FILTER} match u32 1 1 flowid c41:1 "
    f"action mirred egress redirect dev {IFB}": f"what enters by link {END} is not redirected, not to {IFB}",
    f"{NEW_FILTER} match u32 0 0 flowid c41:1 "
    f"action mirred egress mirror dev {IFB}": f"what enters by link {END} is not redirected, not to {IFB}",
    "ip netns exec sandbox ip link del eth0": "container interface eth0 has no veth peer",
}


@pytest.mark.parametrize(("fault", "message"), FAULTS.items(), ids=FAULTS)
def test_a_change_is_found(chain: Any, fault: str, message: str) -> None:
    sandbox = chain.bed.sandbox()
    chain.attach(sandbox)
    chain.add(sandbox, **BOTH)
    chain.host.run("ip", "link", "add", "ifb7", "type", "ifb")
    assert chain.check(sandbox, **BOTH) == ""
    if fault.startswith("ip netns exec"):
        sandbox.run(*fault.split()[4:])
    else:
        chain.host.run("sh", "-ec", fault)
    assert message in chain.check(sandbox, **BOTH)
    chain.call("DEL", sandbox, **BOTH)
    assert set(chain.ifbs()) - {IFB} == {"ifb7"}


def test_every_difference_is_told(chain: Any) -> None:
    sandbox = chain.bed.sandbox()
    chain.attach(sandbox)
    chain.add(sandbox, **BOTH)
    chain.host.run("tc", "qdisc", "del", "dev", END, "root")
    chain.host.run("ip", "link", "del", IFB)
    _, error = chain.call("CHECK", sandbox, **BOTH)
    assert error["details"].count("; ") == 3


def test_a_direction_that_the_config_does_not_limit_is_not_compared(chain: Any) -> None:
    """A runtime may not tell CHECK the limits that it told ADD."""
    sandbox = chain.bed.sandbox()
    chain.attach(sandbox)
    chain.add(sandbox, **BOTH)
    for keys in ({}, RECEIVED, SENT):
        assert chain.check(sandbox, **keys) == ""


def test_a_raised_burst_is_enough_for_a_smaller_mtu_and_too_little_for_a_larger_one(chain: Any) -> None:
    """A later plugin of the chain, such as tuning, may change the MTU."""
    sandbox = chain.bed.sandbox()
    end = chain.attach(sandbox)
    smallest = {**RECEIVED, "ingressBurst": 8}
    chain.add(sandbox, **smallest)
    chain.host.run("ip", "link", "set", end, "mtu", "1400")
    assert chain.check(sandbox, **smallest) == ""
    chain.host.run("ip", "link", "set", end, "mtu", "9000")
    assert "has a burst of" in chain.check(sandbox, **smallest)
    assert chain.call("ADD", sandbox, **smallest)[0] == 0
    assert chain.check(sandbox, **smallest) == ""
