"""Who reaches whom in a lab: the questions, the asking, and the answers as a matrix of hosts.

Every container asks every other one, and every host every container of another host, as far as the kernel has
room for neighbours.
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

PATIENCE = 1.0  # seconds for an answer; who gives none is asked once more
WIDTH = 8  # sources at a time: they wait more than they work

# The kernel counts the neighbours of all namespaces together; in any but the first it does not tell.
_LIMIT = Path("/proc/sys/net/ipv4/neigh/default/gc_thresh3")
_USUAL_LIMIT = 1024
_SHARE = 0.75  # of it; there are gateways and others' neighbours


class Question(NamedTuple):
    """What one namespace asks.

    :param host: the index of the host that it is, or is on.
    :param targets: addresses, and the index of the host of each.
    """

    netns: str
    host: int
    is_host: bool
    targets: tuple[tuple[IPAddress, int], ...]


class Count(NamedTuple):
    """How many were asked, and how many of them answered."""

    asked: int = 0
    answered: int = 0

    def plus(self, *, answered: bool) -> "Count":
        return Count(self.asked + 1, self.answered + answered)


class Report(NamedTuple):
    """The outcome.

    :param matrix: for each host as the source, for each as the target.
    :param missing: pairs that did not get through: a namespace and an address.
    :param late: pairs that needed a second question.
    :param slowest: seconds.
    :param reach: how many hosts each asked beside its own; fewer than there are: for want of room.
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
    """Seconds that each address took; some were asked twice."""

    seconds: Mapping[IPAddress, float]
    late: int


def learned(lab: Lab) -> bool:
    """Say whether kernels of this lab learn a neighbour for each container they talk to."""
    options = lab.options
    return options.mode == "l2" or options.backend == "multicast" or options.zero_control


def reach(lab: Lab, limit: int) -> int:
    """Return how many other hosts each may ask.

    :param limit: the neighbours that the kernel has room for.
    """
    others = len(lab.hosts) - 1
    if not learned(lab):
        return others
    return min(others, max(1, int(limit * _SHARE) // _neighbours_per_reach(lab)))


def room_for_all(lab: Lab) -> int:
    """Return the limit at which everybody may ask everybody."""
    return ceil((len(lab.hosts) - 1) * _neighbours_per_reach(lab) / _SHARE)


def _neighbours_per_reach(lab: Lab) -> int:
    """Return how many more the kernel has when each asks one more host: one at either end of a question."""
    containers = lab.options.containers
    return 2 * containers * (containers + 1) * len(lab.hosts)  # from containers, and from the hosts


def questions(lab: Lab, attached: Sequence[Attached], within: int) -> list[Question]:
    """:param within: each asks its own host's containers, and those of so many hosts that follow it"""
    addresses = {item.container: [ip_address(text) for text in item.addresses] for item in attached}
    asked: list[Question] = []
    for index, host in enumerate(lab.hosts):
        near = [(lab.hosts[at], at) for at in ((index + n) % len(lab.hosts) for n in range(within + 1))]
        asked.append(Question(host.netns, index, is_host=True, targets=_targets(near, addresses, "")))
        asked += [
            Question(container, index, is_host=False, targets=_targets(near, addresses, container))
            for container in host.containers
        ]
    return asked


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
    """Return how many neighbours the kernel keeps for all namespaces together."""
    return int(_LIMIT.read_text()) if _LIMIT.exists() else _USUAL_LIMIT


def ask(asked: Sequence[Question]) -> list[Answers]:
    """Have all containers ask, and then the hosts: what a host has learned by asking must not help them."""
    containers = [question for question in asked if not question.is_host]
    hosts = [question for question in asked if question.is_host]
    given = dict(
        zip(containers + hosts, each(_ask, containers, WIDTH) + each(_ask, hosts, WIDTH), strict=True)
    )
    return [given[question] for question in asked]


def _ask(question: Question) -> Answers:
    targets = [address for address, _ in question.targets]
    with inside(question.netns):
        first = echo(targets, timeout=PATIENCE)
        silent = [address for address in targets if address not in first]
        second = echo(silent, timeout=PATIENCE)
    return Answers({**first, **second}, len(second))


def report(lab: Lab, asked: Sequence[Question], answers: Sequence[Answers], within: int) -> Report:
    rows = [[Count() for _ in lab.hosts] for _ in lab.hosts]
    totals = {True: Count(), False: Count()}
    missing: list[tuple[str, str]] = []
    for question, given in zip(asked, answers, strict=True):
        for address, host in question.targets:
            answered = address in given.seconds
            rows[question.host][host] = rows[question.host][host].plus(answered=answered)
            totals[question.is_host] = totals[question.is_host].plus(answered=answered)
            if not answered:
                missing.append((question.netns, str(address)))
    matrix = tuple(tuple(row) for row in rows)
    late = sum(item.late for item in answers)
    slowest = max(_all_seconds(answers), default=0.0)
    return Report(matrix, totals[False], totals[True], tuple(missing), late, slowest, within)


def _all_seconds(answers: Sequence[Answers]) -> Iterator[float]:
    for item in answers:
        yield from item.seconds.values()


def ping(lab: Lab, attached: Sequence[Attached]) -> Report:
    """Ask all that can be asked."""
    within = reach(lab, room())
    asked = questions(lab, attached, within)
    return report(lab, asked, ask(asked), within)
