"""What other programs have on the same link stays theirs; and interfaces that cannot be limited."""

from typing import Any

import pytest

from cni_plugins.ownership import Attachment
from tests.integration.bandwidth.conftest import BOTH, RECEIVED, SENT

ME = Attachment("net1", "c1", "eth0")
SHARED, END = ME.reference_ifb, ME.host_end
COPY = "mirred egress mirror dev ifb7 continue"
COPY_ALL = f"protocol all prio 3 u32 match u32 0 0 flowid 7:7 action {COPY}"


@pytest.fixture
def sandbox(chain: Any) -> Any:
    made = chain.bed.sandbox()
    chain.attach(made)
    chain.host.run("ip", "link", "add", "ifb7", "type", "ifb")
    chain.host.run("ip", "link", "set", "ifb7", "up")
    return made


@pytest.mark.parametrize(
    "theirs", ["root handle 1: pfifo limit 9", "root handle 7: tbf rate 1mbit burst 9k latency 5ms"]
)
def test_another_root_qdisc_is_not_replaced(chain: Any, sandbox: Any, theirs: str) -> None:
    chain.host.run("tc", "qdisc", "add", "dev", END, *theirs.split())
    before = chain.state()
    code, error = chain.call("ADD", sandbox, **BOTH)
    number, kind = theirs.split()[2], theirs.split()[3]
    assert (code, error["code"]) == (1, 101)
    assert error["msg"] == f"link {END} has another root qdisc: {kind} {number}"
    assert chain.state() == before
    assert chain.call("DEL", sandbox, **BOTH) == (0, None)
    assert chain.state() == before
    chain.add(sandbox, **SENT)
    assert chain.check(sandbox, **SENT) == ""
    assert chain.call("DEL", sandbox, **SENT) == (0, None)
    assert chain.state() == before


@pytest.mark.parametrize("kind", ["clsact", "ingress"])
@pytest.mark.parametrize("filters", [(), (COPY_ALL,)], ids=["empty", "with a filter"])
def test_a_qdisc_of_another_program_is_used_and_stays(
    chain: Any, sandbox: Any, kind: str, filters: tuple[str, ...]
) -> None:
    chain.host.run("tc", "qdisc", "add", "dev", END, kind)
    for words in filters:
        chain.host.run("tc", "filter", "add", "dev", END, "ingress", *words.split())
    before = chain.state()
    chain.add(sandbox, **BOTH)
    assert chain.check(sandbox, **BOTH) == ""
    shown = chain.filters(END)
    assert [line.split()[3] for line in shown] == ["3"] * len(filters) + ["65535"]
    assert chain.qdiscs(END)[1].startswith(f"qdisc {kind} ffff:")
    assert sandbox.reaches("10.1.0.1")
    again = chain.state()
    assert chain.call("ADD", sandbox, **BOTH) == (0, chain.results["eth0"])
    assert chain.state() == again
    assert chain.call("DEL", sandbox, **BOTH) == (0, None)
    assert chain.state() == before


@pytest.mark.parametrize("side", ["ingress", "egress"])
def test_a_qdisc_of_ours_stays_while_another_program_has_a_filter_in_it(
    chain: Any, sandbox: Any, side: str
) -> None:
    chain.add(sandbox, **BOTH)
    chain.host.run("tc", "filter", "add", "dev", END, side, *COPY_ALL.split())
    theirs = [line for line in chain.filters(END, side) if " pref 3 " in line]
    assert chain.check(sandbox, **BOTH) == ""
    assert chain.call("DEL", sandbox, **BOTH) == (0, None)
    assert chain.qdiscs(END) == ["qdisc clsact ffff: parent ffff:fff1"]
    assert chain.filters(END, side) == theirs != []
    assert set(chain.ifbs()) == {"ifb7"}
    assert sandbox.reaches("10.1.0.1")


def test_filters_of_others_see_the_packets_first(chain: Any, sandbox: Any) -> None:
    """Packets that come back from an ifb link skip all filters of the link that they entered by."""
    chain.add(sandbox, **SENT)
    chain.host.run("tc", "filter", "add", "dev", END, "ingress", *COPY_ALL.split())

    def seen() -> int:
        counters = chain.host.ip("-s", "link", "show", "ifb7")[0]["stats64"].values()
        return sum(way["packets"] + way["dropped"] for way in counters)

    before = seen()
    assert sandbox.reaches("10.1.0.1")
    assert seen() > before
    passed = chain.host.run("tc", "-s", "qdisc", "show", "dev", SHARED)
    assert " Sent 0 bytes" not in passed


def test_a_shared_block_of_filters_is_refused_with_the_kernels_reason(chain: Any, sandbox: Any) -> None:
    chain.host.run("tc", "qdisc", "add", "dev", END, "ingress_block", "22", "clsact")
    before = chain.state()
    code, error = chain.call("ADD", sandbox, **SENT)
    assert (code, error["code"]) == (1, 100)
    assert "block" in error["details"]
    assert chain.state() == before


def test_a_link_of_another_program_with_the_ifb_links_name_stays(chain: Any, sandbox: Any) -> None:
    chain.host.run("ip", "link", "add", SHARED, "type", "bridge")
    before = chain.state()
    result = chain.add(sandbox, **SENT)
    assert result["interfaces"][-1]["name"] == ME.ifb
    assert chain.check(sandbox, **SENT) == ""
    assert chain.call("DEL", sandbox, **SENT) == (0, None)
    assert chain.state() == before
    chain.host.run("ip", "link", "add", ME.ifb, "type", "bridge")
    code, error = chain.call("ADD", sandbox, **SENT)
    assert (code, error["code"], error["msg"]) == (1, 101, f"link {ME.ifb} already exists")
    assert chain.call("DEL", "", prevResult=None) == (0, None)
    assert chain.host.link(ME.ifb) is not None


# ----------------------------------------------------------------------------------------- other interfaces


def test_ptp(chain: Any) -> None:
    sandbox = chain.bed.sandbox()
    pools = chain.bed.host_local("10.2.0.0/24")
    chain.results["eth0"] = chain.bed.add(
        {"cniVersion": "1.1.0", "name": "net1", "type": "ptp", "ipam": pools}, sandbox
    )
    before = chain.state()
    chain.add(sandbox, **BOTH)
    assert chain.check(sandbox, **BOTH) == ""
    assert sandbox.reaches("10.2.0.1")
    assert chain.call("DEL", sandbox, **BOTH) == (0, None)
    assert chain.state() == before


def test_an_interface_that_is_not_a_veth_is_refused_and_says_why(chain: Any) -> None:
    sandbox = chain.bed.sandbox()
    chain.host.run("ip", "link", "add", "up0", "type", "veth", "peer", "up1")
    chain.host.run("ip", "link", "set", "up0", "up")
    main = {"cniVersion": "1.1.0", "name": "net1", "type": "macvlan", "master": "up0"}
    chain.results["eth0"] = chain.bed.add(main, sandbox)
    before = chain.state()
    code, error = chain.call("ADD", sandbox, **BOTH)
    assert (code, error["code"]) == (1, 7)
    assert error["msg"] == "container interface eth0 has no veth peer"
    assert error["details"].startswith("eth0 is of kind macvlan, and only a veth can be limited")
    assert chain.state() == before
    assert chain.call("ADD", sandbox) == (0, chain.results["eth0"])
    assert chain.call("DEL", sandbox) == (0, None)
    assert chain.state() == before


def test_a_peer_in_another_namespace_is_not_mistaken_for_a_link_of_the_host(chain: Any, sandbox: Any) -> None:
    """Its index is that of the host end, which is a veth too."""
    index = chain.host.link(END)["ifindex"]
    elsewhere, other = chain.bed.sandbox(), chain.bed.sandbox()
    pair = ("far0", "index", str(index), "type", "veth", "peer", "name", "eth0", "netns", other.path)
    elsewhere.run("ip", "link", "add", *pair)
    code, error = chain.call("ADD", other, **RECEIVED)
    assert (code, error["code"]) == (1, 7)
    assert error["msg"] == f"veth peer with index {index} is not in host ns"
    assert chain.qdiscs(END) == []
    assert chain.call("DEL", other) == (0, None)


@pytest.mark.parametrize(
    ("interfaces", "message"),
    [
        ([], "no interfaces provided"),
        ([{"name": "eth0", "sandbox": "@"}], "no veth peer of container interface found in host ns"),
        ([{"name": END, "sandbox": "@"}], "no veth peer of container interface found in host ns"),
    ],
)
def test_a_prev_result_without_the_host_end(
    chain: Any, sandbox: Any, interfaces: list[dict[str, str]], message: str
) -> None:
    listed = [
        {key: sandbox.path if value == "@" else value for key, value in item.items()} for item in interfaces
    ]
    code, error = chain.call("ADD", sandbox, prevResult={"cniVersion": "1.1.0", "interfaces": listed}, **BOTH)
    assert (code, error["code"], error["msg"]) == (1, 7, message)
    assert chain.qdiscs(END) == []


# ------------------------------------------------------------------------------------ what a kernel may lack

KINDS = {
    "ifb": ("ifb", SENT),
    "tbf": ("sch_tbf", RECEIVED),
    "clsact": ("sch_ingress", SENT),
    "u32": ("cls_u32", SENT),
    "mirred": ("act_mirred", SENT),
}


@pytest.mark.parametrize(("kind", "module", "keys"), [(kind, *more) for kind, more in KINDS.items()])
def test_a_module_that_the_kernel_lacks_is_named(
    chain: Any, sandbox: Any, monkeypatch: pytest.MonkeyPatch, kind: str, module: str, keys: dict[str, int]
) -> None:
    """The kernel answers about a kind that it does not know."""
    from cni_plugins.kernel.netlink import rtnetlink as wire

    original = wire.text

    def text(number: int, value: str) -> bytes:
        return original(number, f"{value}x" if value == kind else value)

    monkeypatch.setattr(wire, "text", text)
    before = chain.state()
    code, error = chain.call("STATUS", **keys)
    assert (code, error["code"]) == (1, 50)
    assert error["msg"] == f"this kernel lacks the module {module}, which limits of bandwidth need"
    assert chain.call("STATUS") == (0, None)
    code, error = chain.call("ADD", sandbox, **keys)
    assert (code, error["code"]) == (1, 100)
    assert error["msg"].startswith("this kernel lacks the module ")
    assert module in error["msg"]
    assert chain.state() == before
