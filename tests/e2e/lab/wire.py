"""
Machines on a wire, and who hears whom: for what leaves its host, which a plugin's own word does not prove.

A bed is a simulated host whose named namespaces are the machines. The switch is a bridge in one of them, all
others are plugged into it. Calls and answers pass through sockets that this process has made inside the
machines' namespaces, where they stay: nothing is started for a probe, and all beds are probed at once.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.lab.host import Host, raise_host
from tests.namespaces import entered

MACHINES = ("h1", "h2", "m")
"""Plugged into the switch with a NIC: two hosts and a plain machine."""
SANDBOXES = ("a", "b", "c")
"""Left empty, for containers: a and b of the first host, c of the second."""
SWITCH = "sw"
ENDS = {"sw": 254, "h1": 1, "h2": 2, "m": 3, "a": 11, "b": 12, "c": 13}
"""How addresses end."""
NIC = "eth0"
PORT = 7077

ECHO = {"ping4": (8, 0), "ping6": (128, 129)}
"""Message types of request and reply."""
GROUPS = {
    "broadcast": "255.255.255.255",
    "subnet broadcast": "10.77.0.255",
    "multicast4": "224.0.0.77",
    "multicast6": "ff02::77",
}
TRIES = (0.0, 0.12, 0.24)
WINDOW = 0.4
"""Seconds in which whoever hears a call has answered."""
GRACE = 0.15
"""What is added, in seconds, to the time an undisturbed machine took to answer the last try."""
PATIENCE = 10.0


Heard = set[tuple[str, str, str]]
"""Who called, who heard it, and how; a ping counts when its reply has come back."""

# A namespace starts with the machine's setting of forwarding. A source link is given frames for others too,
# which a forwarding container sends on: with a switch that reflects them, without end.
RAISE_SWITCH = """
cd /run/netns
for netns in *; do nsenter --net=$netns sysctl -qw net.ipv4.ip_forward=0; done
ip -n cniwsw -b - <<.
link add sw address 02:77:00:00:00:fe type bridge
link set sw up
addr add {v4}/24 dev sw
.
"""
PLUG_IN = f"""
ip -n cniwsw -b - <<.
link add name {{name}} type veth peer name {NIC} netns cniw{{name}} address {{mac}}
link set dev {{name}} master sw up
.
ip -n cniw{{name}} -b - <<.
link set lo up
addr add {{v4}}/24 brd + dev {NIC}
addr add {{v6}}/64 dev {NIC} nodad
link set {NIC} up
.
"""
FORGET = 'for netns; do nsenter --net="/run/netns/$netns" ip neigh flush all & done; wait'


def v4(name: str) -> str:
    return f"10.77.0.{ENDS[name]}"


def v6(name: str) -> str:
    return f"fd77::{ENDS[name]:x}"


def mac(name: str) -> str:
    return f"02:77:00:00:00:{ENDS[name]:02x}"


def netns(name: str) -> str:
    return f"cniw{name}"


ADDRESSES = {"ping4": {name: v4(name) for name in ENDS}, "ping6": {name: v6(name) for name in ENDS}}


@dataclass
class Machine(Host):
    """One of the machines: commands run in its network, files are those of its bed."""

    name: str = ""

    def argv(self, *command: str) -> list[str]:
        return super().argv("ip", "netns", "exec", netns(self.name), *command)


@dataclass(frozen=True)
class Bed:
    """A wire with its machines; `raise_bed` makes one."""

    host: Host

    def machine(self, name: str) -> Machine:
        return Machine(self.host.anchor, self.host.procs, name)

    def reflect(self, *, on: bool) -> None:
        """Whether the switch sends a frame back out of the port it came by, as VEPA wants it."""
        state = "on" if on else "off"
        lines = (f"link set dev {name} type bridge_slave hairpin {state}\n" for name in MACHINES)
        self.host.run("ip", "-n", netns(SWITCH), "-b", "-", input="".join(lines))

    def forget(self) -> None:
        """Nobody knows anybody's MAC any more, as far as it was learned."""
        self.host.run("sh", "-euc", FORGET, "sh", *map(netns, (*MACHINES, *SANDBOXES)))

    def introduce(self, here: str, there: str, lladdr: str, link: str = NIC) -> None:
        """Tell `here` the MAC of `there`, for good."""
        for address in (v4(there), v6(there)):
            words = f"neigh replace {address} lladdr {lladdr} dev {link} nud permanent"
            self.host.run("ip", "-n", netns(here), *words.split())


@contextmanager
def raise_bed(plugins: Path) -> Iterator[Bed]:
    """Bring up a bed with the executables of PLUGINS; all of it is gone afterwards."""
    with raise_host(plugins) as host:
        host.netns(*map(netns, (SWITCH, *MACHINES, *SANDBOXES)))
        yield Bed(host)


def wire_up(bed: Bed) -> None:
    """Plug the machines in."""
    script = [RAISE_SWITCH.format(v4=v4(SWITCH))]
    script += [PLUG_IN.format(name=name, v4=v4(name), v6=v6(name), mac=mac(name)) for name in MACHINES]
    bed.host.run("sh", "-euc", "".join(script))
    bed.introduce("m", SWITCH, mac(SWITCH))
    bed.introduce(SWITCH, "m", mac("m"), SWITCH)


def measure(
    beds: Mapping[str, Bed],
    present: Mapping[str, Iterable[str]],
    callers: Iterable[str] = (*MACHINES, *SANDBOXES),
) -> dict[str, Heard]:
    """
    Who of those present hears which caller in each bed.

    One machine calls at a time, and nobody knows it then: a call teaches whoever hears it the caller's MAC,
    which would let an answer pass where a call of its own would not.
    """
    heard: dict[str, Heard] = {}
    with ExitStack() as stack:
        ears = []
        for key, bed in beds.items():
            voices = {name: stack.enter_context(_voice(bed, name)) for name in present[key]}
            ears.append(Ear(voices, heard.setdefault(key, set())))
        for turn, caller in enumerate(callers):
            for bed in beds.values():
                bed.forget()
            _take_turn(ears, caller, turn)
    return heard


@dataclass
class Voice:
    """The sockets of a machine."""

    pings: dict[str, socket.socket]
    says: dict[str, socket.socket]
    hears: list[socket.socket]

    def ping(self, kind: str, other: str, token: bytes) -> None:
        """TOKEN is of even length."""
        message = struct.pack("!BBHHH", ECHO[kind][0], 0, 0, os.getpid() & 0xFFFF, 1) + token
        total = sum(struct.unpack(f"!{len(message) // 2}H", message))
        # RFC 1071; the kernel makes that of ICMPv6, which covers the addresses too.
        checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
        message = message[:2] + struct.pack("!H", checksum) + message[4:]
        self.pings[kind].sendto(message, (ADDRESSES[kind][other], 0))

    def replies(self) -> Iterator[tuple[str, str, bytes]]:
        """How, by whom and with what token a ping was answered."""
        for kind, sock in self.pings.items():
            names = {address: name for name, address in ADDRESSES[kind].items()}
            for packet, address in _received(sock):
                message = packet[(packet[0] & 15) * 4 :] if kind == "ping4" else packet
                if message[0] == ECHO[kind][1]:
                    yield kind, names[address], message[8:]


@dataclass
class Ear:
    """Gathers what the machines of a bed hear."""

    voices: dict[str, Voice]
    heard: Heard
    control: bytes = b""
    """The last token with which the switch has answered the plain machine."""

    def call(self, caller: str, token: bytes) -> None:
        """Let the caller, if it is there, ping the others one by one and call all at once."""
        if caller in self.voices:
            voice = self.voices[caller]
            for kind in ECHO:
                for other in self.voices.keys() - {caller}:
                    voice.ping(kind, other, token)
            for kind, to in GROUPS.items():
                voice.says[kind].sendto(token[:4] + kind.encode(), (to, PORT))
        self.voices["m"].ping("ping4", SWITCH, token)

    def gather(self, caller: str, turn: bytes) -> None:
        """Read all that has arrived, and keep what belongs to this turn."""
        for name, voice in self.voices.items():
            for kind, other, token in voice.replies():
                if other == SWITCH:
                    self.control = token
                elif name == caller and token[:4] == turn:
                    self.heard.add((caller, other, kind))
            calls = (payload for sock in voice.hears for payload, _ in _received(sock))
            self.heard |= {
                (caller, name, call[4:].decode()) for call in calls if call[:4] == turn and name != caller
            }


def _take_turn(ears: list[Ear], caller: str, turn: int) -> None:
    tokens = [struct.pack("!II", turn, number) for number in range(len(TRIES))]
    begin = time.monotonic()
    for at, token in zip(TRIES, tokens, strict=True):
        time.sleep(max(0.0, begin + at - time.monotonic()))
        for ear in ears:
            ear.call(caller, token)
    while any(ear.control != tokens[-1] for ear in ears):
        assert time.monotonic() < begin + PATIENCE, "the plain machine does not reach the switch"
        time.sleep(0.005)
        for ear in ears:
            ear.gather(caller, tokens[0][:4])
    time.sleep(max(GRACE, begin + WINDOW - time.monotonic()))
    for ear in ears:
        ear.gather(caller, tokens[0][:4])


@contextmanager
def _voice(bed: Bed, name: str) -> Iterator[Voice]:
    with ExitStack() as stack:

        def opened(family: int, kind: int, protocol: int = 0) -> socket.socket:
            return stack.enter_context(socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol))

        with entered(bed.host.path(f"/run/netns/{netns(name)}")):
            nic = socket.if_nametoindex(NIC)
            raw = [(socket.AF_INET, socket.IPPROTO_ICMP), (socket.AF_INET6, socket.IPPROTO_ICMPV6)]
            ping4, ping6 = (opened(family, socket.SOCK_RAW, protocol) for family, protocol in raw)
            says4, hears4 = (opened(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
            says6, hears6 = (opened(socket.AF_INET6, socket.SOCK_DGRAM) for _ in range(2))
            says4.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            for sock in (says4, says6):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, NIC.encode())
            member4 = struct.pack("4s4xi", socket.inet_aton(GROUPS["multicast4"]), nic)
            hears4.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member4)
            hears4.bind(("", PORT))
            member6 = struct.pack("16sI", socket.inet_pton(socket.AF_INET6, GROUPS["multicast6"]), nic)
            hears6.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, member6)
            hears6.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            hears6.bind(("::", PORT))
        says = {kind: says6 if kind == "multicast6" else says4 for kind in GROUPS}
        yield Voice({"ping4": ping4, "ping6": ping6}, says, [hears4, hears6])


def _received(sock: socket.socket) -> Iterator[tuple[bytes, str]]:
    """All that waits in a socket, with the addresses it comes from."""
    while True:
        try:
            packet, address = sock.recvfrom(2048)
        except BlockingIOError:
            return
        yield packet, address[0].partition("%")[0]
