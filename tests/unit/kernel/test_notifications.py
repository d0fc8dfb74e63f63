"""Which changes to the ruleset are the suite's concern."""

import pytest

from cni_plugins.kernel.firewall.notifications import concerns_us
from cni_plugins.kernel.netlink import nf_tables as wire
from cni_plugins.kernel.netlink.nf_tables import attr, message
from cni_plugins.kernel.netlink.socket import Answer

_IP, _IP6 = 2, 10


def change(kind: int, family: int, *attrs: bytes) -> Answer:
    return Answer(10 << 8 | kind, bytes(message(kind, family, 0, *attrs)))


@pytest.mark.parametrize("kind", [wire.DELTABLE, wire.DELCHAIN, wire.DELRULE, wire.NEWRULE, wire.DELSETELEM])
@pytest.mark.parametrize("family", [wire.INET, wire.BRIDGE])
def test_every_change_to_our_tables_is(kind: int, family: int) -> None:
    assert concerns_us(change(kind, family, attr(1, "cni_plugins")))
    if kind != wire.DELTABLE:
        assert not concerns_us(change(kind, family, attr(1, "kube-proxy")))


def test_whoever_deletes_a_table_may_have_deleted_ours() -> None:
    assert concerns_us(change(wire.DELTABLE, _IP, attr(1, "anything")))


@pytest.mark.parametrize(
    ("chain", "is_ours"),
    [("CNI-0123", True), ("CNI-DN-0123", True), ("POSTROUTING", True), ("KUBE-SVC-1", False), ("", False)],
)
@pytest.mark.parametrize("family", [_IP, _IP6])
def test_of_iptables_only_what_is_removed_of_some_chains_is(
    family: int, chain: str, *, is_ours: bool
) -> None:
    table = attr(1, "nat")
    assert concerns_us(change(wire.DELRULE, family, table, attr(2, chain))) is is_ours
    assert concerns_us(change(wire.DELCHAIN, family, table, attr(3, chain))) is is_ours
    assert not concerns_us(change(wire.NEWRULE, family, table, attr(2, chain)))


def test_messages_without_attributes_are_read() -> None:
    assert not concerns_us(change(wire.NEWRULE, wire.INET))
