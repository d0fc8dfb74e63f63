"""A D-Bus system bus and firewalld that act on one network namespace, and on nothing else."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.lab.tools import program
from tests.namespaces import Namespace

_BUS = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/><allow own="*"/><allow send_type="method_call"/><allow send_destination="*"/>
    <allow receive_type="method_call"/><allow receive_sender="*"/>
  </policy>
</busconfig>
"""
_ENDING_WITH_US = ("setpriv", "--pdeathsig", "TERM")
# In a mount namespace of its own, /run is empty.
_ALONE = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /run && exec "$0" "$@"')
_PLAIN = ("--nofork", "--nopid", "--log-target", "console")
_PATIENCE = 20.0  # seconds until firewalld answers


class Firewalld:
    """firewalld of one host: started, stopped, asked."""

    def __init__(self, host: Namespace, directory: Path, bus: str) -> None:
        self.bus = bus
        self._host, self._directory = host, directory
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        config = self._directory / "etc"
        config.mkdir(exist_ok=True)
        log = (self._directory / "firewalld.log").open("wb")
        own = (str(program("firewalld")), *_PLAIN, "--system-config", str(config))
        command = (*_ENDING_WITH_US, *_ALONE, *own)
        with self._host.entered(), log:
            self._process = subprocess.Popen(command, env=self._environment, stdout=log, stderr=log)
        deadline = time.monotonic() + _PATIENCE
        while self._ask("--state").returncode != 0:
            assert time.monotonic() < deadline, (self._directory / "firewalld.log").read_text()
            time.sleep(0.1)

    def stop(self) -> None:
        """End it as systemd does: it takes its rules away."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=_PATIENCE)
            self._process = None

    def process(self) -> int:
        """Return its number; to end it, use stop()."""
        assert self._process is not None
        return self._process.pid

    def __call__(self, *words: str) -> str:
        """Return what firewall-cmd says."""
        done = self._ask(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def sources(self, zone: str = "trusted") -> list[str]:
        return sorted(self(f"--zone={zone}", "--list-sources").split())

    def _ask(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = (str(program("firewall-cmd")), *words)
        return subprocess.run(command, env=self._environment, capture_output=True, text=True, check=False)

    @property
    def _environment(self) -> dict[str, str]:
        return {**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": self.bus}


@contextmanager
def bus_and_firewalld(host: Namespace, directory: Path) -> Iterator[Firewalld]:
    """Start the bus, on which firewalld is not yet."""
    socket, config = directory / "bus", directory / "bus.conf"
    config.write_text(_BUS.format(socket=socket))
    words = (str(program("dbus-daemon")), f"--config-file={config}", "--nofork", "--nopidfile", "--nosyslog")
    bus = subprocess.Popen((*_ENDING_WITH_US, *words), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    made = Firewalld(host, directory, f"unix:path={socket}")
    try:
        while not socket.exists():
            assert bus.poll() is None
            time.sleep(0.01)
        yield made
    finally:
        made.stop()
        bus.terminate()
        bus.wait(timeout=_PATIENCE)
