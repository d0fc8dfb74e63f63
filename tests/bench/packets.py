"""The cost of a small packet through an overlay, beside one that was made by hand and has no rules, as root.

`python -m tests.bench.packets [--rounds N] [--plugins DIR] [--no-masquerade] [--beside-unguarded]` makes
four hosts of namespaces: two in our overlay, two in one of iproute2 commands with the same links, routes and
entries, or in ours without `sourceGuard`. It prints the medians of CPU time per datagram of 64 bytes from
container to container, and their ratio.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests import cni
from tests.namespaces import Namespace

_REPOSITORY = Path(__file__).resolve().parents[2]
_COUNT, _PORT = "60000", 7000
_TARGET = "10.244.2.2"
_SINK = """
import socket, time
made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
made.bind(("", 7000))
print("up", flush=True)
time.sleep(600)
"""
_PEERS = [{"node": f"h{n}", "vtep": f"198.18.0.{n}", "subnets": [f"10.244.{n}.0/24"]} for n in (1, 2)]


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="packets", description=__doc__)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--plugins", type=Path, default=_REPOSITORY / "dist")
    parser.add_argument("--no-masquerade", action="store_true")
    parser.add_argument(
        "--beside-unguarded", action="store_true", help="compare with ours, without sourceGuard"
    )
    chosen = parser.parse_args(words)
    if os.geteuid() != 0:
        sys.stderr.write("packets: network namespaces need root\n")
        return 1
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cnib-packets-")))
        sender = directory / "packets"
        subprocess.run(["cc", "-O2", "-o", sender, Path(__file__).with_suffix(".c")], check=True)
        masquerade = not chosen.no_masquerade
        ours = _ours(stack, directory, chosen.plugins, masquerade=masquerade)
        bare = {"masquerade": masquerade, "sourceGuard": False}
        theirs = (
            _ours(stack, directory / "bare", chosen.plugins, **bare)
            if chosen.beside_unguarded
            else _by_hand(stack)
        )
        for first, second in (ours, theirs):
            # On a loaded machine the kernel's work queue lets a new port wait for seconds.
            assert any(first.succeeds("ping", "-c1", "-W2", _TARGET) for _ in range(10))
            _sink(stack, second)
        figures = [(_cost(ours[0], sender), _cost(theirs[0], sender)) for _ in range(chosen.rounds)]
    mine, other = (statistics.median(column) for column in zip(*figures, strict=True))
    ratio = statistics.median(one / two for one, two in figures)
    beside = "unguarded" if chosen.beside_unguarded else "by hand"
    sys.stdout.write(f"ours {mine:.0f} ns, {beside} {other:.0f} ns, ratio {ratio:.2f}\n")
    return 0


def _cost(container: Namespace, sender: Path) -> float:
    return float(container.run(str(sender), _TARGET, str(_PORT), _COUNT))


def _sink(stack: ExitStack, container: Namespace) -> None:
    """Start a receiver that reads nothing: the kernel counts and drops what its buffer does not hold."""
    with container.entered():
        receiver = stack.enter_context(
            subprocess.Popen([sys.executable, "-c", _SINK], stdout=subprocess.PIPE)
        )
    stack.callback(receiver.kill)
    assert receiver.stdout is not None
    receiver.stdout.readline()


def _hosts(stack: ExitStack) -> tuple[Namespace, Namespace]:
    """Return two hosts that are neighbours on their eth0."""
    first, second = (_namespace(stack) for _ in range(2))
    first.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", second.path)
    for number, host in enumerate((first, second), 1):
        host.run("ip", "address", "add", f"198.18.0.{number}/24", "dev", "eth0")
        host.run("ip", "link", "set", "eth0", "up")
    return first, second


def _namespace(stack: ExitStack) -> Namespace:
    made = Namespace()
    stack.callback(made.close)
    return made


def _ours(
    stack: ExitStack, directory: Path, plugins: Path, *, masquerade: bool, **keys: Any
) -> tuple[Namespace, Namespace]:
    containers = []
    for number, host in enumerate(_hosts(stack), 1):
        conf: dict[str, Any] = {
            "cniVersion": "1.0.0",
            "name": "packets",
            "type": "vxlan",
            "network": "10.244.0.0/16",
            "ipMasq": masquerade,
            "backend": {"type": "static", "peers": _PEERS},
            "ipam": {"type": "host-local", "dataDir": str(directory / str(number))},
            **keys,
        }
        container = _namespace(stack)
        environment = cni.environment("ADD", netns=container.path, path=plugins)
        with host.entered():
            subprocess.run(
                [plugins / "vxlan"],
                input=json.dumps(conf).encode(),
                env={**environment, "CNI_PLUGINS_AGENT": "", "PATH": os.environ["PATH"]},
                check=True,
                stdout=subprocess.DEVNULL,
            )
        containers.append(container)
    return containers[0], containers[1]


def _by_hand(stack: ExitStack) -> tuple[Namespace, Namespace]:
    containers = []
    for number, host in enumerate(_hosts(stack), 1):
        container, other = _namespace(stack), 3 - number
        host.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        for command in (
            f"link add vx type vxlan id 5 dev eth0 local 198.18.0.{number} dstport 4789 nolearning",
            f"link set vx address 02:00:00:00:00:0{number} up",
            f"address add 10.244.{number}.0/32 dev vx",
            "link add br0 type bridge",
            f"address add 10.244.{number}.1/24 dev br0",
            "link set br0 up",
            f"link add v0 type veth peer name eth0 netns {container.path}",
            "link set v0 master br0 up",
            f"route add 10.244.{other}.0/24 via 10.244.{other}.0 dev vx onlink",
            f"neigh add 10.244.{other}.0 lladdr 02:00:00:00:00:0{other} dev vx nud permanent",
        ):
            host.run("ip", *command.split())
        host.run("bridge", "fdb", "add", f"02:00:00:00:00:0{other}", "dev", "vx", "dst", f"198.18.0.{other}")
        for command in (
            f"address add 10.244.{number}.2/24 dev eth0",
            "link set eth0 mtu 1450 up",
            f"route add default via 10.244.{number}.1",
        ):
            container.run("ip", *command.split())
        containers.append(container)
    return containers[0], containers[1]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
