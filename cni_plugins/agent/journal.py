"""Formats a finished request as a line for the journal and the status, and writes journal lines to stderr."""

import json
import os
import select
from collections.abc import Mapping
from typing import Any, NamedTuple

from cni_plugins.agent.protocol import Call
from cni_plugins.engine.run import Outcome
from cni_plugins.protocol import json_text

_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.:/_-+@")
_LINE = 4000  # bytes; a pipe that is ready for writing takes PIPE_BUF, 4096, without waiting
_LONGEST = 128  # characters of one value: names come from callers
_LONGEST_TEXT = 2000  # characters of a text of ours


class ServedRequest(NamedTuple):
    """One request that was served; `seconds` from its arrival to its answer."""

    plugin: str
    command: str
    network: str
    container: str
    ifname: str
    code: int
    text: str
    seconds: float

    def line(self) -> str:
        """Return the request as one line of key=value pairs; values that could break the line are quoted."""
        pairs = {
            "network": self.network,
            "container": self.container,
            "ifname": self.ifname,
            "plugin": self.plugin,
            "command": self.command,
            "ms": f"{self.seconds * 1000:.1f}",
            "code": str(self.code),
            "msg": self.text,
        }
        return pairs_line(pairs)


def pairs_line(pairs: Mapping[str, str], text: str = "") -> str:
    """Return one line of key=value pairs, without those that have no value.

    :param text: the value of a last pair, `what`.
    """
    words = [f"{key}={_quoted(value[:_LONGEST])}" for key, value in pairs.items() if value]
    return " ".join([*words, f"what={_quoted(text[:_LONGEST_TEXT])}"] if text else words)


def record(call: Call, outcome: Outcome, seconds: float) -> ServedRequest:
    """Return the record of a finished request; the code is that of the error document, 0 for success."""
    document = _object(outcome.stdout) if outcome.code else {}
    code = document.get("code")
    environment = call.environment
    return ServedRequest(
        plugin=call.name,
        command=environment.get("CNI_COMMAND", ""),
        network=_text(_object(call.read(1 << 20)).get("name")),
        container=environment.get("CNI_CONTAINERID", ""),
        ifname=environment.get("CNI_IFNAME", ""),
        code=code if isinstance(code, int) else outcome.code,
        text=_text(document.get("msg")),
        seconds=seconds,
    )


def _object(data: bytes) -> dict[str, Any]:
    try:
        found = json_text.load(data)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _quoted(value: str) -> str:
    return value if _PLAIN.issuperset(value) else json.dumps(value)


class Journal:
    """Writes log lines to stderr; when the reader has stopped reading, it drops lines and never blocks."""

    def __init__(self, fd: int, *, prioritised: bool) -> None:
        self._fd = fd
        self._prioritised = prioritised
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)

    def note(self, text: str) -> None:
        self._write("<6>", text)

    def warn(self, text: str) -> None:
        self._write("<4>", text)

    def _write(self, priority: str, text: str) -> None:
        """Write each line, with a priority prefix of sd-daemon(3) if stderr is connected to the journal."""
        head = priority if self._prioritised else ""
        try:
            for line in text.splitlines():
                if not self._poll.poll(0):
                    return
                os.write(self._fd, f"{head}{line}"[:_LINE].encode(errors="backslashreplace")[:_LINE] + b"\n")
        except OSError:  # the reader is gone
            pass
