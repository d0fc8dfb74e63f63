"""What a rule of nf_tables does, read from the bytes that the kernel sends of it."""

import pytest

from cni_plugins.kernel.firewall import forward_facts, verdicts
from cni_plugins.kernel.netlink import nf_tables as wire
from cni_plugins.kernel.netlink.nf_tables import attr


def rule(*expressions: bytes) -> bytes:
    return bytes(wire.message(wire.NEWRULE, 2, 0, attr(1, "filter"), attr(4, [b"".join(expressions)])))


def expression(name: str, *content: bytes) -> bytes:
    return attr(1, [attr(1, name), attr(2, list(content))])


COUNTER = expression("counter", attr(1, bytes(8)), attr(2, bytes(8)))
REJECT = expression("reject", attr(1, 0), attr(2, b"\3"))
TARGET = expression("target", attr(1, "REJECT"), attr(2, 0), attr(3, bytes(4)))
COMMENT = expression("match", attr(1, "comment"), attr(2, 0), attr(3, bytes(256)))
MATCH = expression("match", attr(1, "conntrack"), attr(2, 3), attr(3, bytes(168)))
ACCEPT = expression("immediate", attr(1, 0), attr(2, [attr(2, [attr(1, 1)])]))
DATA = expression("immediate", attr(1, 1), attr(2, [attr(1, b"\0\0\0\0")]))
RULES = {
    "drop": (rule(wire.drop()), True, ""),
    "drop, with a counter": (rule(COUNTER, wire.drop()), True, ""),
    "reject": (rule(COUNTER, REJECT), True, ""),
    "reject, of iptables": (rule(COUNTER, TARGET), True, ""),
    "another target": (rule(COUNTER, expression("target", attr(1, "LOG"))), False, ""),
    "drop of some": (rule(wire.is_family(4), wire.drop()), False, ""),
    "drop, with a comment of iptables": (rule(COMMENT, COUNTER, wire.drop()), True, ""),
    "drop of what a match says": (rule(MATCH, COUNTER, wire.drop()), False, ""),
    "accept": (rule(COUNTER, ACCEPT), False, ""),
    "a jump": (rule(COUNTER, wire.jump("CNI-FORWARD")), False, "CNI-FORWARD"),
    "a jump of some": (rule(MATCH, COUNTER, wire.jump("X")), False, "X"),
    "data": (rule(DATA), False, ""),
    "nothing": (rule(), False, ""),
    "no expressions": (bytes(wire.message(wire.NEWRULE, 2, 0)), False, ""),
}


@pytest.mark.parametrize(("data", "refuses", "target"), RULES.values(), ids=RULES)
def test_what_a_rule_does(data: bytes, refuses: bool, target: str) -> None:
    assert verdicts.refuses_all(data) is refuses
    assert verdicts.jumps_to(data) == target


LISTED = {
    "-P FORWARD DROP": True,
    "-P FORWARD ACCEPT": False,
    "-P INPUT DROP": False,
    "-A FORWARD -j DROP": True,
    "-A FORWARD -j REJECT --reject-with icmp-host-prohibited": True,
    '-A FORWARD -m comment --comment "the rest" -j DROP': True,
    '-A FORWARD -i x0 -m comment --comment "-j" -j DROP': False,
    "-A FORWARD -i x0 -j DROP": False,
    "-A FORWARD -j OTHER": False,
    "-A FORWARD -j": False,
}


@pytest.mark.parametrize(("line", "drops"), LISTED.items())
def test_what_a_listed_table_does(line: str, drops: bool) -> None:
    assert forward_facts._listed_as_dropping(["-P INPUT ACCEPT", line, "-A OUTPUT -j DROP"]) is drops
