"""Put files into directories that a running node uses.

A runtime may start a plugin at any moment, so no name ever points at a file half written: a file is written
under a name no runtime asks for, then linked and renamed over each of its names. What fails because a disk
is full or a source cannot be read fails before the first name is changed.
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
    """One file, and the names in one directory that shall all be hard links of it."""

    directory: Path
    names: tuple[str, ...]
    content: Path | bytes
    mode: int


def place(program: Path, directory: Path, names: Iterable[str]) -> None:
    """Copy `program` into `directory` once, and make every one of `names` a hard link to the copy."""
    put([Batch(directory, tuple(names), program, 0o755)])


def put(batches: Sequence[Batch], before: Callable[[], None] = lambda: None) -> None:
    """Write all files, then change all names.

    :param before: called in between; when it raises, no name is changed
    """
    with ExitStack() as stack:
        written = []
        for batch in batches:
            with _told(batch.directory):
                batch.directory.mkdir(parents=True, exist_ok=True)
                own = stack.enter_context(_workshop(batch.directory))
                _write(own / "copy", batch)
            written.append((batch, own))
        before()
        for batch, own in written:
            for name in batch.names:
                (own / "link").hardlink_to(own / "copy")
                (own / "link").replace(batch.directory / name)
            flush(batch.directory)


@contextmanager
def _told(directory: Path) -> Iterator[None]:
    """Name the directory in what the system says: a full disk names nothing."""
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
    # On disk before a name leads to it: power lost now would boot a node without network.
    flush(copy)


def flush(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def _workshop(directory: Path) -> Iterator[Path]:
    """Make a directory of our own in there, and remove those of installs that were killed.

    What a killed one left is linked with the plugins themselves, so nothing of it may ever be written to.
    """
    for left in directory.glob(f"{PREFIX}*"):
        with suppress(OSError), locked(left):
            shutil.rmtree(left)
    with ExitStack() as stack:
        yield _held(directory, stack)


def _held(directory: Path, stack: ExitStack) -> Path:
    """Another install that sweeps may be faster than our lock: then make another."""
    while True:
        own = Path(tempfile.mkdtemp(prefix=PREFIX, dir=directory))
        with suppress(BlockingIOError, FileNotFoundError):
            if is_at(stack.enter_context(locked(own)), own):
                stack.callback(shutil.rmtree, own, ignore_errors=True)
                return own


@contextmanager
def locked(directory: Path, *, patient: bool = False) -> Iterator[int]:
    """Hold a directory's lock, and give the descriptor that does.

    :raises BlockingIOError: when somebody else holds it, unless patient
    """
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if patient else fcntl.LOCK_NB))
        yield fd
    finally:
        os.close(fd)


def is_at(fd: int, path: Path) -> bool:
    """Whether the path still leads to what was opened."""
    try:
        return os.path.samestat(os.fstat(fd), path.lstat())
    except FileNotFoundError:
        return False
