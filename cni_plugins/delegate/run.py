"""Finds another plugin's executable on CNI_PATH and runs it; passes its answers and errors on unchanged."""

import errno
import os
import time
from collections.abc import Callable, Mapping
from typing import BinaryIO

from cni_plugins.errors import (
    BadEnvironment,
    CniError,
    DelegateBroken,
    DelegateFailed,
    InvalidNetworkConfig,
    TryAgainLater,
)
from cni_plugins.protocol import json_text
from cni_plugins.protocol.decode import parse_result
from cni_plugins.protocol.fields import shown
from cni_plugins.protocol.request import Request
from cni_plugins.protocol.result import Result
from cni_plugins.protocol.versions import SUPPORTED

_BUSY_TRIES = 5  # exec fails with ETXTBSY while the file is replaced; the reference waits as long
_LONGEST_NAME = 255  # bytes: NAME_MAX
_BUSY_PAUSE = 1.0  # seconds
_LOOK = 500  # milliseconds between two looks at whether somebody waits
_GRACE = 5.0  # seconds that a plugin has to finish when nobody waits any more
_LONGEST_ANSWER = 1 << 20  # bytes; the same limit as for stdin
_LARGEST_CODE = (1 << 32) - 1  # Go decodes a code into an unsigned number; on 32-bit hosts it has 32 bits

IsWanted = Callable[[], bool]


def _always() -> bool:
    return True


class _NotRun(DelegateBroken):
    """The executable did not start, so it has reserved nothing."""


def find(name: str, path: tuple[str, ...]) -> str:
    """Return the first regular file of this name on the path.

    :raises InvalidNetworkConfig: when there is none, or the name is empty or invalid.
    :raises BadEnvironment: when the path is empty.
    """
    if not name:
        raise InvalidNetworkConfig("no plugin name provided", "ipam.type is empty")
    if "/" in name or "\0" in name or name in (".", "..") or len(name) > _LONGEST_NAME:
        raise InvalidNetworkConfig("invalid plugin name", f"type is {shown(name)}")
    if not path:
        raise BadEnvironment("required env variables [CNI_PATH] missing", f"type is {name}")
    for directory in path:
        candidate = os.path.join(directory, name)
        if os.path.isfile(candidate):
            return candidate
    raise InvalidNetworkConfig(
        f'failed to find plugin "{name}" in path [{" ".join(path)}]', f"type is {name}"
    )


def reserve(executable: str, request: Request, is_wanted: IsWanted = _always) -> Result:
    """Run ADD.

    :param is_wanted: whether somebody still waits for the result; a plugin that hangs is not waited for then.

    :raises DelegateFailed: with the plugin's own error.
    :raises DelegateBroken: when it printed neither a result nor an error.
    """
    try:
        return _answer(executable, request, _run(executable, request, "ADD", is_wanted))
    except _NotRun:
        raise
    except CniError as err:
        # SPEC.md, section 4; it may have reserved addresses that only it knows.
        try:
            _run(executable, request, "DEL", is_wanted)
        except CniError as failure:
            err.add_note(f"the addresses could not be released: {failure.msg}")
        raise


def _answer(executable: str, request: Request, output: bytes) -> Result:
    try:
        document = json_text.load(output)
    except ValueError as err:
        raise DelegateBroken(
            f"{_name(executable)} succeeded but printed no result: {err}",
            f"stdout begins {shown(output[:200])}",
        ) from err
    own = document.get("cniVersion") if isinstance(document, dict) else None
    return parse_result(
        document, own if own in SUPPORTED else request.cni_version, f"result of {_name(executable)}"
    )


def call(executable: str, request: Request, command: str, is_wanted: IsWanted = _always) -> None:
    """Run a command without output.

    :raises DelegateFailed: with the plugin's own error.
    """
    _run(executable, request, command, is_wanted)


def _run(executable: str, request: Request, command: str, is_wanted: IsWanted) -> bytes:
    environment = {**request.environment, "CNI_COMMAND": command}
    for _ in range(_BUSY_TRIES):
        try:
            return _execute(executable, request.stdin, environment, is_wanted)
        except OSError as err:
            if err.errno != errno.ETXTBSY:
                raise _NotRun(f"failed to run {_name(executable)}: {err.strerror}", executable) from err
        time.sleep(_BUSY_PAUSE)
    raise _NotRun(f"failed to run {_name(executable)}: it is being replaced", executable)


def _execute(executable: str, stdin: bytes, environment: Mapping[str, str], is_wanted: IsWanted) -> bytes:
    import subprocess

    # stderr is inherited, so the plugin's messages go to the runtime's log, as with the reference.
    with (
        _file_of(stdin) as given,
        subprocess.Popen([executable], stdin=given, stdout=subprocess.PIPE, env=environment) as process,
    ):
        assert process.stdout is not None  # noqa: S101 (for the type checker)
        output = _output(process.stdout.fileno(), is_wanted)
        if output is None or len(output) > _LONGEST_ANSWER:
            process.kill()
    if output is None:
        raise TryAgainLater(f"{_name(executable)} was stopped: nobody waits for it any more", executable)
    if len(output) > _LONGEST_ANSWER:
        raise DelegateBroken(
            f"{_name(executable)} printed more than {_LONGEST_ANSWER} bytes",
            f"stdout begins {shown(output[:200])}",
        )
    if process.returncode != 0:
        raise _failure(executable, process.returncode, output)
    return output


def _output(pipe: int, is_wanted: IsWanted) -> bytes | None:
    """Read what a plugin prints, up to its limit; return None if it hangs and nobody waits for it."""
    import select

    output, left_at = bytearray(), 0.0
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    while len(output) <= _LONGEST_ANSWER:
        if poll.poll(_LOOK):
            part = os.read(pipe, _LONGEST_ANSWER + 1 - len(output))
            if not part:
                break
            output += part
        elif not is_wanted():
            left_at = left_at or time.monotonic()
            if time.monotonic() - left_at > _GRACE:
                return None
    return bytes(output)


def _file_of(content: bytes) -> BinaryIO:
    """Return an open file with this content: unlike a pipe, it never makes the writer wait."""
    file = open(os.memfd_create("stdin"), "w+b")  # noqa: SIM115 (the caller closes it)
    file.write(content)
    file.seek(0)
    return file


def _failure(executable: str, status: int, output: bytes) -> CniError:
    try:
        document = json_text.load(output)
        code, msg = document["code"], document["msg"]
    except (ValueError, TypeError, KeyError, IndexError):
        return DelegateBroken(
            f"{_name(executable)} failed without an error document",
            f"exit status {status}, stdout begins {shown(output[:200])}",
        )
    details = str(document.get("details", ""))
    if type(code) is int and 0 < code <= _LARGEST_CODE:
        return DelegateFailed(str(msg), details, code)
    return DelegateFailed(str(msg), "; ".join(filter(None, (details, f"code is {shown(code)}"))))


def _name(executable: str) -> str:
    return f"plugin {os.path.basename(executable)}"
