"""Chained plugins beside the reference's: calls, podman's whole chain, packets, repairs; as root.

`python -m tests.bench.chain [--rounds N] [--containers N] [--only NAME …]` prints the tables of
docs/benchmarks.md, "Chained plugins". Each suite and backend has a node of its own. Columns alternate from
one container to the next; ratios are to the faster reference of the row.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Iterator

from tests.bench import chain_lives, chain_packets, chain_repair
from tests.differential import reference

LIVES = {life.name: life for life in chain_lives.ALL}
OTHERS = {"packets": chain_packets.table, "repair": chain_repair.table}


def main(words: list[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="chain", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--containers", type=int, default=200, help="that are there already, or are repaired")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=[*LIVES, *OTHERS])
    chosen = parser.parse_args(words)
    if os.geteuid() != 0:
        sys.stderr.write("chain: network namespaces need root\n")
        return 1
    reference.fetch((*reference.PROGRAMS, *chain_lives.CHAINED))
    lives = [life for name, life in LIVES.items() if name in (chosen.only or LIVES)]
    if lives:
        with _told("calls"):
            print(chain_lives.tables(lives, chosen.rounds, chosen.containers), end="\n\n")
    for name, table in OTHERS.items():
        if name in (chosen.only or OTHERS):
            with _told(name):
                print(table(chosen.rounds, chosen.containers), end="\n\n")
    return 0


@contextlib.contextmanager
def _told(name: str) -> Iterator[None]:
    begun = time.monotonic()
    yield
    sys.stderr.write(f"chain: {name}, {time.monotonic() - begun:.1f} s\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
