"""Chained plugins beside the reference's: calls, podman's whole chain, packets, repairs; as root.

`python -m tests.bench.chain [--rounds N] [--containers N] [--ports N] [--only NAME …]` prints the tables of
docs/benchmarks.md, "Chained plugins". Each suite and backend has a node of its own. Columns alternate from
one container to the next; ratios are to the faster reference of the row.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable

from tests.bench import chain_lives, chain_packets, chain_repair
from tests.differential import reference

LIVES = {life.name: life for life in chain_lives.ALL}
PACKETS, REPAIR = "packets", "repair"


def main(words: list[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="chain", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--containers", type=int, default=200, help="that are there already, or are repaired")
    parser.add_argument("--ports", type=int, default=1000, help="that are published in the end")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=[*LIVES, PACKETS, REPAIR])
    chosen = parser.parse_args(words)
    if os.geteuid() != 0:
        sys.stderr.write("chain: network namespaces need root\n")
        return 1
    reference.fetch((*reference.PROGRAMS, *chain_lives.CHAINED))
    names = chosen.only or [*LIVES, PACKETS, REPAIR]
    lives = [life for name, life in LIVES.items() if name in names]
    if lives:
        _show("calls", lambda: chain_lives.tables(lives, chosen.rounds, chosen.containers))
    if PACKETS in names:
        _show(PACKETS, lambda: chain_packets.table(chosen.rounds, chosen.ports))
    if REPAIR in names:
        _show(REPAIR, lambda: chain_repair.table(chosen.rounds, chosen.containers))
    return 0


def _show(name: str, table: Callable[[], str]) -> None:
    begun = time.monotonic()
    print(table(), end="\n\n", flush=True)
    sys.stderr.write(f"chain: {name}, {time.monotonic() - begun:.1f} s\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
