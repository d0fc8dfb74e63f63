"""
Nodes that speak BGP: simulated hosts on one switch, each with a zebra and a bgpd of FRR.

No service is started: the daemons are the test's own processes, and the paths they use are private
to the host. They are configured with conf/frr-routed.conf, the example of docs/routed.md.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tests.e2e.lab.agent import wait_for
from tests.e2e.lab.host import Host, raise_host
from tests.e2e.lab.tools import REPOSITORY

EXAMPLE = REPOSITORY / "conf/frr-routed.conf"
NODES = 3
UNDERLAY = "192.0.2."
FAMILIES = ("ipv4Unicast", "ipv6Unicast")
SECONDS = 10.0
RUN = "/run/frr"
# From FRR 9 on mgmtd has a part of the configuration; 8 has none.
DAEMONS = [path for path in map(Path("/usr/lib/frr").joinpath, ("mgmtd", "zebra", "bgpd")) if path.exists()]


@dataclass
class Node:
    """One of the hosts: 192.0.2.NUMBER and 2001:db8::NUMBER on its `uplink`."""

    number: int
    host: Host
    daemons: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"{UNDERLAY}{self.number}"

    def configure(self) -> None:
        """Give it addresses, and the example as its configuration; forwarding is left to the plugin."""
        self.host.run(
            "sh",
            "-euc",
            f"""
            ip addr add {self.address}/24 dev uplink
            ip addr add 2001:db8::{self.number}/64 dev uplink nodad
            ip link set uplink up
            sed -i 's/^frrvty:.*:/&root,/' /etc/group
            mkdir {RUN}
            """,
        )
        self.host.write("/etc/frr/frr.conf", example(self.number))

    def start(self) -> None:
        """
        Start the daemons one after the other and have them read the configuration, as FRR's own start does.

        A bgpd that finds no zebra tries again after 10 s. They stay root: whatever becomes of this test run,
        the kernel ends them, which it does not once they change to FRR's own user.
        """
        for path in DAEMONS:
            command = ("setpriv", "--pdeathsig", "KILL", str(path), "-u", "root", "-g", "root", "-P", "0")
            with self.host.path(f"{RUN}/{path.name}.log").open("ab") as log:
                self.daemons.append(self.host.start(*command, "--log", "stdout", log=log))
            wait_for(f"{path.name} of node {self.number}", partial(self.answers, path), SECONDS)
        self.host.run("vtysh", "-b")

    def answers(self, daemon: Path) -> bool:
        ask = ("vtysh", "-d", daemon.name, "-c", "show version")
        return self.host.run(*ask, check=False).returncode == 0

    def stop(self) -> None:
        """End the daemons; their routes and sockets go with them."""
        for daemon in self.daemons:
            daemon.terminate()
        for daemon in self.daemons:
            try:
                daemon.wait(SECONDS)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        self.daemons.clear()

    def is_connected(self) -> bool:
        """Whether it has a session with every other node, for both families."""
        summary = json.loads(self.host.run("vtysh", "-c", "show bgp summary json").stdout)
        states = [
            peer["state"] for family in FAMILIES for peer in summary.get(family, {}).get("peers", {}).values()
        ]
        return states == ["Established"] * len(FAMILIES) * (NODES - 1)

    def learned(self) -> set[str]:
        """The destinations of the routes that BGP has put into its kernel."""
        show = "ip -j -4 route show proto bgp; echo; ip -j -6 route show proto bgp"
        answers = self.host.run("sh", "-c", show).stdout.split("\n")
        return {route["dst"] for answer in answers if answer for route in json.loads(answer)}


def example(number: int) -> str:
    """The example is node 1's: another's has the two addresses changed round."""
    other = {"1": str(number), str(number): "1"}
    return re.sub(
        rf"(?<={re.escape(UNDERLAY)})\d+", lambda found: other.get(found[0], found[0]), EXAMPLE.read_text()
    )


@contextmanager
def raise_nodes(plugins: Path) -> Iterator[list[Node]]:
    """Bring up nodes that know each other."""
    with ExitStack() as stack:
        switch = stack.enter_context(raise_host(plugins))
        switch.run("ip", "link", "add", "cnirsw", "up", "type", "bridge")
        nodes = [Node(number, stack.enter_context(raise_host(plugins))) for number in range(1, NODES + 1)]
        for node in nodes:
            port = ("name", f"cnir{node.number}", "master", "cnirsw", "up")
            uplink = ("name", "uplink", "netns", str(node.host.anchor))
            switch.run("ip", "link", "add", *port, "type", "veth", "peer", *uplink)
            node.configure()
            stack.callback(node.stop)
            node.start()
        wait_for("the BGP sessions", lambda: all(node.is_connected() for node in nodes))
        yield nodes
