"""Pings between the hosts and containers of a lab, and reports the answers as a matrix of hosts.

Every container pings all other containers, and every host all containers, as far as the kernel's neighbour
table has room.
"""

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_address
from math import ceil
from pathlib import Path
from typing import NamedTuple

from cni_plugins.cli.lab.build import Attached
from cni_plugins.cli.lab.files import inside
from cni_plugins.cli.lab.parallel import each
from cni_plugins.cli.lab.topology import Host, Lab
from cni_plugins.kernel.echo import echo
from cni_plugins.protocol.fields import IPAddress

TIMEOUT = 1.0  # seconds for an answer; an address that gives none is pinged once more
WIDTH = 8  # sources at a time: they mostly wait

# The kernel limits the neighbours of all namespaces together; the sysctl exists only in the initial one.
_LIMIT = Path("/proc/sys/net/ipv4/neigh/default/gc_thresh3")
_USUAL_LIMIT = 1024
_SHARE = 0.75  # of the limit; gateways and other namespaces need the rest


class PingSource(NamedTuple):
    """The pings that one namespace sends.

    :param host: the index of the host of this namespace.
    :param targets: addresses, each with the index of its host.
    """

    netns: str
    host: int
    is_host: bool
    targets: tuple[tuple[IPAddress, int], ...]


class Count(NamedTuple):
    """How many addresses were pinged, and how many of them answered."""

    asked: int = 0
    answered: int = 0

    def plus(self, *, answered: bool) -> "Count":
        return Count(self.asked + 1, self.answered + answered)


class Report(NamedTuple):
    """The outcome of all pings.

    :param matrix: rows are source hosts, columns target hosts.
    :param missing: pairs without an answer: a namespace and an address.
    :param late: number of answers to the second ping only.
    :param slowest: seconds.
    :param reach: how many other hosts each one pinged; fewer than all if the neighbour table is too small.
    """

    matrix: tuple[tuple[Count, ...], ...]
    containers: Count
    hosts: Count
    missing: tuple[tuple[str, str], ...]
    late: int
    slowest: float
    reach: int

    @property
    def is_whole(self) -> bool:
        return not self.missing


class Answers(NamedTuple):
    """Round-trip time of each address that answered, in seconds; `late` of them only the second time."""

    seconds: Mapping[IPAddress, float]
    late: int


def learned(lab: Lab) -> bool:
    """Say whether hosts of this lab learn a neighbour entry for each container that they reach."""
    options = lab.options
    return options.mode == "l2" or options.backend == "multicast" or options.zero_control


def reach(lab: Lab, limit: int) -> int:
    """Return how many other hosts each one may ping.

    :param limit: the maximum number of neighbour entries.
    """
    others = len(lab.hosts) - 1
    if not learned(lab):
        return others
    return min(others, max(1, int(limit * _SHARE) // _neighbours_per_reach(lab)))


def room_for_all(lab: Lab) -> int:
    """Return the limit at which every host may ping every other one."""
    return ceil((len(lab.hosts) - 1) * _neighbours_per_reach(lab) / _SHARE)


def _neighbours_per_reach(lab: Lab) -> int:
    """Return how many entries are added if each host pings one more: one at either end of every ping."""
    containers = lab.options.containers
    return 2 * containers * (containers + 1) * len(lab.hosts)  # from containers, and from the hosts


def ping_sources(lab: Lab, attached: Sequence[Attached], within: int) -> list[PingSource]:
    """Return the pings of all namespaces.

    :param within: each pings the containers of its own host, and of so many hosts that follow it.
    """
    addresses = {item.container: [ip_address(text) for text in item.addresses] for item in attached}
    sources: list[PingSource] = []
    for index, host in enumerate(lab.hosts):
        near = [(lab.hosts[at], at) for at in ((index + n) % len(lab.hosts) for n in range(within + 1))]
        sources.append(PingSource(host.netns, index, is_host=True, targets=_targets(near, addresses, "")))
        sources += [
            PingSource(container, index, is_host=False, targets=_targets(near, addresses, container))
            for container in host.containers
        ]
    return sources


def _targets(
    hosts: Sequence[tuple[Host, int]], addresses: Mapping[str, Sequence[IPAddress]], itself: str
) -> tuple[tuple[IPAddress, int], ...]:
    return tuple(
        (address, index)
        for host, index in hosts
        for container in host.containers
        if container != itself
        for address in addresses[container]
    )


def room() -> int:
    """Return the maximum number of neighbour entries in all namespaces together."""
    return int(_LIMIT.read_text()) if _LIMIT.exists() else _USUAL_LIMIT


def send_all(sources: Sequence[PingSource]) -> list[Answers]:
    """Ping from all containers, then from the hosts: what a host has learned must not help the containers."""
    containers = [source for source in sources if not source.is_host]
    hosts = [source for source in sources if source.is_host]
    given = dict(
        zip(containers + hosts, each(_send, containers, WIDTH) + each(_send, hosts, WIDTH), strict=True)
    )
    return [given[source] for source in sources]


def _send(source: PingSource) -> Answers:
    targets = [address for address, _ in source.targets]
    with inside(source.netns):
        first = echo(targets, timeout=TIMEOUT)
        silent = [address for address in targets if address not in first]
        second = echo(silent, timeout=TIMEOUT)
    return Answers({**first, **second}, len(second))


def report(lab: Lab, sources: Sequence[PingSource], answers: Sequence[Answers], within: int) -> Report:
    rows = [[Count() for _ in lab.hosts] for _ in lab.hosts]
    totals = {True: Count(), False: Count()}
    missing: list[tuple[str, str]] = []
    for source, given in zip(sources, answers, strict=True):
        for address, host in source.targets:
            answered = address in given.seconds
            rows[source.host][host] = rows[source.host][host].plus(answered=answered)
            totals[source.is_host] = totals[source.is_host].plus(answered=answered)
            if not answered:
                missing.append((source.netns, str(address)))
    matrix = tuple(tuple(row) for row in rows)
    late = sum(item.late for item in answers)
    slowest = max(_all_seconds(answers), default=0.0)
    return Report(matrix, totals[False], totals[True], tuple(missing), late, slowest, within)


def _all_seconds(answers: Sequence[Answers]) -> Iterator[float]:
    for item in answers:
        yield from item.seconds.values()


def ping(lab: Lab, attached: Sequence[Attached]) -> Report:
    """Ping as many containers as the neighbour table permits."""
    within = reach(lab, room())
    sources = ping_sources(lab, attached, within)
    return report(lab, sources, send_all(sources), within)
