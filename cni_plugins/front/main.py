"""Runs the process: answers VERSION and the usage line itself, and other commands by the engine."""

import os
import sys

from cni_plugins.front.version import VERSION

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_CONFIG_LIMIT = 1 << 20  # bytes
VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
# What libcni sends (pkg/invoke/exec.go); the import of json would take a third of the time of a VERSION.
_SENT = {f'{{"cniVersion":"{version}"}}'.encode(): version for version in VERSIONS}


def main() -> None:
    """Answer one call and end the process."""
    name = os.path.basename(sys.argv[0])
    command = os.environ.get("CNI_COMMAND", "")
    if not command:
        _write(2, _usage(name))
        _end(0)
    if command == "VERSION":
        listed = ",".join(f'"{version}"' for version in VERSIONS)
        _write(1, f'{{"cniVersion":"{_asked_version()}","supportedVersions":[{listed}]}}\n'.encode())
        _end(0)
    _end(_serve(name))


def _asked_version() -> str:
    """Return the cniVersion on stdin, as SPEC.md wants; the newest when it is none of ours."""
    try:
        conf = b"" if os.isatty(0) else _read(_CONFIG_LIMIT)
        asked = _SENT.get(conf, "")
        if conf and not asked:
            import json

            document = json.loads(conf.removeprefix(_BYTE_ORDER_MARK).decode())
            asked = str(document.get("cniVersion")) if isinstance(document, dict) else ""
    except (OSError, ValueError, RecursionError):
        asked = ""  # the answer depends on nothing else there
    return asked if asked in VERSIONS else VERSIONS[-1]


def _serve(name: str) -> int:
    from cni_plugins.engine.build import BUILD
    from cni_plugins.engine.program import Program
    from cni_plugins.engine.run import run

    program = None
    if getattr(sys, "frozen", False):
        status = os.stat(sys.executable)
        program = Program(status.st_dev, status.st_ino, build=BUILD)
    outcome = run(name, dict(os.environ), _read, program)
    if outcome.trace:
        _write(2, outcome.trace.encode())
    return outcome.code if _write(1, outcome.stdout) else 1


def _usage(name: str) -> bytes:
    return f"CNI {name} plugin {VERSION}\nCNI protocol versions supported: {', '.join(VERSIONS)}\n".encode(
        errors="replace"
    )


def _read(limit: int) -> bytes:
    """Read stdin to its end, but no more than the limit."""
    parts: list[bytes] = []
    while limit > 0 and (part := _read_some(min(limit, 1 << 16))):
        parts.append(part)
        limit -= len(part)
    return b"".join(parts)


def _read_some(limit: int) -> bytes:
    while True:
        try:
            return os.read(0, limit)
        except BlockingIOError:  # a runtime may pass a non-blocking pipe
            import select

            select.select([0], [], [])


def _write(fd: int, data: bytes) -> bool:
    """Write all data and say whether that succeeded; for a usage line or trace, failures are ignored."""
    try:
        while data:
            data = data[os.write(fd, data) :]
    except OSError:
        return False
    return True


def _end(code: int) -> None:
    """Exit without the interpreter's cleanup: everything is closed and nothing is buffered."""
    os._exit(code)


if __name__ == "__main__":
    main()
