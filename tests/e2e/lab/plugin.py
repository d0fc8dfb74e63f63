"""Calling plugin executables as a runtime does: CNI_* variables, JSON on stdin."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tests import cni
from tests.cni import Answer
from tests.e2e.lab.host import Host

Json = Mapping[str, Any]
BIN = "/opt/cni/bin"


@dataclass(frozen=True)
class Call:
    """One call of a plugin; `None` in `variables` leaves a variable out."""

    command: str
    conf: Json | bytes
    container: str = "cnie1"
    netns: str = "/run/netns/cnie1"
    ifname: str = "eth0"
    plugin: str | None = None
    variables: Mapping[str, str | None] = field(default_factory=dict)

    def but(self, **changes: Any) -> Call:
        """The same call, with some of it otherwise."""
        return replace(self, **changes)

    @property
    def stdin(self) -> bytes:
        """The configuration as the plugin reads it."""
        return cni.stdin_of(self.conf)

    @property
    def program(self) -> str:
        """The executable: named outright, or the configuration's type."""
        name = self.plugin or (str(self.conf["type"]) if isinstance(self.conf, Mapping) else "bridge")
        return f"{BIN}/{name}"

    @property
    def environment(self) -> dict[str, str]:
        """The CNI_* variables; a call about the network as a whole names no attachment."""
        if self.command in ("GC", "STATUS"):
            return cni.environment(
                self.command, container=None, netns=None, ifname=None, path=BIN, **self.variables
            )
        return cni.environment(
            self.command,
            container=self.container,
            netns=self.netns,
            ifname=self.ifname,
            path=BIN,
            **self.variables,
        )


def start(host: Host, call: Call) -> subprocess.Popen[bytes]:
    """Start a call; its stdin is still to be written (`communicate`)."""
    return subprocess.Popen(
        host.argv(call.program),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=host.environment(call.environment),
        start_new_session=True,
    )


def finish(process: subprocess.Popen[bytes], call: Call, timeout: float = 60) -> Answer:
    """Hand over stdin and wait for the answer."""
    return cni.finish(process, call.conf, timeout)


def run(host: Host, call: Call) -> Answer:
    """One call, start to end."""
    return finish(start(host, call), call)
