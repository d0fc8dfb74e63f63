"""Counts the leased and free addresses of a network's ranges, for the metrics.

It lists only file names and takes no lock: no request waits for it, and the numbers may be slightly old.
"""

import os
import socket
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from cni_plugins.ipam_hostlocal.config import HostLocal
from cni_plugins.leases.leasefile import is_address
from cni_plugins.leases.ranges import Range


class Usage(NamedTuple):
    """Numbers of leased and free addresses of one range set; gateways count as neither."""

    used: int
    free: int


def usage(config: HostLocal, network: str) -> Usage:
    """Return the numbers of the range set with the fewest free addresses: it decides about the next ADD.

    :raises OSError: when the directory of the network exists and cannot be listed.
    """
    try:
        listed = os.listdir(f"{config.data_dir}/{network}")
    except FileNotFoundError:  # nothing has been leased yet
        listed = []
    names = [name for name in listed if is_address(name)]
    taken = {
        4: _numbers(socket.AF_INET, (name for name in names if ":" not in name)),
        6: _numbers(socket.AF_INET6, (name for name in names if ":" in name)),
    }
    each = ([_usage(item, taken[item.version]) for item in ranges] for ranges in config.sets)
    return min((Usage(*map(sum, zip(*items, strict=True))) for items in each), key=lambda one: one.free)


def _usage(item: Range, taken: Sequence[int]) -> Usage:
    used = _between(taken, item.first, item.last)
    size = item.last - item.first + 1
    if item.first <= item.gateway <= item.last:
        used -= _between(taken, item.gateway, item.gateway)
        size -= 1
    return Usage(used, size - used)


def _between(taken: Sequence[int], first: int, last: int) -> int:
    return bisect_right(taken, last) - bisect_left(taken, first)


def _numbers(family: socket.AddressFamily, names: Iterable[str]) -> list[int]:
    found = set()
    for name in names:
        try:
            found.add(int.from_bytes(socket.inet_pton(family, name), "big"))
        except OSError:  # the name resembles an address but is not one
            continue
    return sorted(found)
