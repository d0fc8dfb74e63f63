"""What processes take of the memory: PSS, so that a page which several share is counted once in all.

`python -m tests.bench.memory PARENT [-LEFT_OUT …] [EXTRA …]` is the sampler, a process of its own: until its
standard input ends it adds up the descendants of PARENT and the EXTRA processes, then tells the highest sum.
"""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

_PAUSE = 0.01  # seconds between two samples
_REPOSITORY = Path(__file__).resolve().parents[2]


def pss(pid: int) -> float:
    """Megabytes of one process; 0 when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # ESRCH too: it is a zombie
        return 0.0
    return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("Pss:")), 0.0)


class Peak:
    """The highest sum; there when the sampling is over."""

    megabytes = 0.0


@contextlib.contextmanager
def sampled(extra: Iterable[int] = ()) -> Iterator[Peak]:
    """Sample all processes that are started meanwhile, and those `extra`; not those that run already."""
    me, peak = os.getpid(), Peak()
    older = [f"-{pid}" for pid, parent in _parents().items() if parent == me]
    with subprocess.Popen(
        [sys.executable, "-m", "tests.bench.memory", str(me), *older, *map(str, extra)],
        cwd=_REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as sampler:
        assert sampler.stdin is not None
        assert sampler.stdout is not None
        sampler.stdout.readline()
        try:
            yield peak
        finally:
            sampler.stdin.close()
            peak.megabytes = float(sampler.stdout.readline())


def main(words: list[str]) -> None:
    """Sample until standard input ends."""
    numbers = [int(word) for word in words]
    parent, rest = numbers[0], numbers[1:]
    extra = {number for number in rest if number > 0}
    left_out = {-number for number in rest if number < 0} | {os.getpid()}
    peak = 0.0
    os.set_blocking(0, False)
    print("ready", flush=True)
    while not _is_ended():
        peak = max(peak, sum(map(pss, extra | _descendants(parent, left_out))))
        time.sleep(_PAUSE)
    print(peak, flush=True)


def _is_ended() -> bool:
    try:
        return os.read(0, 1) == b""
    except BlockingIOError:
        return False


def _descendants(ancestor: int, left_out: set[int]) -> set[int]:
    """Those of another program than their parent's.

    A child that is started shares its parent's memory until it has become the new program; counted, it
    would be the parent once more.
    """
    parents = _parents()
    children: dict[int, list[int]] = {}
    for pid, parent in parents.items():
        children.setdefault(parent, []).append(pid)
    found: set[int] = set()
    open_ends = [ancestor]
    while open_ends:
        for pid in children.get(open_ends.pop(), []):
            if pid not in left_out:
                open_ends.append(pid)
                found.add(pid)
    return {pid for pid in found if _program(pid) != _program(parents[pid])}


def _parents() -> dict[int, int]:
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with contextlib.suppress(OSError):
                parents[int(name)] = int(Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[1])
    return parents


def _program(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return ""


if __name__ == "__main__":
    main(sys.argv[1:])
