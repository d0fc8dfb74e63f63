"""What links say of themselves, and the memory of their indexes."""

import errno
from typing import Any

import pytest
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from cni_plugins.errors import KernelRefused
from cni_plugins.kernel.links import links
from cni_plugins.kernel.links.link import OPER_UP, decoded
from cni_plugins.kernel.netlink.socket import Answer, Refused


def answer(name: str = "veth0", index: int = 7, **attrs: Any) -> Answer:
    """Return a link as the kernel would tell it, written by pyroute2."""
    message = ifinfmsg()
    message["index"] = index
    message["flags"] = 0x1043
    message["attrs"] = [("IFLA_IFNAME", name), *((f"IFLA_{key}", value) for key, value in attrs.items())]
    message["header"]["type"] = 16
    message.encode()
    return Answer(16, bytes(message.data))


def info(**attrs: Any) -> dict[str, Any]:
    return {"attrs": [(f"IFLA_INFO_{key}", value) for key, value in attrs.items()]}


def test_a_port_is_read_whole() -> None:
    flags = {"attrs": [("IFLA_BRPORT_STATE", 3), ("IFLA_BRPORT_MODE", 1), ("IFLA_BRPORT_ISOLATED", 0)]}
    link = decoded(
        answer(
            ADDRESS="02:00:00:00:00:0a",
            MTU=1400,
            OPERSTATE="UP",
            IFALIAS="ours",
            MASTER=3,
            LINK=9,
            LINKINFO=info(KIND="veth", SLAVE_KIND="bridge", SLAVE_DATA=flags),
        )
    )
    assert link[:10] == ("veth0", 7, "veth", "02:00:00:00:00:0a", 1400, 0x1043, OPER_UP, "ours", 3, 9)
    assert (link.up, link.hairpin, link.isolated, link.port_enabled) == (True, True, False, True)
    assert link.vlan_filtering is None


@pytest.mark.parametrize("state", [0, 1, 3])
def test_a_port_is_in_service_unless_disabled(state: int) -> None:
    port = info(KIND="veth", SLAVE_KIND="bridge", SLAVE_DATA={"attrs": [("IFLA_BRPORT_STATE", state)]})
    assert decoded(answer(LINKINFO=port)).port_enabled == (state != 0)


@pytest.mark.parametrize("on", [0, 1])
def test_a_bridge_says_whether_it_filters_vlans(on: int) -> None:
    bridge = info(KIND="bridge", DATA={"attrs": [("IFLA_BR_VLAN_FILTERING", on)]})
    assert decoded(answer(LINKINFO=bridge)).vlan_filtering is bool(on)


def test_a_bare_device_has_neither_kind_nor_alias() -> None:
    link = decoded(answer("lo", 1))
    assert (link.name, link.kind, link.alias, link.mac, link.master, link.port_enabled) == (
        "lo",
        "",
        "",
        "",
        0,
        True,
    )


def test_a_truncated_answer_is_read_as_far_as_it_goes() -> None:
    whole = answer(IFALIAS="x" * 64)
    assert decoded(Answer(16, whole.data[:60])).alias == ""


class Kernel:
    """One namespace in which `veth0` has an index, or is not there."""

    def __init__(self, index: int | None, known: int | None) -> None:
        self.index = index
        self.indexes = {} if known is None else {("host", "veth0"): known}
        self.asked = 0

    def rtnl(self, _where: str) -> "Kernel":
        return self

    def ask(self, _message: bytearray) -> Answer:
        self.asked += 1
        if self.index is None:
            raise Refused(errno.ENODEV, "", 0)
        return answer("veth0", self.index)

    def deed(self, index: int) -> int:
        if index != self.index:
            raise Refused(errno.ENODEV, "", 0)
        return index


@pytest.mark.parametrize(("known", "questions"), [(7, 0), (None, 1), (6, 2)])
def test_an_index_is_asked_for_when_it_is_not_known_or_no_longer_true(
    known: int | None, questions: int
) -> None:
    kernel: Any = Kernel(7, known)
    assert links.on_index(kernel, "host", "veth0", kernel.deed) == 7
    assert kernel.asked == questions
    assert kernel.indexes["host", "veth0"] == 7


@pytest.mark.parametrize("known", [6, None])
def test_a_link_that_is_gone_is_named(known: int | None) -> None:
    kernel: Any = Kernel(None, known)
    with pytest.raises(KernelRefused, match="link veth0 not found"):
        links.on_index(kernel, "host", "veth0", kernel.deed)


def test_a_refusal_that_is_not_about_the_index_stays() -> None:
    def refuse(_index: int) -> None:
        raise Refused(errno.EINVAL, "no", 0)

    kernel: Any = Kernel(7, 7)
    with pytest.raises(Refused) as caught:
        links.on_index(kernel, "host", "veth0", refuse)
    assert caught.value.errno == errno.EINVAL
