"""The tables of an overlay, ours beside iproute2's batch files for the same entries, as root.

`python -m tests.bench.overlay [--rounds N] [--dist DIR]` works in network namespaces of its own, which go
with it; it fails when ours takes more than three times as long. With frozen executables it also attaches
containers to overlays with 3, 1 000 and 10 000 peers, warm and cold, and fails when a warm ADD takes more
than 1.5 times as long with many as with few.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import NamedTuple

from cni_plugins.kernel import dispatch
from cni_plugins.kernel.session.session import Session
from cni_plugins.ownership import network_mark
from cni_plugins.steps.overlay import EnsurePeers, PeerRoute
from tests.bench import overlay_calls
from tests.namespaces import Namespace

LIMIT = 3.0
_NETWORK = "bench"
_SETUP = (
    "link add br0 up type bridge",
    "link add vx0 type vxlan id 100 local 10.99.0.1 dev u0 dstport 4789 nolearning",
    "link set vx0 addrgenmode none master br0 up",
)


class Form(NamedTuple):
    """One shape of an overlay.

    :param changed: the same with one peer in a hundred at another address.
    """

    name: str
    fresh: EnsurePeers
    changed: EnsurePeers


class Figures(NamedTuple):
    """Seconds of each round."""

    ours: list[float]
    theirs: list[float]
    nothing: list[float]
    changed: list[float]


def main(words: list[str]) -> int:
    """Measure both forms and print medians."""
    parser = argparse.ArgumentParser(prog="overlay", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--dist", type=Path, default=Path("dist"))
    given = parser.parse_args(words)
    rounds = given.rounds
    if os.geteuid() != 0:
        sys.stderr.write("overlay: network namespaces need root\n")
        return 1
    forms = (
        Form("1 000 peers, routed", routed(1000), routed(1000, moved=100)),
        Form("100 peers x /28, one subnet", stretched(100), stretched(100, moved=100)),
    )
    with Namespace() as host, host.entered():
        _add_underlay()
        code = max([_report(form, _measured(form, rounds)) for form in forms])
    return max(code, _attachments(given.dist.absolute(), rounds))


def _attachments(dist: Path, rounds: int) -> int:
    if not (dist / "vxlan").is_file():
        sys.stderr.write(f"overlay: no executables in {dist}, so no attachments\n")
        return 0
    lines, is_slow = overlay_calls.report(dist, rounds)
    sys.stdout.write("\n".join(["attachments, medians, and ratio to few peers", *lines, ""]))
    return int(is_slow)


def routed(peers: int, moved: int = 0) -> EnsurePeers:
    """Each peer has a subnet; of `moved` peers one has another VTEP than at first."""
    numbers = range(1, peers + 1)
    vteps = {n: _vtep(n, moved) for n in numbers}
    gateways = {n: ip_address(0x0A800000 + (n << 8)) for n in numbers}
    fdb = tuple((mac, ip_address(vtep)) for vtep, mac in vteps.values())
    neighbours = tuple((gateways[n], vteps[n][1]) for n in numbers)
    routes = tuple(
        PeerRoute(ip_network(f"{gateways[n]}/24"), "vx0", gateways[n], 1450, onlink=True) for n in numbers
    )
    return EnsurePeers(_NETWORK, "vx0", fdb, (), "vx0", neighbours, routes)


def stretched(peers: int, moved: int = 0) -> EnsurePeers:
    """Each peer has sixteen addresses of one subnet."""
    listed = [
        (_vtep(n, moved)[0], f"02:00:00:00:{n:02x}:{k:02x}", ip_address(0x0AF00000 + n * 16 + k))
        for n in range(1, peers + 1)
        for k in range(16)
    ]
    fdb = tuple((mac, ip_address(vtep)) for vtep, mac, _ in listed)
    behind = tuple(mac for _, mac, _ in listed)
    return EnsurePeers(_NETWORK, "vx0", fdb, behind, "br0", tuple((ip, mac) for _, mac, ip in listed))


def _vtep(number: int, moved: int) -> tuple[str, str]:
    if moved and number % moved == 0:
        number += 0x8000
    return str(ip_address(0x0A630000 + number)), f"02:fe:0a:63:{number >> 8:02x}:{number & 255:02x}"


# ---------------------------------------------------------------------------------------------- measuring


def _add_underlay() -> None:
    _ip("link add u0 up type veth peer name u1")
    _ip("link set u1 up")
    _ip("address add 10.99.0.1/16 dev u0")


def _ip(words: str) -> None:
    subprocess.run(["ip", *words.split()], check=True)


def _measured(form: Form, rounds: int) -> Figures:
    figures = Figures([], [], [], [])
    with tempfile.TemporaryDirectory() as name:
        batches = _batches(form.fresh, Path(name))
        for number in range(rounds):
            sides = [lambda: _ours(form, figures), lambda: _theirs(form, batches, figures)]
            for side in sides if number % 2 else reversed(sides):
                for words in _SETUP:
                    _ip(words)
                side()
                _ip("link delete vx0")
                _ip("link delete br0")
    return figures


def _ours(form: Form, figures: Figures) -> None:
    with Session(None) as session:
        figures.ours.append(_timed(lambda: dispatch.carry_out(session, form.fresh)))
        figures.nothing.append(_timed(lambda: dispatch.carry_out(session, form.fresh)))
        figures.changed.append(_timed(lambda: dispatch.carry_out(session, form.changed)))
        _require_none(dispatch.differs(session, form.changed))


def _theirs(form: Form, batches: list[list[str]], figures: Figures) -> None:
    def run() -> None:
        for command in batches:
            subprocess.run(command, check=True)

    figures.theirs.append(_timed(run))
    with Session(None) as session:
        _require_none(dispatch.differs(session, form.fresh))


def _require_none(differences: str) -> None:
    if differences:
        raise SystemExit(f"overlay: the two sides do not make the same: {differences}")


def _timed(deed: Callable[[], None]) -> float:
    begun = time.perf_counter()
    deed()
    return time.perf_counter() - begun


def _batches(step: EnsurePeers, directory: Path) -> list[list[str]]:
    """Write what iproute2 reads; return its commands."""
    mark = network_mark(step.network)
    fdb = [f"fdb replace {mac} dst {vtep} dev {step.vxlan} self permanent" for mac, vtep in step.fdb]
    fdb += [f"fdb replace {mac} dev {step.vxlan} master sticky static" for mac in step.behind]
    rest = [f"neigh replace {ip} lladdr {mac} dev {step.at} nud permanent" for ip, mac in step.neighbours]
    rest += [
        f"route replace {r.dst} via {r.via} dev {r.link} onlink proto 217 metric {mark} mtu {r.mtu}"
        for r in step.routes
    ]
    commands = []
    for tool, lines in (("bridge", fdb), ("ip", rest)):
        path = directory / tool
        path.write_text("\n".join(lines) + "\n")
        commands.append([tool, "-batch", str(path)])
    return commands


def _report(form: Form, figures: Figures) -> int:
    """Print one line for each measure; return whether ours took too long."""
    step = form.fresh
    entries = len(step.fdb) + len(step.behind) + len(step.neighbours) + len(step.routes)
    ours, theirs = statistics.median(figures.ours), statistics.median(figures.theirs)
    sys.stdout.write(f"{form.name}: {entries} entries, medians of {len(figures.ours)} rounds\n")
    for name, value in (
        ("ours, fresh", ours),
        ("iproute2 batch, fresh", theirs),
        ("ours, nothing to do", statistics.median(figures.nothing)),
        ("ours, 1 % of the peers moved", statistics.median(figures.changed)),
    ):
        sys.stdout.write(f"  {name:<30}{value * 1000:8.1f} ms  {value / theirs:5.2f}\n")
    return int(ours > LIMIT * theirs)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
