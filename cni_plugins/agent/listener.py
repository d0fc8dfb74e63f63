"""Opens the agent's socket: inherits it from a supervisor or from the previous agent, or creates it."""

import errno
import os
import socket
import stat
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager, suppress
from pathlib import Path

OWN = "cni-plugins-own"  # LISTEN_FDNAMES of a socket that an agent passes to its own successor
_FIRST_FD = 3  # sd_listen_fds(3)
_BACKLOG = 1024  # callers that may wait; the kernel limits it to net.core.somaxconn


class CannotListen(Exception):
    """The agent cannot listen; the message says why."""


class Listener:
    """A listening, non-blocking socket; `own` when the agent has to remove the socket file when it ends."""

    def __init__(self, listening: socket.socket, path: str, *, own: bool) -> None:
        self.socket = listening
        self.own = own
        self._path = path
        self._file = _identity(path)
        listening.settimeout(0)

    def remove(self) -> None:
        """Remove the socket file, unless it has been replaced by that of another agent."""
        if self.own and self._file and _identity(self._path) == self._file:
            os.unlink(self._path)

    def reject_waiting(self) -> None:
        """Close all waiting connections, so that the callers run the request themselves without a delay."""
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
    """Return the agent's socket.

    :param environment: the LISTEN_ variables are removed, so that child processes do not inherit them.
    :raises CannotListen: when another agent listens at the path, or other users can write to its directory.
    """
    pid, count = environment.pop("LISTEN_PID", ""), environment.pop("LISTEN_FDS", "0")
    name = environment.pop("LISTEN_FDNAMES", "")
    if count != "0" and pid in ("", str(os.getpid())):
        return Listener(_inherited(), path, own=name == OWN)
    return Listener(_create(Path(path)), path, own=True)


def _inherited() -> socket.socket:
    try:
        found = socket.socket(fileno=_FIRST_FD)
        kind = (found.family, found.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE))
        listening = found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as err:
        raise CannotListen(
            f"LISTEN_FDS is set, but descriptor {_FIRST_FD} is not a socket: {err.strerror}"
        ) from err
    if kind != (socket.AF_UNIX, socket.SOCK_SEQPACKET) or not listening:
        raise CannotListen("the socket handed over is not one of ListenSequentialPacket=")
    os.set_inheritable(_FIRST_FD, False)  # noqa: FBT003 (that is how it is called)
    return found


@contextmanager
def duplicated_to_fd_3(listening: socket.socket) -> Iterator[None]:
    """Duplicate the socket to descriptor 3, as sd_listen_fds(3) expects, and restore that one afterwards."""
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
    except OSError:  # the descriptor is not open
        return None


def _create(path: Path) -> socket.socket:
    created = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        _require_private(path.parent)
        _remove_stale(path)
        before = os.umask(0o177)
        try:
            created.bind(str(path))
        finally:
            os.umask(before)
        created.listen(_BACKLOG)
    except OSError as err:
        created.close()
        raise CannotListen(f"cannot listen at {path}: {err.strerror or err}") from err
    except CannotListen:
        created.close()
        raise
    return created


def _require_private(directory: Path) -> None:
    """Callers trust the process that listens here, so no other user may be able to replace the socket."""
    directory.mkdir(mode=0o700, exist_ok=True)
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise CannotListen(f"{directory} is not a directory that only this user can write to")


def _remove_stale(path: Path) -> None:
    """Remove a socket that no process listens on any more; leave any other file alone."""
    if os.path.lexists(path) and not stat.S_ISSOCK(path.lstat().st_mode):
        raise CannotListen(f"cannot listen at {path}: it is not a socket")
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
    raise CannotListen(f"another agent listens at {path}")
