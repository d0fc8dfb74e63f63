"""Lists of plugins: as they are published, driven by direct calls as libcni does, and what they may leave."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests import cni
from tests.cni import Answer
from tests.e2e.lab.host import Host
from tests.e2e.lab.plugin import BIN
from tests.e2e.lab.state import State, observe

Json = dict[str, Any]

# What `observe` does not ask for: the other rules, qdiscs, settings that are given back, and files.
MORE = """
ip -6 rule
echo =
tc qdisc show | grep -e tbf -e clsact -e ingress
echo =
cd /proc/sys/net/ipv4/conf; grep -Hvx 0 */route_localnet */tag
echo =
find /run/cni -type f 2>/dev/null
true
"""


def look(host: Host) -> State:
    """What `observe` sees, and qdiscs, rules of IPv6, settings and files of chained plugins."""
    answers = host.run("sh", "-c", MORE).stdout.split("=\n")
    names = ("more rules", "qdiscs", "settings", "files")
    more = {name: sorted(answer.splitlines()) for name, answer in zip(names, answers, strict=True)}
    return observe(host) | more


@dataclass(frozen=True)
class Attachment:
    """A container's interface."""

    container: str
    netns: str
    ifname: str = "eth0"
    asked: Mapping[str, Any] = field(default_factory=dict)
    """Values of capabilities, by name."""


@dataclass(frozen=True)
class Chain:
    """A list of plugins on a host, whose executables are called one after the other."""

    host: Host
    conf: Json
    directory: str = BIN
    variables: Mapping[str, str] = field(default_factory=dict)

    def confs(self, asked: Mapping[str, Any] | None = None) -> Iterator[Json]:
        """The config of each plugin; it is given only what it says it is capable of."""
        for plugin in self.conf["plugins"]:
            wanted = {key for key, value in plugin.get("capabilities", {}).items() if value}
            runtime = {key: value for key, value in (asked or {}).items() if key in wanted}
            given = {"runtimeConfig": runtime} if runtime else {}
            yield {"cniVersion": self.conf["cniVersion"], "name": self.conf["name"], **plugin, **given}

    def call(self, command: str, conf: Json, attachment: Attachment | None) -> Answer:
        """One call of one plugin."""
        at = attachment or Attachment("", "")
        variables = cni.environment(
            command,
            container=at.container or None,
            netns=at.netns if attachment else None,
            ifname=at.ifname if attachment else None,
            path=self.directory,
        )
        environment = self.host.environment({**variables, **self.variables})
        return cni.run(self.host.argv(f"{self.directory}/{conf['type']}"), conf, environment)

    def add(self, attachment: Attachment) -> Json:
        """ADD of all; the result of the last."""
        result: Json = {}
        for conf in self.confs(attachment.asked):
            result = self.call("ADD", conf | _given(result), attachment).ok().document
        return result

    def check(self, attachment: Attachment, result: Json) -> None:
        for conf in self.confs(attachment.asked):
            self.call("CHECK", conf | _given(result), attachment).ok()

    def delete(self, attachment: Attachment, result: Json | None = None) -> None:
        """DEL of all, the last first."""
        for conf in reversed(list(self.confs(attachment.asked))):
            self.call("DEL", conf | _given(result), attachment).ok()

    def collect(self, living: Sequence[Attachment]) -> None:
        """GC of all."""
        valid = [{"containerID": at.container, "ifname": at.ifname} for at in living]
        for conf in self.confs():
            self.call("GC", conf | {"cni.dev/valid-attachments": valid}, None).ok()

    def ready(self) -> None:
        """STATUS of all."""
        for conf in self.confs():
            self.call("STATUS", conf, None).ok()

    def install(self) -> None:
        """Put it where runtimes look, alone."""
        for old in self.host.path("/etc/cni/net.d").glob("*"):
            old.unlink()
        self.host.write(f"/etc/cni/net.d/10-{self.conf['name']}.conflist", json.dumps(self.conf))


def _given(result: Json | None) -> Json:
    return {"prevResult": result} if result else {}


def published(port: str) -> Json:
    """The mapping for `[address:]port:port/protocol`, as a value of the capability portMappings."""
    ports, _, protocol = port.partition("/")
    *address, outer, inner = ports.rsplit(":", 2)
    mapping = {"hostPort": int(outer), "containerPort": int(inner), "protocol": protocol or "tcp"}
    return mapping | ({"hostIP": address[0]} if address else {})


def netns_of_host(host: Host) -> Path:
    return Path(f"/proc/{host.anchor}/ns/net")


# ----------------------------------------------------------------------------------------------- as published

PORTMAP: Json = {"type": "portmap", "capabilities": {"portMappings": True}}
BANDWIDTH: Json = {"type": "bandwidth", "capabilities": {"bandwidth": True}}

# kubernetes-sigs/kind, images/kindnetd: what a node with both IP versions is given.
KIND: Json = {
    "cniVersion": "0.3.1",
    "name": "kindnet",
    "plugins": [
        {
            "type": "ptp",
            "ipMasq": False,
            "ipam": {
                "type": "host-local",
                "dataDir": "/run/cni-ipam-state",
                "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
                "ranges": [[{"subnet": "10.244.0.0/24"}], [{"subnet": "fd00:10:244::/64"}]],
            },
            "mtu": 1500,
        },
        PORTMAP,
    ],
}
# k3s-io/k3s, pkg/agent/flannel, with the config that flannel's plugin hands to bridge in place of its own.
K3S: Json = {
    "cniVersion": "1.0.0",
    "name": "cbr0",
    "plugins": [
        {
            "type": "bridge",
            "hairpinMode": True,
            "forceAddress": True,
            "isDefaultGateway": True,
            "ipMasq": False,
            "isGateway": True,
            "mtu": 1450,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": "10.42.0.0/24"}]],
                "routes": [{"dst": "10.42.0.0/16"}],
            },
        },
        PORTMAP,
        BANDWIDTH,
    ],
}
# hashicorp/nomad, client/allocrunner/cni: its bridge network, with both IP versions.
NOMAD: Json = {
    "cniVersion": "0.4.0",
    "name": "nomad",
    "plugins": [
        {"type": "loopback"},
        {
            "type": "bridge",
            "bridge": "nomad",
            "ipMasq": True,
            "isGateway": True,
            "forceAddress": True,
            "hairpinMode": True,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": "172.26.64.0/20"}], [{"subnet": "fd00:a110:c8::/112"}]],
                "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
            },
        },
        {"type": "firewall", "backend": "iptables", "iptablesAdminChainName": "NOMAD-ADMIN"},
        {**PORTMAP, "snat": True},
    ],
}
# What a distribution that brings its own bridge makes of a Kubernetes node with the whole chain.
KUBERNETES: Json = {
    "cniVersion": "1.0.0",
    "name": "k8s",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "k8sbr0",
            "isDefaultGateway": True,
            "hairpinMode": True,
            "ipMasq": True,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": "10.85.0.0/24"}], [{"subnet": "fd00:85::/64"}]],
                "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
            },
        },
        {**PORTMAP, "snat": True},
        BANDWIDTH,
        {"type": "firewall"},
        {"type": "tuning", "sysctl": {"net.core.somaxconn": "500"}},
        {"type": "sbr"},
    ],
}
# k3s with an overlay of ours in place of flannel's.
OVERLAY: Json = {
    "cniVersion": "1.0.0",
    "name": "overlay",
    "plugins": [
        {
            "type": "vxlan",
            "network": "10.52.0.0/16",
            "ipMasq": True,
            "hairpinMode": True,
            "backend": {
                "type": "static",
                "peers": [
                    {"node": "h1", "vtep": "192.0.2.1", "subnet": "10.52.0.0/24"},
                    {"node": "h2", "vtep": "192.0.2.2", "subnet": "10.52.1.0/24"},
                ],
            },
        },
        PORTMAP,
        BANDWIDTH,
    ],
}
