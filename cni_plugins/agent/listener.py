"""The agent's socket: handed over by a supervisor or by the agent that this one replaces, or created here."""

import errno
import os
import socket
import stat
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager, suppress
from pathlib import Path

OWN = "cni-plugins-own"  # LISTEN_FDNAMES of what we hand over to ourselves
_FIRST_FD = 3  # sd_listen_fds(3)
_BACKLOG = 1024  # callers that may wait; the kernel cuts it to net.core.somaxconn


class Unusable(Exception):
    """The agent cannot listen; the message says why."""


class Listener:
    """The socket, listening and not blocking; `own` when the file is ours to remove in the end."""

    def __init__(self, listening: socket.socket, path: str, *, own: bool) -> None:
        self.socket = listening
        self.own = own
        self._path = path
        self._file = _identity(path)
        listening.settimeout(0)

    def remove(self) -> None:
        """Remove the file, unless it is no longer ours: somebody may have put another agent's there."""
        if self.own and self._file and _identity(self._path) == self._file:
            os.unlink(self._path)

    def send_away(self) -> None:
        """Hang up on all who wait: they go cold at once."""
        with suppress(OSError):
            while True:
                self.socket.accept()[0].close()


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def open_listener(path: str, environment: MutableMapping[str, str]) -> Listener:
    """Return the socket.

    :param environment: what is said in it of descriptors is taken out, as they are not for our children.
    :raises Unusable: when another agent listens there, or somebody else could.
    """
    pid, count = environment.pop("LISTEN_PID", ""), environment.pop("LISTEN_FDS", "0")
    name = environment.pop("LISTEN_FDNAMES", "")
    if count != "0" and pid in ("", str(os.getpid())):
        return Listener(_handed_over(), path, own=name == OWN)
    return Listener(_made(Path(path)), path, own=True)


def _handed_over() -> socket.socket:
    try:
        found = socket.socket(fileno=_FIRST_FD)
        kind = (found.family, found.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE))
        listening = found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as err:
        raise Unusable(f"LISTEN_FDS is set, but descriptor {_FIRST_FD} is no socket: {err.strerror}") from err
    if kind != (socket.AF_UNIX, socket.SOCK_SEQPACKET) or not listening:
        raise Unusable("the socket handed over is not one of ListenSequentialPacket=")
    os.set_inheritable(_FIRST_FD, False)  # noqa: FBT003 (that is how it is called)
    return found


@contextmanager
def in_its_place(listening: socket.socket) -> Iterator[None]:
    """Have the socket where a program looks that is handed one; what stood there returns afterwards."""
    own = listening.fileno()
    before = None if own == _FIRST_FD else _duplicate(_FIRST_FD)
    if own != _FIRST_FD:
        os.dup2(own, _FIRST_FD)
    os.set_inheritable(_FIRST_FD, True)  # noqa: FBT003 (that is how it is called)
    try:
        yield
    finally:
        if before is not None:
            os.dup2(before, _FIRST_FD, inheritable=False)
            os.close(before)
        elif own == _FIRST_FD:
            os.set_inheritable(_FIRST_FD, False)  # noqa: FBT003 (likewise)
        else:
            os.close(_FIRST_FD)


def _duplicate(fd: int) -> int | None:
    try:
        return os.dup(fd)
    except OSError:  # nothing there
        return None


def _made(path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        _require_private(path.parent)
        _clear(path)
        before = os.umask(0o177)
        try:
            made.bind(str(path))
        finally:
            os.umask(before)
        made.listen(_BACKLOG)
    except OSError as err:
        made.close()
        raise Unusable(f"cannot listen at {path}: {err.strerror or err}") from err
    except Unusable:
        made.close()
        raise
    return made


def _require_private(directory: Path) -> None:
    """Callers believe whoever listens here, so nobody else may be able to put a socket in its place."""
    directory.mkdir(mode=0o700, exist_ok=True)
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise Unusable(f"{directory} is not a directory that only this user can write to")


def _clear(path: Path) -> None:
    """Remove a socket that nobody listens on any more, and nothing else."""
    if os.path.lexists(path) and not stat.S_ISSOCK(path.lstat().st_mode):
        raise Unusable(f"cannot listen at {path}: it is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        try:
            probe.settimeout(1)
            probe.connect(str(path))
        except FileNotFoundError:
            return
        except OSError as err:
            if err.errno != errno.ECONNREFUSED:
                raise
            path.unlink(missing_ok=True)
            return
    raise Unusable(f"another agent listens at {path}")
