"""containerd with runc inside a simulated host, at its default paths, the busybox image loaded."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.lab import image
from tests.e2e.lab.host import Host

CONFIG = f"""
version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{image.NAME}"
  disable_tcp_service = true
  # Without CAP_SYS_RESOURCE the sandbox's oom_score_adj of -998 would be refused.
  restrict_oom_score_adj = true
"""
SOCKET = "/run/containerd/containerd.sock"


@contextmanager
def running(host: Host, archive: Path, log: Path) -> Iterator[None]:
    """Run containerd in HOST; the host must be one for runtimes."""
    host.write("/etc/containerd/config.toml", CONFIG)
    with log.open("wb") as output, host.start("containerd", log=output) as daemon:
        try:
            _wait_until_it_answers(host, daemon, log)
            for namespace in ("default", "k8s.io"):
                host.run("ctr", "-n", namespace, "images", "import", str(archive))
            yield
        finally:
            daemon.kill()  # the entering process; containerd itself ends with the host


def _wait_until_it_answers(host: Host, daemon: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(200):
        if host.run("ctr", "version", check=False).returncode == 0:
            return
        assert daemon.poll() is None, log.read_text()
        time.sleep(0.1)
    raise AssertionError(f"containerd does not answer: {log.read_text()}")
