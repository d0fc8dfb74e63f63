"""Calling plugin executables as a runtime does: CNI_* variables, JSON on stdin."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tests.e2e.lab.host import Host

Json = Mapping[str, Any]
BIN = "/opt/cni/bin"


@dataclass(frozen=True)
class Answer:
    """What one call gave back."""

    code: int
    out: bytes
    err: bytes

    @property
    def document(self) -> dict[str, Any]:
        """The one JSON document on stdout; anything before or after it is a failure."""
        document = json.loads(self.out)
        assert isinstance(document, dict), self
        return document

    @property
    def addresses(self) -> list[str]:
        """The addresses of a result, without their prefix length."""
        return [ip["address"].split("/")[0] for ip in self.document["ips"]]

    def ok(self) -> Answer:
        """Itself, if the call succeeded."""
        assert self.code == 0, self
        return self


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
        return self.conf if isinstance(self.conf, bytes) else json.dumps(self.conf).encode()

    @property
    def program(self) -> str:
        """The executable: named outright, or the configuration's type."""
        name = self.plugin or (str(self.conf["type"]) if isinstance(self.conf, Mapping) else "bridge")
        return f"{BIN}/{name}"

    @property
    def environment(self) -> dict[str, str]:
        """The CNI_* variables; a call about the network as a whole names no attachment."""
        usual: dict[str, str | None] = {"CNI_COMMAND": self.command, "CNI_PATH": BIN}
        if self.command not in ("GC", "STATUS"):
            usual["CNI_CONTAINERID"] = self.container
            usual["CNI_NETNS"] = self.netns
            usual["CNI_IFNAME"] = self.ifname
        return {name: value for name, value in {**usual, **self.variables}.items() if value is not None}


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
    try:
        out, err = process.communicate(call.stdin, timeout=timeout)
    except BaseException:
        process.kill()
        process.communicate()
        raise
    return Answer(process.returncode, out, err)


def run(host: Host, call: Call) -> Answer:
    """One call, start to end."""
    return finish(start(host, call), call)
