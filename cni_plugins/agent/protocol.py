"""What crosses the agent's socket; everything received is hostile until it has been through here.

A call is one SOCK_SEQPACKET message of texts, each ended by a NUL: protocol, build, places, umask, plugin
name, and the environment; with it come three descriptors. `packaging/handoff.c` is the other side, and says
when what is sent.
"""

import fcntl
import os
import re
import socket
import stat
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from typing import NamedTuple

from cni_plugins.protocol.request import STDIN_LIMIT

LIMIT = 1 << 16  # bytes of one message
CALL, STATUS = b"cni-handoff 1", b"cni-status 1"
TAKEN, GO = b"T", b"G"
_BUILD_MARK = "@build-id:"
ANSWER = struct.Struct("=III")  # exit code, bytes for stdout, bytes for stderr
_CHUNK = 32 << 10
_MOST_DESCRIPTORS = 16
_UMASK = re.compile("[0-7]{1,3}")
_INT = struct.Struct("=i")
_PLACES = ("/proc/thread-self/ns/net", "/proc/self/ns/mnt", "/proc/self/ns/user", "/")
_SEALED = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK


class Unfit(Exception):
    """A call that is left to the caller itself; `reason` is one of REASONS."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


# Why a call was not served: the caller is another build, or stands in other namespaces; the message or its
# descriptors are not what a caller of ours sends; it is not our user; it left before it was told to go on.
REASONS = ("build", "place", "message", "descriptors", "user", "left")


class Descriptors(NamedTuple):
    """What a call passes; closed by whoever received it."""

    stdin: int
    program: int
    directory: int


class Call(NamedTuple):
    """One call of a plugin, as its executable would have begun it."""

    name: str
    environment: dict[str, str]
    umask: int
    descriptors: Descriptors

    def read(self, limit: int) -> bytes:
        """Return stdin, or its first `limit` bytes."""
        parts: list[bytes] = []
        offset = 0
        while limit > offset and (part := os.pread(self.descriptors.stdin, limit - offset, offset)):
            parts.append(part)
            offset += len(part)
        return b"".join(parts)


def receive(connection: socket.socket, owned: ExitStack) -> tuple[bytes, tuple[int, ...]]:
    """Return one message and its descriptors, which the stack closes.

    :raises Unfit: when it is too large, has too many descriptors, or somebody else's user sent it.
    :raises OSError: when nothing comes in time.
    """
    data, control, flags, _ = connection.recvmsg(
        LIMIT, socket.CMSG_SPACE(_MOST_DESCRIPTORS * _INT.size), socket.MSG_CMSG_CLOEXEC
    )
    fds = tuple(_passed(control))
    for fd in fds:
        owned.callback(os.close, fd)
    if not data:
        raise Unfit("left")
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        raise Unfit("message")
    return data, fds


def _passed(control: list[tuple[int, int, bytes]]) -> Iterator[int]:
    for level, kind, data in control:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            whole = len(data) - len(data) % _INT.size
            yield from (number for (number,) in _INT.iter_unpack(data[:whole]))


def require_own_user(connection: socket.socket) -> None:
    """:raises Unfit: when the caller is not of our own user, which is root."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    _, uid, _ = struct.unpack("=iII", credentials)
    if uid != os.geteuid():
        raise Unfit("user")


def places() -> str:
    """Return what tells where this process stands: its namespaces and its root directory."""
    stats = [os.stat(path) for path in _PLACES]
    return " ".join(f"{item.st_dev}:{item.st_ino}" for item in stats)


def parse(data: bytes, fds: tuple[int, ...], build: str, here: str) -> Call:
    """Return the call in a message.

    :param here: what `places` says of this process.
    :raises Unfit: when it is not one, or not one for us.
    """
    texts = data.split(b"\0")
    if len(texts) < 6 or texts[0] != CALL or texts[-1]:  # noqa: PLR2004 (five texts, and what follows the last NUL)
        raise Unfit("message")
    _, own_build, own_places, umask, name, *variables = map(os.fsdecode, texts[:-1])
    if own_build != _BUILD_MARK + build:
        raise Unfit("build")
    environment = _environment(variables)
    if own_places != here or not _means_the_same(environment.get("CNI_NETNS", "")):
        raise Unfit("place")
    if not _UMASK.fullmatch(umask):
        raise Unfit("message")
    return Call(name, environment, int(umask, 8), _checked(fds))


def _environment(variables: list[str]) -> dict[str, str]:
    """Of a variable that is there twice the first counts, as for getenv(3)."""
    found: dict[str, str] = {}
    for variable in variables:
        name, equals, value = variable.partition("=")
        if not name:
            raise Unfit("message")  # legal, but no process of ours can be given it
        if equals:
            found.setdefault(name, value)
    return found


def _means_the_same(path: str) -> bool:
    """Say whether a path means in this process what it means in its caller."""
    if not path:
        return True
    places = (os.path.realpath(path), os.path.realpath(os.path.dirname(path)) + "/")
    own = (f"/proc/{os.getpid()}/", "/dev/")  # /dev has links to what a process has open
    return path.startswith("/") and not any(place.startswith(own) for place in places)


def receive_go(connection: socket.socket, owned: ExitStack) -> int:
    """Wait until the caller says go; return its stderr.

    :raises Unfit: when it leaves instead.
    """
    data, fds = receive(connection, owned)
    if data != GO or len(fds) != 1:
        raise Unfit("message")
    return fds[0]


def _checked(fds: tuple[int, ...]) -> Descriptors:
    if len(fds) != len(Descriptors._fields):
        raise Unfit("descriptors")
    found = Descriptors(*fds)
    kept, program, directory = (os.fstat(fd) for fd in found)
    fit = stat.S_ISREG(kept.st_mode) and stat.S_ISREG(program.st_mode) and stat.S_ISDIR(directory.st_mode)
    # Read at once and never changed behind our back: only a sealed memfd promises that.
    if not fit or kept.st_size > STDIN_LIMIT + 1 or not _is_sealed(found.stdin):
        raise Unfit("descriptors")
    return found


def _is_sealed(fd: int) -> bool:
    try:
        return fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _SEALED == _SEALED
    except OSError:  # not a memfd
        return False


def answer(connection: socket.socket, code: int, stdout: bytes, stderr: bytes) -> None:
    """:raises OSError: when the caller is gone, or does not take it in time."""
    connection.send(ANSWER.pack(code, len(stdout), len(stderr)))
    text = stdout + stderr
    for start in range(0, len(text), _CHUNK):
        connection.send(text[start : start + _CHUNK])
