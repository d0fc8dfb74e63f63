"""Entries of an overlay as messages, what is read of the kernel's, and how changes go out."""

import struct
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from typing import Any, cast

import pytest
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from cni_plugins.errors import KernelRefused
from cni_plugins.kernel.links.link import Link
from cni_plugins.kernel.netlink import rtnetlink as wire
from cni_plugins.kernel.netlink.socket import Answer, Refused
from cni_plugins.kernel.overlay import peers, routes, table_diff, tables
from cni_plugins.kernel.overlay.routes import BLACKHOLE, UNICAST, RouteValue, measured
from cni_plugins.kernel.overlay.tables import Found, Table, fdb_item, packed_mac
from cni_plugins.kernel.session.session import Session
from cni_plugins.ownership import network_mark
from cni_plugins.steps.overlay import FLOOD

SET, ADD = 0x501, 0xC01  # NLM_F_REQUEST, NLM_F_CREATE and NLM_F_REPLACE, or NLM_F_APPEND
MAC = "02:fe:0a:63:00:02"
MARK = network_mark("blue")
LINK = Link("vx0", 7, "vxlan", MAC, 1450, 1, 0, "", 3, 0, None, 1, 0, 0, b"", b"")


class Kernel:
    """A session, and its socket, whose kernel answers as it is told and remembers what it was sent."""

    def __init__(self, *answers: bytes, refuses: Callable[[int], int] = lambda _: 0) -> None:
        self.answers = [Answer(28, bytes(answer)) for answer in answers]
        self.asked: list[list[bytearray]] = []
        self._refuses = refuses

    def rtnl(self, _where: str) -> "Kernel":
        return self

    def dump(self, _message: bytearray) -> list[Answer]:
        return self.answers

    def call(self, *messages: bytearray) -> None:
        self.asked.append(list(messages))
        for position, message in enumerate(messages):
            number = self._refuses(message[-1])
            if number:
                raise Refused(number, "why", position)

    def session(self) -> Session:
        return cast("Session", self)


def theirs(message: Any, kind: int, asked: int, attrs: list[Any], **fields: int) -> bytes:
    for name, value in fields.items():
        message[name] = value
    message["attrs"] = attrs
    message["header"]["type"] = kind
    message["header"]["flags"] = asked
    message.encode()
    return bytes(message.data)


def told(family: int, state: int, *attrs: bytes, flags: int = 0, index: int = 7) -> bytes:
    return bytes(wire.neighbour(28, 0, *attrs, family=family, index=index, state=state, flags=flags))


def entry_of(mac: str, *more: bytes) -> tuple[bytes, ...]:
    return (wire.mac(wire.NDA_LLADDR, mac), *more, wire.packed(3, bytes(16)))  # NDA_CACHEINFO


def to(address: str) -> bytes:
    return wire.ip(wire.NDA_DST, ip_address(address))


# ------------------------------------------------------------------------------------- entries to be set


@pytest.mark.parametrize(
    ("mac", "dst", "asked"),
    [
        (MAC, "10.99.0.2", SET),
        (MAC, "fd98::2", SET),
        (FLOOD, "10.99.0.2", ADD),
        ("01:00:5e:00:00:05", "fd98::2", ADD),
    ],
)
def test_an_entry_of_the_vxlan_link(mac: str, dst: str, asked: int) -> None:
    table, _ = tables.forwarding(Kernel().session(), LINK)
    ours = table.put(*fdb_item(packed_mac(mac), ip_address(dst).packed))
    # pyroute2 takes the destination of family 7 for a MAC address
    body = theirs(ndmsg(), 28, asked, [("NDA_LLADDR", mac)], family=7, ifindex=7, state=0x80, flags=2)
    expected = bytearray(body + to(dst))
    struct.pack_into("=I", expected, 0, len(expected))
    assert ours == expected


def test_an_entry_behind_it_and_a_neighbour() -> None:
    _, behind = tables.forwarding(Kernel().session(), LINK)
    attrs = [("NDA_LLADDR", MAC)]
    assert behind.put(packed_mac(MAC), b"") == theirs(
        ndmsg(), 28, SET, attrs, family=7, ifindex=7, state=0x40, flags=0x44
    )
    table = tables.neighbours(Kernel().session(), LINK)
    for family, address in ((2, "10.244.2.0"), (10, "fd44:2::")):
        ours = table.put(ip_address(address).packed, packed_mac(MAC))
        attrs = [("NDA_LLADDR", MAC), ("NDA_DST", address)]
        assert ours == theirs(ndmsg(), 28, SET, attrs, family=family, ifindex=7, state=0x80)


ROUTES = [
    ("10.244.2.0/24", RouteValue(UNICAST, 7, bytes([10, 244, 2, 0]), 1450, True), 0),
    ("10.244.2.0/24", RouteValue(UNICAST, 7, b"", 1350, False, bytes([10, 99, 0, 1]), 1310), 253),
    ("10.244.2.0/24", RouteValue(UNICAST, 7, ip_address("fd44::1").packed, onlink=True), 0),
    ("0.0.0.0/0", RouteValue(BLACKHOLE, 0), 0),
    ("fd44:2::/64", RouteValue(UNICAST, 7, ip_address("fd44:2::").packed, 1430), 0),
    ("fd44:2::/64", RouteValue(UNICAST, 7, b"", 0, False, ip_address("fd99::1").packed), 0),
    ("fd44::/32", RouteValue(BLACKHOLE, 0), 0),
]


@pytest.mark.parametrize(("dst", "way", "scope"), ROUTES)
def test_a_route(dst: str, way: RouteValue, scope: int) -> None:
    network = ip_network(dst)
    table = routes.routes(Kernel().session(), "blue")
    ours = table.put(routes.key_of(network), way)
    attrs: list[Any] = [("RTA_DST", str(network.network_address)), ("RTA_PRIORITY", MARK)]
    attrs += [("RTA_OIF", way.out)] if way.out else []
    metrics = [("RTAX_MTU", way.mtu)] if way.mtu else []
    metrics += [("RTAX_ADVMSS", way.advmss)] if way.advmss else []
    attrs += [("RTA_METRICS", {"attrs": metrics})] if metrics else []
    if way.via and len(way.via) > network.max_prefixlen // 8:
        attrs += [("RTA_VIA", {"family": 10, "addr": str(ip_address(way.via))})]
    elif way.via:
        attrs += [("RTA_GATEWAY", str(ip_address(way.via)))]
    attrs += [("RTA_PREFSRC", str(ip_address(way.src)))] if way.src else []
    family = wire.FAMILY[network.version]
    fields = {"family": family, "dst_len": network.prefixlen, "table": 254, "proto": 217, "scope": scope}
    assert ours == theirs(rtmsg(), 24, SET, attrs, **fields, type=way.kind, flags=4 if way.onlink else 0)


# --------------------------------------------------------------------------------------------- what is read


@pytest.mark.parametrize(("dst", "way", "scope"), ROUTES)
def test_a_route_is_read_as_it_was_written(dst: str, way: RouteValue, scope: int) -> None:
    key = routes.key_of(ip_network(dst))
    table = routes.routes(Kernel().session(), "blue")
    message = bytes(table.put(key, way))
    found = routes.routes(Kernel(message).session(), "blue")
    assert found.present == {key: Found(way, message)}
    # The same again, as the dumps of both versions are one here: another route of that destination.
    assert [item for item, _ in found.clashing] == [key]


@pytest.mark.parametrize(
    ("field", "value"), [(4, 255), (5, 4), (8, 0x200)], ids=["table", "protocol", "cached"]
)
def test_routes_of_others_are_not_read(field: int, value: int) -> None:
    network = ip_network("10.244.2.0/24")
    message = routes.routes(Kernel().session(), "blue").put(routes.key_of(network), RouteValue(BLACKHOLE, 0))
    head = list(wire.RTMSG.unpack_from(message, wire.BODY))
    head[field] = value
    wire.RTMSG.pack_into(message, wire.BODY, *head)
    assert routes.routes(Kernel(message).session(), "blue").present == {}


def test_routes_with_another_mark_are_not_read() -> None:
    key = routes.key_of(ip_network("10.244.2.0/24"))
    message = routes.routes(Kernel().session(), "red").put(key, RouteValue(BLACKHOLE, 0))
    assert routes.routes(Kernel(message).session(), "red").present
    assert routes.routes(Kernel(message).session(), "blue").present == {}


@pytest.mark.parametrize(
    ("state", "flags"), [(0x02, 2), (0x04, 2), (0x80, 0x12), (0x02, 0), (0x80, 0), (0x40, 0x10)]
)
def test_forwarding_entries_that_are_not_ours_are_not_read(state: int, flags: int) -> None:
    """Learned by the link, old, of a daemon, learned by the bridge, the port's own, of a daemon."""
    message = told(7, state, *entry_of(MAC, to("10.99.0.2")), flags=flags)
    own, behind = tables.forwarding(Kernel(message).session(), LINK)
    assert own.present == behind.present == {}


def test_entries_of_other_links_are_not_read() -> None:
    """Kernels of old do not filter."""
    kernel = Kernel(
        told(7, 0x80, *entry_of(MAC, to("10.99.0.2")), flags=2, index=8),
        told(2, 0x80, *entry_of(MAC, to("10.99.0.2")), index=8),
        told(2, 0x80, *entry_of(MAC, to("10.99.0.3")), index=7),
    )
    own, behind = tables.forwarding(kernel.session(), LINK)
    assert own.present == behind.present == {}
    assert [*tables.neighbours(kernel.session(), LINK).present] == [bytes([10, 99, 0, 3])]


def test_forwarding_entries_are_told_apart() -> None:
    port = wire.packed(wire.NDA_PORT, b"\x13\x88")
    messages = [
        told(7, 0x80, *entry_of(MAC, to("10.99.0.2")), flags=2),
        told(7, 0x80, *entry_of("02:fe:0a:63:00:03", to("10.99.0.3"), port), flags=2),
        told(7, 0x80, *entry_of(FLOOD, to("10.99.0.2")), flags=2),
        told(7, 0x80, *entry_of(FLOOD, to("10.99.0.3")), flags=2),
        told(7, 0x80, *entry_of("02:fe:0a:63:00:04", wire.number(wire.NDA_NH_ID, 12)), flags=2),
        told(7, 0x40, *entry_of(MAC, wire.number(9, 3))),  # NDA_MASTER
    ]
    own, behind = tables.forwarding(Kernel(*messages).session(), LINK)
    dst = bytes([10, 99, 0])
    mac = packed_mac("02:fe:0a:63:00:00")[:5]
    assert {key: found.value for key, found in own.present.items()} == {
        mac + b"\2": dst + b"\2",
        mac + b"\3": dst + b"\3" + port,
        bytes(6) + dst + b"\2": b"",
        bytes(6) + dst + b"\3": b"",
    }
    assert [key for key, _ in own.clashing] == [mac + b"\4"]
    assert [*behind.present] == [packed_mac(MAC)]


def test_a_removal_names_the_very_entry() -> None:
    vni = wire.number(wire.NDA_VNI, 7)
    message = told(7, 0x80, *entry_of(MAC, to("10.99.0.2"), vni), flags=2)
    own, _ = tables.forwarding(Kernel().session(), LINK)
    removal = own.remove(message)
    wanted = wire.neighbour(
        29, 0, wire.mac(2, MAC), to("10.99.0.2"), vni, family=7, index=7, state=0x80, flags=2
    )
    assert removal == wanted


def test_a_removal_of_a_route_tells_no_state_of_its_link() -> None:
    table = routes.routes(Kernel().session(), "blue")
    key = routes.key_of(ip_network("10.244.2.0/24"))
    message = table.put(key, RouteValue(UNICAST, 7, bytes([10, 244, 2, 0]), 1450, onlink=True))
    removal = table.remove(bytes(message) + wire.packed(12, bytes(32)))  # RTA_CACHEINFO
    kind, asked = struct.unpack_from("=HH", removal, 4)
    assert (kind, asked) == (25, 1)
    assert wire.RouteHead(*wire.RTMSG.unpack_from(removal, wire.BODY)).flags == 0
    assert removal[wire.BODY + wire.RTMSG.size :] == message[wire.BODY + wire.RTMSG.size :]


# ------------------------------------------------------------------------------------------------ comparing


def table_of(**present: str) -> Table[str]:
    found = {key.encode(): Found(value, key.encode()) for key, value in present.items()}
    return Table(
        found,
        [],
        lambda key, value: f"{key.decode()} {value}",
        lambda found, _wanted: f"is {found}",
        lambda key, _value: bytearray(b"set." + bytes(4) + key),
        lambda data: bytearray(b"del." + bytes(4) + data),
    )


def test_what_is_as_it_should_be_is_left_alone() -> None:
    found = table_diff.compared(table_of(a="1", b="2"), {b"a": "1", b"b": "2"})
    assert (found.first(), found.sets(), found.removals(), [*found.phrases()]) == ([], [], [], [])


def test_a_difference_has_an_order() -> None:
    table = table_of(a="1", b="2", c="3")
    table.clashing.append((b"a", Found("9", b"A")))
    found = table_diff.compared(table, {b"b": "4", b"d": "5"})
    assert [*found.phrases()] == [
        "b 4 is 2",
        "d 5 is missing",
        "a 1 is stale",
        "c 3 is stale",
        "a 9 is stale",
    ]
    sent = [
        [bytes(message[-1:]) for message, _ in some]
        for some in (found.first(), found.sets(), found.removals())
    ]
    assert sent == [[b"A"], [b"b", b"d"], [b"a", b"c"]]


def test_what_will_do_stays() -> None:
    found = table_diff.compared(table_of(a="1", b="2"), {b"a": "3", b"b": "3"}, lambda key, *_: key == b"a")
    assert found.put == [(b"b", "3")]


def test_what_the_kernel_cannot_replace_goes_first() -> None:
    table = table_of(a="1", b="2")._replace(in_place=lambda found, _wanted: found != "1")
    found = table_diff.compared(table, {b"a": "3", b"b": "3", b"c": "3"})
    assert [named() for _, named in found.first()] == ["a 1"]
    assert [named() for _, named in found.sets()] == ["a 3", "b 3", "c 3"]


# ------------------------------------------------------------------------------------------------- measured


@pytest.mark.parametrize(
    ("found", "wanted", "of_link", "stays"),
    [
        ((1350, 1310), 1450, 1500, True),
        ((1450, 1410), 1450, 1500, True),
        ((1451, 1411), 1450, 1500, False),
        ((1350, 1290), 1450, 1500, False),  # the mark of IPv6
        ((1350, 0), 1450, 1500, False),
        ((1350, 1310), 0, 1500, True),
        ((1350, 1310), 0, 1300, False),
        ((0, 0), 1450, 1500, False),
    ],
)
def test_a_smaller_measured_mtu_will_do(
    found: tuple[int, int], wanted: int, of_link: int, stays: bool
) -> None:
    key = routes.key_of(ip_network("10.244.2.0/24"))
    there, should = (
        RouteValue(UNICAST, 7, b"", found[0], advmss=found[1]),
        RouteValue(UNICAST, 7, b"", wanted),
    )
    assert peers._is_smaller({7: of_link}, key, there, should) == stays
    assert not peers._is_smaller({7: of_link}, key, there._replace(out=8), should)


def test_the_mark_of_a_measured_mtu_is_what_tcp_makes_of_it() -> None:
    assert (measured(1450, 4), measured(1450, 6)) == (1410, 1390)
    assert measured(40, 4) > 0  # 0 is no mark


# ------------------------------------------------------------------------------------------------- sending


def changes(count: int) -> list[table_diff.Named]:
    return [(bytearray(8) + bytes((n,)), lambda n=n: f"entry {n}") for n in range(count)]  # type: ignore[misc]


def test_only_the_last_of_a_datagram_asks_for_an_answer() -> None:
    kernel = Kernel()
    table_diff.set_all(kernel.session(), changes(250))
    assert sum(len(sent) for sent in kernel.asked) == 250
    assert len(kernel.asked) > 1
    for sent in kernel.asked:
        assert len(sent) <= 200  # as many refusals fit into a socket's usual buffer
        assert [message[6] for message in sent] == [0] * (len(sent) - 1) + [4]


def test_nothing_to_change_sends_nothing() -> None:
    kernel = Kernel()
    table_diff.set_all(kernel.session(), [])
    table_diff.remove_all(kernel.session(), [])
    assert kernel.asked == []


def test_a_refusal_names_the_entry() -> None:
    kernel = Kernel(refuses=lambda number: 2 if number == 200 else 0)
    with pytest.raises(KernelRefused) as caught:
        table_diff.set_all(kernel.session(), changes(250))
    assert caught.value.msg == "entry 200 could not be set: No such file or directory"
    assert (caught.value.details, caught.value.errno) == ("errno 2, why", 2)


def test_what_is_not_there_need_not_be_removed() -> None:
    kernel = Kernel(refuses=lambda number: {3: 2, 5: 3, 249: 2}.get(number, 0))
    table_diff.remove_all(kernel.session(), changes(250))
    assert {message[-1] for sent in kernel.asked for message in sent} == set(range(250))


def test_a_refusal_behind_one_that_is_none_is_found() -> None:
    kernel = Kernel(refuses=lambda number: {3: 2, 5: 1}.get(number, 0))
    with pytest.raises(KernelRefused, match="entry 5 could not be removed: Operation not permitted"):
        table_diff.remove_all(kernel.session(), changes(10))
