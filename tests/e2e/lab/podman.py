"""podman with `network_backend = "cni"` inside a simulated host."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.e2e.lab.host import Completed, Host

CONFIG = """
[containers]
cgroupns = "host"
oom_score_adj = 0
default_ulimits = []
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
[network]
network_backend = "cni"
cni_plugin_dirs = ["/opt/cni/bin"]
network_config_dir = "/etc/cni/net.d"
default_network = "{network}"
"""


@dataclass(frozen=True)
class Podman:
    """The podman command of a host."""

    host: Host

    def __call__(self, *words: str, check: bool = True) -> Completed:
        return self.host.run("podman", *words, check=check)

    def execute(self, container: str, *command: str) -> str:
        """Run COMMAND in the container; its output."""
        return self("exec", container, *command).stdout


def install(host: Host, archive: Path, default_network: str) -> Podman:
    """Configure podman in HOST and load the busybox image."""
    host.write("/etc/containers/containers.conf", CONFIG.format(network=default_network))
    podman = Podman(host)
    podman("load", "-q", "-i", str(archive))
    return podman
