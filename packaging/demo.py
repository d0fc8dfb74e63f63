"""Runs `make demo`: attaches two containers with the executables and a real conflist, and detaches them.

It calls the plugins of the chain like a runtime; no runtime is needed, nor any tool except nsenter and
unshare of util-linux. Everything happens in network namespaces that end with this program; the exit code says
whether the plugins had removed everything before that.
"""

import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"


class Namespace:
    """A network namespace, kept alive by a child process."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._holder = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "echo up; exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        if self._holder.stdout is None or not self._holder.stdout.readline():
            sys.exit("make demo: this machine does not permit network namespaces")
        self.path = f"/proc/{self._holder.pid}/ns/net"

    def command(self, *words: str) -> list[str]:
        return ["nsenter", f"--net={self.path}", *words]

    def close(self) -> None:
        self._holder.kill()
        self._holder.wait()


def main(arguments: list[str]) -> int:
    """Run the demo, or with --show and --ping a part of it inside a namespace."""
    match arguments:
        case ["--show"]:
            print(shown())
            return 0
        case ["--ping", address]:
            return ping(address)
    if os.geteuid() != 0:
        print("make demo: must be run as root, or under unshare -rmn", file=sys.stderr)
        return 2
    spaces = [Namespace(name) for name in ("the host", "container a", "container b")]
    try:
        with tempfile.TemporaryDirectory() as leases:
            return demonstrate(spaces[0], spaces[1:], conflist("10-bridge.conflist", leases), Path(leases))
    finally:
        for space in spaces:
            space.close()


def demonstrate(host: Namespace, containers: list[Namespace], network: dict[str, Any], leases: Path) -> int:
    before = state(host, leases)
    title(f"attach both to network {network['name']!r}, through dist/bridge and dist/host-local")
    results = [chain("ADD", host, network, container) for container in containers]
    print(json.dumps(results[0], indent=2))

    title("what the plugins created on the host")
    print(state(host, leases))

    title("from container a, ping container b and the gateway")
    other = results[1]["ips"][0]
    for address in (other["address"].split("/")[0], other["gateway"]):
        inside(containers[0], "--ping", address)

    title("CHECK, then detach both, each twice, as runtimes do")
    for container, result in zip(containers, results, strict=True):
        chain("CHECK", host, network, container, result)
        chain("DEL", host, network, container, result)
        chain("DEL", host, network, container)

    after = state(host, leases)
    title("nothing is left" if after == before else "SOMETHING IS LEFT")
    print(after)
    return int(after != before)


def conflist(name: str, leases: str) -> dict[str, Any]:
    network: dict[str, Any] = json.loads((ROOT / "conf" / name).read_text())
    for plugin in network["plugins"]:
        if "ipam" in plugin:
            plugin["ipam"]["dataDir"] = leases
    return network


def chain(
    command: str,
    host: Namespace,
    network: dict[str, Any],
    container: Namespace,
    result: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Call every plugin of the list, each with the result of the previous one."""
    plugins = network["plugins"] if command != "DEL" else list(reversed(network["plugins"]))
    for plugin in plugins:
        conf = {**plugin, "name": network["name"], "cniVersion": network["cniVersion"]}
        if result is not None:
            conf["prevResult"] = result
        answer = call(command, host, container, conf)
        result = answer if command == "ADD" else result
    return result or {}


def call(command: str, host: Namespace, container: Namespace, conf: dict[str, Any]) -> dict[str, Any]:
    environment = {
        **os.environ,
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": container.name.replace(" ", "-"),
        "CNI_NETNS": container.path,
        "CNI_IFNAME": "eth0",
        "CNI_PATH": str(DIST),
    }
    done = subprocess.run(
        host.command(str(DIST / conf["type"])),
        input=json.dumps(conf).encode(),
        env=environment,
        capture_output=True,
        check=False,
    )
    print(f"{command:5} {conf['type']} for {container.name}: exit {done.returncode}")
    if done.returncode != 0:
        sys.exit(f"{done.stdout.decode()}{done.stderr.decode()}")
    answer: dict[str, Any] = json.loads(done.stdout) if done.stdout else {}
    return answer


def state(host: Namespace, leases: Path) -> str:
    """Return everything that plugins might leave: links, addresses, rules, leases."""
    links = subprocess.run(
        host.command(sys.executable, __file__, "--show"), capture_output=True, text=True, check=True
    ).stdout
    show_rules = Path(__file__).with_name("show_rules.py")
    rules = subprocess.run(
        host.command(sys.executable, str(show_rules)), capture_output=True, text=True, check=True
    ).stdout.strip()
    held = sorted(path.name for path in leases.glob("*/*.*.*.*"))
    return f"{links.strip()}\n{rules}\nleases: {', '.join(held) or 'none'}"


def shown() -> str:
    """List the links of this network namespace, with the suite's own `kernel` package."""
    from cni_plugins.kernel.ip import addresses
    from cni_plugins.kernel.links import links
    from cni_plugins.kernel.session.session import Session
    from cni_plugins.steps.step import HOST

    with Session(None) as session:
        return "\n".join(
            f"{link.name:14} {link.kind or 'device':8} {link.mac} "
            + " ".join(
                str(item.address)
                for item in addresses.on_link(session, HOST, link.ifindex)
                if not item.address.ip.is_link_local
            )
            for link in links.every(session, HOST)
        )


def ping(address: str, count: int = 3) -> int:
    """Send ICMP echo requests (RFC 792), and wait for each reply."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as echo:
        echo.settimeout(2)
        for sequence in range(count):
            head = struct.pack(">BBHHH", 8, 0, 0, os.getpid() & 0xFFFF, sequence)
            began = time.perf_counter()
            echo.sendto(head[:2] + struct.pack(">H", checksum(head)) + head[4:], (address, 0))
            while echo.recv(256)[20] != 0:  # after the IP header: type 0 is the echo reply
                pass
            print(f"answer from {address}: {(time.perf_counter() - began) * 1000:.3f} ms")
    return 0


def checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071) of an even number of bytes."""
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    return ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF


def inside(space: Namespace, *arguments: str) -> None:
    subprocess.run(space.command(sys.executable, __file__, *arguments), check=True)


def title(text: str) -> None:
    print(f"\n== {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
