"""Replaces files in directories that a running node uses.

A runtime may start a plugin at any moment, so no name ever refers to a half-written file: the file is written
in a directory of its own, then linked and renamed over each of its names. A full disk or an unreadable source
is an error before the first name is changed.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

PREFIX = ".cni-plugins-"


class Batch(NamedTuple):
    """One file, and the names in one directory that are to be hard links of it."""

    directory: Path
    names: tuple[str, ...]
    content: Path | bytes
    mode: int


def place(program: Path, directory: Path, names: Iterable[str]) -> None:
    """Copy `program` into `directory` once, and make every one of `names` a hard link to the copy."""
    put([Batch(directory, tuple(names), program, 0o755)])


def put(batches: Sequence[Batch], before: Callable[[], None] = lambda: None) -> None:
    """Write all files, then replace all names.

    :param before: called in between; if it raises, no name is replaced
    """
    with ExitStack() as stack:
        written = []
        for batch in batches:
            with _with_directory(batch.directory):
                batch.directory.mkdir(parents=True, exist_ok=True)
                own = stack.enter_context(_work_directory(batch.directory))
                _write(own / "copy", batch)
            written.append((batch, own))
        before()
        for batch, own in written:
            for name in batch.names:
                (own / "link").hardlink_to(own / "copy")
                (own / "link").replace(batch.directory / name)
            flush(batch.directory)


@contextmanager
def _with_directory(directory: Path) -> Iterator[None]:
    """Add the directory to an OSError: that of a full disk names no file."""
    try:
        yield
    except OSError as err:
        raise OSError(err.errno, err.strerror, str(directory)) from err


def _write(copy: Path, batch: Batch) -> None:
    if isinstance(batch.content, bytes):
        copy.write_bytes(batch.content)
    else:
        shutil.copyfile(batch.content, copy)
    copy.chmod(batch.mode)
    # On disk before a name refers to it: after a power failure the node would boot without a network.
    flush(copy)


def flush(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def _work_directory(directory: Path) -> Iterator[Path]:
    """Create a work directory in there, and remove those of installs that were killed.

    Files left by a killed install may be hard links of the plugins in use, so they must never be written to.
    """
    for left in directory.glob(f"{PREFIX}*"):
        with suppress(OSError), locked(left):
            shutil.rmtree(left)
    with ExitStack() as stack:
        yield _create_work_directory(directory, stack)


def _create_work_directory(directory: Path, stack: ExitStack) -> Path:
    """Create and lock a work directory; create another if a concurrent install removes it before the lock."""
    while True:
        own = Path(tempfile.mkdtemp(prefix=PREFIX, dir=directory))
        with suppress(BlockingIOError, FileNotFoundError):
            if is_at(stack.enter_context(locked(own)), own):
                stack.callback(shutil.rmtree, own, ignore_errors=True)
                return own


@contextmanager
def locked(directory: Path, *, patient: bool = False) -> Iterator[int]:
    """Lock a directory, and yield the descriptor that holds the lock.

    :raises BlockingIOError: when another process holds it, unless patient
    """
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if patient else fcntl.LOCK_NB))
        yield fd
    finally:
        os.close(fd)


def is_at(fd: int, path: Path) -> bool:
    """Say whether the path still refers to the open file."""
    try:
        return os.path.samestat(os.fstat(fd), path.lstat())
    except FileNotFoundError:
        return False
