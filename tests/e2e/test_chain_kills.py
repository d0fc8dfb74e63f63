"""
Calls of chained plugins that are killed in their middle: the runtime's DEL, or the next GC, leaves nothing.

Nothing means: no rule, qdisc, link, file or setting of the host, nor of a sandbox that lives on; and the
container that lives through it all is as it was made. There are fifteen kills of ADD and of DEL of each
plugin and backend: one after each change, and the rest at random.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import pytest

from tests.e2e.lab import network
from tests.e2e.lab.agent import NO_AGENT, running
from tests.e2e.lab.chain import BANDWIDTH, PORTMAP, Attachment, Chain, Json, look, published
from tests.e2e.lab.host import Host
from tests.e2e.lab.killer import killed_after
from tests.e2e.lab.plugin import Answer, Call, run, start
from tests.e2e.lab.state import State, differences, settled

pytestmark = [
    pytest.mark.needs("ip", "nft", "iptables", "tc", "gcc", "setpriv", "nsenter"),
    pytest.mark.timeout(900),
]

KILLS = 15
TOOL_DIED = 100
"""The code where not the plugin was killed but `iptables`, which it has started and which changes as much."""
NAME = "cnikchain"
BACKUPS = "/run/cni/tuning"
ROUTES = network.default_routes("10.84.0.0/24", "fd00:84::/64")
MAIN: Json = {
    "type": "bridge",
    "bridge": "cnikbr0",
    "isGateway": True,
    "ipMasq": True,
    "ipam": network.host_local("10.84.0.0/24", "fd00:84::/64", routes=ROUTES),
}
CHAINED: dict[str, Json] = {
    "portmap": PORTMAP,
    "portmap-iptables": {**PORTMAP, "backend": "iptables"},
    "firewall": {"type": "firewall", "backend": "nftables", "ingressPolicy": "same-bridge"},
    "firewall-iptables": {"type": "firewall", "backend": "iptables"},
    "bandwidth": BANDWIDTH,
    "tuning": {
        "type": "tuning",
        "sysctl": {"net.core.somaxconn": "500", "net.ipv4.conf.IFNAME.arp_filter": "1"},
        "mac": "02:84:00:00:00:77",
        "mtu": 1400,
        "mtuBothEnds": True,
        "promisc": True,
        "allmulti": True,
        "txQLen": 77,
    },
    "sbr": {"type": "sbr"},
}
RATES = {"ingressRate": 10**8, "ingressBurst": 10**7, "egressRate": 10**7, "egressBurst": 10**7}
INSIDE = """
ip -o link; ip -4 rule; ip -6 rule
cat /proc/sys/net/core/somaxconn /proc/sys/net/ipv4/conf/eth0/arp_filter
"""


def asked(number: int) -> Json:
    ports = [published(f"{20000 + number}:80/tcp"), published(f"{20000 + number}:80/udp")]
    return {"portMappings": ports, "bandwidth": RATES}


@dataclass
class Bed:
    """A host on which one container lives, with a main plugin and the chained one whose calls are killed."""

    host: Host
    chained: Json
    killer: str
    numbers: Iterator[int] = field(default_factory=lambda: iter(range(1, 10**6)))
    quiet: State = field(default_factory=dict)
    plain: list[str] = field(default_factory=list)
    """What is in a sandbox that the main plugin has attached."""
    before: tuple[State, list[str]] = field(default_factory=lambda: ({}, []))
    soiled: bool = False
    """Whether a kill has been seen to leave something, which is then cleaned up."""
    seconds: dict[str, float] = field(default_factory=dict)
    """How long a command takes at least, without an agent."""
    missed: int = 0

    def __post_init__(self) -> None:
        self.chain = Chain(self.host, {"cniVersion": "1.1.0", "name": NAME, "plugins": [MAIN, self.chained]})
        self.living = self.container("living")

    def container(self, name: str) -> Attachment:
        [netns] = self.host.netns(name)
        return Attachment(name, netns, asked=asked(next(self.numbers)))

    @contextmanager
    def victim(self, command: str) -> Iterator[tuple[Attachment, Json, Call]]:
        """A container that the main plugin has attached, with that result, and a call of the chained one."""
        at = self.container(f"k{next(self.numbers)}")
        main, _ = self.chain.confs(at.asked)
        try:
            result = self.chain.call("ADD", main, at).ok().document
            self.before = self.state(at)
            if command == "DEL":
                run(self.host, self.call("ADD", at, result)).ok()
            yield at, result, self.call(command, at, result)
        finally:
            self.host.run("ip", "netns", "del", at.container, check=False)

    def call(self, command: str, at: Attachment, result: Json) -> Call:
        """A call of the chained plugin."""
        _, conf = self.chain.confs(at.asked)
        return Call(command, conf | {"prevResult": result}, at.container, at.netns)

    def killed_after(self, changes: int, call: Call, program: str) -> Answer:
        variables = killed_after(self.killer, changes, BACKUPS, program)
        return run(self.host, call.but(variables={**NO_AGENT, **variables}))

    def kills(self, command: str) -> Iterator[tuple[Attachment, Json, Answer]]:
        """After each change of the plugin; then after each of the plugin or a tool of it; then at random."""
        for program in (str(self.chained["type"]), *(("",) if "iptables" in self.chained.values() else ())):
            for changes in itertools.count(1):
                with self.victim(command) as (at, result, call):
                    answer = self.killed_after(changes, call, program)
                    yield at, result, answer
                if answer.code == 0:
                    break
        for number in itertools.count():
            with self.victim(command) as (at, result, call):
                yield at, result, self.killed_at_random(random.Random(number), call)

    def killed_at_random(self, chance: random.Random, call: Call) -> Answer:
        """Every second one has an agent. After one that was too late, the next ones are earlier."""
        cold = chance.random() < 0.5
        process = start(self.host, call.but(variables=NO_AGENT if cold else {}))
        assert process.stdin is not None
        with suppress(BrokenPipeError), process.stdin:
            process.stdin.write(call.stdin)
        process.stdin = None
        time.sleep(chance.uniform(0, self.seconds[call.command] * (1 if cold else 0.2)) * 0.9**self.missed)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate(timeout=60)
        self.missed += process.returncode == 0
        return Answer(process.returncode, out, err)

    def state(self, at: Attachment) -> tuple[State, list[str]]:
        """The state with this container; it takes time, and one kill that leaves something is enough."""
        return ({}, []) if self.soiled else (look(self.host), self.inside(at))

    def clean_up(self, way: str, at: Attachment, result: Json) -> None:
        """What a runtime does then: DEL of the list, GC, or both, and it may have lost the namespace."""
        if "lost" in way:
            self.host.remove_netns(at.container)
            at = Attachment(at.container, "", asked=at.asked)
        if way == "DEL":
            run(self.host, self.call("DEL", at, result)).ok()
            self.assert_sandbox_is_bare(at)
        if "DEL" in way:
            self.chain.delete(at, None if "prevResult" in way else result)
        if "GC" in way:
            self.chain.collect([self.living])
        changes = differences(self.quiet, settled(lambda: look(self.host), self.quiet))
        assert not changes, "\n".join([f"{way}:", *changes])

    def inside(self, at: Attachment) -> list[str]:
        return self.host.run("ip", "netns", "exec", at.container, "sh", "-c", INSIDE).stdout.splitlines()

    def assert_sandbox_is_bare(self, at: Attachment) -> None:
        """As far as the plugin gives back: sbr leaves routes where the interface takes them along."""
        found = self.inside(at)
        assert [line for line in found if "fwmark" in line or "mtu 1400" in line or "PROMISC" in line] == []
        if self.chained["type"] == "tuning":
            assert found[-2:] == self.plain[-2:]

    def time(self) -> None:
        for _ in range(2):
            with self.victim("ADD") as (at, result, _):
                self.plain = self.inside(at)
                for command in ("ADD", "DEL"):
                    begun = time.monotonic()
                    run(self.host, self.call(command, at, result).but(variables=NO_AGENT)).ok()
                    took = time.monotonic() - begun
                    self.seconds[command] = min(took, self.seconds.get(command, took))
                self.chain.delete(at, result)


WAYS = ("DEL", "namespace lost, DEL, GC", "namespace lost, GC", "DEL without prevResult, GC")


@pytest.fixture(params=CHAINED)
def bed(request: pytest.FixtureRequest, node: Host, killer: str) -> Iterator[Bed]:
    bed = Bed(node, CHAINED[request.param], killer)
    with running(node, "--workers", "2"):
        result = bed.chain.add(bed.living)
        bed.time()
        bed.quiet = look(node)
        yield bed
        bed.chain.check(bed.living, result)
        bed.chain.delete(bed.living, result)


@pytest.mark.parametrize("command", ["ADD", "DEL"])
def test_a_call_that_is_killed_leaves_nothing(bed: Bed, command: str) -> None:
    killed = 0
    for number, (at, result, answer) in enumerate(bed.kills(command)):
        assert answer.code in (0, -signal.SIGKILL) or answer.document["code"] == TOOL_DIED, answer
        killed += answer.code == -signal.SIGKILL
        bed.soiled = bed.soiled or (answer.code != 0 and bed.state(at) != bed.before)
        bed.clean_up(WAYS[number % len(WAYS)], at, result)
        assert number < 5 * KILLS, f"{killed} calls were killed of {number}"
        if killed == KILLS:
            break
    assert bed.soiled
