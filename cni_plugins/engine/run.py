"""Answers one request: turns environment and stdin into the output for stdout and an exit code."""

import json
import sys
from collections.abc import Callable, Mapping
from typing import NamedTuple

from cni_plugins.engine import registry
from cni_plugins.engine.program import Program
from cni_plugins.errors import CniError, Unsure, foreseen
from cni_plugins.protocol import request as requests
from cni_plugins.protocol.encode import encode
from cni_plugins.protocol.request import Request
from cni_plugins.protocol.versions import LATEST


class Outcome(NamedTuple):
    """Output and exit code for the process edge; `trace` is for stderr, set only for an internal error."""

    stdout: bytes = b""
    code: int = 0
    trace: str = ""


class _Stdin:
    """Reads stdin once and keeps it: error documents have its version, and a call may start over."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self._is_read = False
        self.seen = b""

    def __call__(self, limit: int) -> bytes:
        if not self._is_read:
            self.seen = self._read(limit)
            self._is_read = True
        return self.seen


def run(
    name: str, environment: Mapping[str, str], read_stdin: Callable[[int], bytes], program: Program | None
) -> Outcome:
    """Answer one request to the plugin of this name; errors become error documents."""
    stdin = _Stdin(read_stdin)
    try:
        return _outcome(name, environment, stdin, program)
    except Unsure:
        # Plugins are imported when they are called: the second time on the genuine modules.
        sys.meta_path[-1].forget_lean()  # type: ignore[attr-defined]  # packaging/importer.py
        return _outcome(name, environment, stdin, program)


def _outcome(name: str, environment: Mapping[str, str], stdin: _Stdin, program: Program | None) -> Outcome:
    try:
        request = requests.parse(environment, stdin)
        return Outcome(_answer(name, request, program))
    except CniError as err:
        return Outcome(_document(err, stdin.seen), 1)
    except Exception as err:  # noqa: BLE001 (the one place where an unexpected exception becomes an error document)
        known = foreseen(err)
        return Outcome(_document(known, stdin.seen), 1, _trace(err) if known.code == CniError.code else "")


def _answer(name: str, request: Request, program: Program | None) -> bytes:
    if request.command == "GC" and not request.lists_attachments:
        return b""  # libcni omits the list when it has none, so nothing is known to be stale
    ipam = registry.ipam(name)
    if ipam is None:
        from cni_plugins.engine import lifecycle

        return lifecycle.run(registry.plugin(name), request, program)
    match request.command:
        case "ADD":
            return encode(ipam.reserve(request), request.cni_version)
        case "DEL":
            ipam.release(request)
        case "CHECK":
            ipam.check(request)
        case "GC":
            ipam.gc(request)
        case "STATUS":
            ipam.status(request)
    return b""


def _trace(err: Exception) -> str:
    import traceback

    return "".join(traceback.format_exception(err))


def _document(err: CniError, stdin: bytes) -> bytes:
    version = requests.reported_version(stdin) if stdin else LATEST
    document = {"cniVersion": version, "code": err.code, "msg": err.msg}
    details = err.full_details()
    if details:
        document["details"] = details
    return json.dumps(document, indent=4).encode()
