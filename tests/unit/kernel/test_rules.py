"""Which rules of policy routing count as "all packets from one address", and kernels that have none."""

import errno
from ipaddress import ip_address
from typing import Any

import pytest

from cni_plugins.contract.facts import RuleFacts
from cni_plugins.errors import KernelRefused
from cni_plugins.kernel.ip import rules
from cni_plugins.kernel.netlink import rtnetlink as wire
from cni_plugins.kernel.netlink.attributes import packed
from cni_plugins.kernel.netlink.socket import Answer, Refused
from cni_plugins.steps.policy_routing import AddRule, DelRule

ADDRESS = ip_address("10.1.0.2")
SOURCE = wire.ip(wire.FRA_SRC, ADDRESS)
NONE_SUPPRESSED = wire.number(wire.FRA_SUPPRESS_PREFIXLEN, 0xFFFFFFFF)
USUAL = (wire.number(wire.FRA_PRIORITY, 32765), NONE_SUPPRESSED, wire.number(wire.FRA_TABLE, 100), SOURCE)


class Kernel:
    """A session whose socket lists given rules of IPv4, or refuses everything."""

    def __init__(self, *listed: bytearray, refuses: int = 0) -> None:
        self._listed = [Answer(wire.RTM_NEWRULE, bytes(message)) for message in listed]
        self._refuses = refuses

    def rtnl(self, _where: str) -> "Kernel":
        return self

    def dump(self, _message: bytearray) -> list[Answer]:
        if self._refuses:
            raise Refused(self._refuses, "", 0)
        return self._listed

    def call(self, *_messages: bytearray) -> list[Answer]:
        raise Refused(self._refuses, "", 0)


def listed(*attrs: bytes, **fields: int) -> bytearray:
    usual = {"family": 2, "src_len": 32, "table": 100, "action": 1}
    return wire.rule(wire.RTM_NEWRULE, 0, *attrs, **{**usual, **fields})


def found(message: bytearray) -> tuple[RuleFacts, ...]:
    session: Any = Kernel(message)
    return rules.from_addresses(session, "sandbox")


def test_a_rule_from_one_address_is_found() -> None:
    assert found(listed(*USUAL)) == (RuleFacts(ADDRESS, 100, 32765),)
    marked = wire.number(wire.FRA_FWMARK, 0xCAFE), wire.number(wire.FRA_FWMASK, 0)
    ours = wire.octet(wire.FRA_PROTOCOL, 217)
    assert found(listed(*USUAL, *marked, ours)) == (RuleFacts(ADDRESS, 100, 32765, 0xCAFE),)


OTHERS = {
    "a subnet": listed(*USUAL, src_len=24),
    "to a subnet": listed(*USUAL, wire.ip(1, ADDRESS)),
    "an interface": listed(*USUAL, wire.text(3, "eth0")),
    "a protocol": listed(*USUAL, packed(22, b"\x11")),
    "users": listed(*USUAL, packed(20, bytes(8))),
    "a mark that selects": listed(*USUAL, wire.number(wire.FRA_FWMARK, 1), wire.number(wire.FRA_FWMASK, 1)),
    "another action": listed(*USUAL, action=6),
    "suppressed routes": listed(wire.number(wire.FRA_SUPPRESS_PREFIXLEN, 0), *USUAL[2:]),
    "another family": listed(*USUAL, family=28),
}


@pytest.mark.parametrize("message", OTHERS.values(), ids=OTHERS)
def test_a_rule_that_selects_otherwise_is_not(message: bytearray) -> None:
    assert found(message) == ()


@pytest.mark.parametrize("number", [errno.EAFNOSUPPORT, errno.EOPNOTSUPP])
def test_a_kernel_without_policy_routing_is_told_by_name(number: int) -> None:
    session: Any = Kernel(refuses=number)
    carry_out = rules.DEEDS[AddRule].carry_out
    for address, version in ((ADDRESS, 4), (ip_address("fd00::2"), 6)):
        with pytest.raises(KernelRefused, match=f"^this kernel has no policy routing for IPv{version}$"):
            carry_out(session, AddRule("sandbox", address, 100, 2))
    assert rules.from_addresses(session, "sandbox") == ()
    assert rules.free_tables(session, "sandbox", 2) == (100, 101)
    assert rules.DEEDS[DelRule].carry_out(session, DelRule("sandbox", ADDRESS, 100, 2)) is None


def test_other_refusals_are_the_kernels() -> None:
    session: Any = Kernel(refuses=errno.EPERM)
    with pytest.raises(Refused):
        rules.DEEDS[AddRule].carry_out(session, AddRule("sandbox", ADDRESS, 100, 2))
    with pytest.raises(Refused):
        rules.DEEDS[DelRule].carry_out(session, DelRule("sandbox", ADDRESS, 100, 2))
    with pytest.raises(Refused):
        rules.from_addresses(session, "sandbox")
