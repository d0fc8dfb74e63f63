"""Receives, validates and answers messages on the agent's socket; input is untrusted until validated here.

A call is one SOCK_SEQPACKET message of texts, each terminated by a NUL: protocol, build, places (namespaces
and root directory), umask, plugin name, and the environment; three descriptors come with it. The other side
is `packaging/handoff.c`, which documents the order of messages.
"""

import fcntl
import os
import re
import socket
import stat
import struct
from collections.abc import Iterable, Iterator
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
_OWN_PLACES = ("/proc/thread-self/ns/net", "/proc/self/ns/mnt", "/proc/self/ns/user", "/")
_PLACES_OF = ("/proc/{0}/ns/net", "/proc/{0}/ns/mnt", "/proc/{0}/ns/user", "/proc/{0}/root")
_SEALED = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK


class CallRefused(Exception):
    """The agent does not serve the call, so the caller runs it itself; `reason` is one of REASONS."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


# Why a call was not served: the caller is of another build, or runs in other namespaces; the message or its
# descriptors are malformed; it runs as another user; it disconnected before the request began.
REASONS = ("build", "place", "message", "descriptors", "user", "left")


class Descriptors(NamedTuple):
    """Descriptors passed with a call; the receiver closes them."""

    stdin: int
    program: int
    directory: int


class Call(NamedTuple):
    """One call of a plugin, with everything its executable would have started from."""

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

    :raises CallRefused: when it is too large, has too many descriptors, or the caller has disconnected.
    :raises OSError: when no message arrives before the timeout.
    """
    data, control, flags, _ = connection.recvmsg(
        LIMIT, socket.CMSG_SPACE(_MOST_DESCRIPTORS * _INT.size), socket.MSG_CMSG_CLOEXEC
    )
    fds = tuple(_passed(control))
    for fd in fds:
        owned.callback(os.close, fd)
    if not data:
        raise CallRefused("left")
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        raise CallRefused("message")
    return data, fds


def _passed(control: list[tuple[int, int, bytes]]) -> Iterator[int]:
    for level, kind, data in control:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            whole = len(data) - len(data) % _INT.size
            yield from (number for (number,) in _INT.iter_unpack(data[:whole]))


def require_own_user(connection: socket.socket) -> int:
    """Return the caller's process id, 0 if it is in another PID namespace.

    :raises CallRefused: when it runs as another user than the agent, which runs as root.
    """
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid, uid, _ = struct.unpack("=iII", credentials)
    if uid != os.geteuid():
        raise CallRefused("user")
    return int(pid)


def places() -> str:
    """Return device and inode numbers that identify the namespaces and the root directory of this process."""
    return _identities(_OWN_PLACES)


def places_of(pid: int) -> str:
    """Return the same of a caller: what it says of itself could be said by a container with the socket.

    :raises CallRefused: when they cannot be looked at, or the caller is gone.
    """
    try:
        return _identities(path.format(pid) for path in _PLACES_OF)
    except (FileNotFoundError, ProcessLookupError) as err:
        raise CallRefused("left" if pid else "place") from err
    except OSError as err:
        raise CallRefused("place") from err


def _identities(paths: Iterable[str]) -> str:
    return " ".join(f"{item.st_dev}:{item.st_ino}" for item in map(os.stat, paths))


def parse(data: bytes, fds: tuple[int, ...], build: str, here: str) -> Call:
    """Return the call in a message.

    :param here: what `places` returns in this process.
    :raises CallRefused: when the message is malformed, or this agent cannot serve the call.
    """
    texts = data.split(b"\0")
    if len(texts) < 6 or texts[0] != CALL or texts[-1]:  # noqa: PLR2004 (five texts, and what follows the last NUL)
        raise CallRefused("message")
    _, own_build, own_places, umask, name, *variables = map(os.fsdecode, texts[:-1])
    if own_build != _BUILD_MARK + build:
        raise CallRefused("build")
    environment = _environment(variables)
    if own_places != here or not _means_the_same(environment.get("CNI_NETNS", "")):
        raise CallRefused("place")
    if not _UMASK.fullmatch(umask):
        raise CallRefused("message")
    return Call(name, environment, int(umask, 8), _checked(fds))


def _environment(variables: list[str]) -> dict[str, str]:
    """If a variable occurs twice the first one counts, as for getenv(3)."""
    found: dict[str, str] = {}
    for variable in variables:
        name, equals, value = variable.partition("=")
        if not name:
            raise CallRefused("message")  # legal, but os.environ cannot hold it
        if equals:
            found.setdefault(name, value)
    return found


def _means_the_same(path: str) -> bool:
    """Say whether a path resolves to the same file in this process as in the caller."""
    if not path:
        return True
    places = (os.path.realpath(path), os.path.realpath(os.path.dirname(path)) + "/")
    own = (f"/proc/{os.getpid()}/", "/dev/")  # /dev has links to the descriptors of the process
    return path.startswith("/") and not any(place.startswith(own) for place in places)


def receive_go(connection: socket.socket, owned: ExitStack) -> int:
    """Wait for the caller's go message; return the descriptor of its stderr.

    :raises CallRefused: when it disconnects instead.
    """
    data, fds = receive(connection, owned)
    if data != GO or len(fds) != 1:
        raise CallRefused("message")
    return fds[0]


def _checked(fds: tuple[int, ...]) -> Descriptors:
    if len(fds) != len(Descriptors._fields):
        raise CallRefused("descriptors")
    found = Descriptors(*fds)
    kept, program, directory = (os.fstat(fd) for fd in found)
    fit = stat.S_ISREG(kept.st_mode) and stat.S_ISREG(program.st_mode) and stat.S_ISDIR(directory.st_mode)
    # Only a sealed memfd can be read without blocking and cannot be changed by the caller meanwhile.
    if not fit or kept.st_size > STDIN_LIMIT + 1 or not _is_sealed(found.stdin):
        raise CallRefused("descriptors")
    return found


def _is_sealed(fd: int) -> bool:
    try:
        return fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _SEALED == _SEALED
    except OSError:  # not a memfd
        return False


def answer(connection: socket.socket, code: int, stdout: bytes, stderr: bytes) -> None:
    """:raises OSError: when the caller is gone, or does not read the answer before the timeout."""
    connection.send(ANSWER.pack(code, len(stdout), len(stderr)))
    text = stdout + stderr
    for start in range(0, len(text), _CHUNK):
        connection.send(text[start : start + _CHUNK])
