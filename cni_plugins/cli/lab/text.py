"""Formats a lab as text and as JSON, with pure functions."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from cni_plugins.cli.lab.build import Attached, LabRemoval
from cni_plugins.cli.lab.ping import Count, Report, room_for_all
from cni_plugins.cli.lab.topology import Lab

_WIDE = 16  # hosts that fit into a table with one word per pair
_SHOWN = 10  # lines of a list that may be long
_NONE = "\N{EN DASH}"
_SIGNS = "one character per pair: . all answered, / some, - none, blank not pinged"


def head(lab: Lab) -> str:
    options = lab.options
    each_has = _plural(options.containers, "container")
    extras = {
        "no control plane": options.zero_control,
        f"bum {options.bum}": options.bum,
        f"direct routing {options.direct_routing}": options.direct_routing,
        f"MTU {options.mtu}": options.mtu,
        "dual stack": options.dual_stack,
    }
    words = [options.mode, options.backend, f"underlay IPv{options.underlay}", *filter(extras.get, extras)]
    return f"lab {options.name}: {_plural(options.hosts, 'host')} with {each_has} each, {', '.join(words)}"


def built(seconds: float) -> str:
    return f"underlay  built in {seconds:.2f} s"


def attached(made: Sequence[Attached], seconds: float) -> str:
    slowest = max(item.seconds for item in made)
    return f"attached  {_plural(len(made), 'container')} in {seconds:.2f} s, the slowest in {slowest:.2f} s"


def answered(lab: Lab, report: Report, seconds: float) -> Iterator[str]:
    """Yield the summary of the pings, and the matrix."""
    between, hosts = (f"{count.answered} of {count.asked}" for count in (report.containers, report.hosts))
    slowest = f"the slowest in {report.slowest * 1000:.1f} ms"
    yield f"answered  {between} between containers, {hosts} from hosts, in {seconds:.2f} s, {slowest}"
    if report.late:
        yield f"          {report.late} only at the second ping"
    if report.reach < len(lab.hosts) - 1:
        few = _plural(report.reach, "host")
        yield f"          each pinged only {few}: the kernel's neighbour table is too small"
        for family in ("ipv4", *(("ipv6",) if lab.options.dual_stack else ())):
            yield f"          for all: sysctl -w net.{family}.neigh.default.gc_thresh3={room_for_all(lab)}"
    yield ""
    yield from _matrix([host.name for host in lab.hosts], report.matrix)
    yield from _shortened([f"no answer: from {source} to {address}" for source, address in report.missing])


def _matrix(names: Sequence[str], rows: Sequence[Sequence[Count]]) -> Iterator[str]:
    if len(names) > _WIDE:
        yield _SIGNS
        width = len(names[-1])
        yield from (f"{name.ljust(width)}  {_signs(row)}" for name, row in zip(names, rows, strict=True))
        return
    cells = [[_word(count) for count in row] for row in rows]
    width = max(len(cell) for row in [names, *cells] for cell in row)
    first = max(len(names[-1]), len("FROM"))
    for name, row in zip(["FROM", *names], [names, *cells], strict=True):
        yield "  ".join([name.ljust(first), *(cell.ljust(width) for cell in row)]).rstrip()


def _signs(row: Sequence[Count]) -> str:
    return "".join(_sign(count) for count in row).rstrip()


def _sign(count: Count) -> str:
    if not count.asked:
        return " "
    return "." if count.answered == count.asked else "/" if count.answered else "-"


def _word(count: Count) -> str:
    if not count.asked:
        return ""
    return {".": "ok", "-": _NONE, "/": f"{count.answered}/{count.asked}"}[_sign(count)]


def shown(lab: Lab, made: Sequence[Attached], there: Sequence[str]) -> Iterator[str]:
    """Yield the hosts and containers of a lab.

    :param there: the network namespaces that exist.
    """
    yield head(lab)
    yield ""
    addresses = {item.container: " ".join(item.addresses) for item in made}
    for host in lab.hosts:
        yield f"{host.netns}  {host.vtep}  {' '.join(str(own) for own in host.own)}{_gone(host.netns, there)}"
        for container in host.containers:
            yield f"  {container}  {addresses.get(container, 'not attached')}{_gone(container, there)}"


def _gone(namespace: str, there: Sequence[str]) -> str:
    return "" if namespace in there else "  (there is no such namespace)"


def removed(name: str, removal: LabRemoval | None, namespaces: int, seconds: float) -> Iterator[str]:
    if removal is None:
        yield "detached  nothing: the containers of this lab are not known"
    else:
        yield f"detached  {_plural(removal.detached, 'container')}"
        yield from _shortened([f"          {error}" for error in removal.errors])
        yield "left      on hosts:" if removal.left else "left      nothing of the overlay on any host"
        yield from _shortened([f"          {line}" for line in removal.left])
    yield f"removed   lab {name}, {_plural(namespaces, 'namespace')} and its files, in {seconds:.2f} s"


def document(
    lab: Lab, made: Sequence[Attached], report: Report | None, seconds: Mapping[str, float]
) -> dict[str, Any]:
    """Return the JSON document of a lab."""
    by_name = {item.container: item for item in made}
    hosts = [
        {
            "name": host.name,
            "netns": host.netns,
            "vtep": str(host.vtep),
            "own": [str(own) for own in host.own],
            "containers": [by_name[name]._asdict() for name in host.containers if name in by_name],
        }
        for host in lab.hosts
    ]
    content = {"options": lab.options._asdict(), "hosts": hosts, "seconds": dict(seconds)}
    return content if report is None else {**content, "answers": _answers(report)}


def _answers(report: Report) -> dict[str, Any]:
    return {
        "whole": report.is_whole,
        "containers": report.containers._asdict(),
        "hosts": report.hosts._asdict(),
        "late": report.late,
        "slowest": report.slowest,
        "reach": report.reach,
        "matrix": [
            [count.asked == count.answered if count.asked else None for count in row] for row in report.matrix
        ],
        "missing": [list(pair) for pair in report.missing],
    }


def _shortened(lines: Sequence[str]) -> Iterator[str]:
    yield from islice(lines, _SHOWN)
    if len(lines) > _SHOWN:
        yield f"          and {len(lines) - _SHOWN} more"


def _plural(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"
