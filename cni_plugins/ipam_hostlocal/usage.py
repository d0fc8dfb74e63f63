"""How much of a network's ranges is leased, for whoever watches it.

Only names are read, and no lock is taken: nobody waits for an observer, and the figure may be an instant old.
"""

import os
import socket
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from cni_plugins.ipam_hostlocal.config import HostLocal
from cni_plugins.ipam_hostlocal.leasefile import is_address
from cni_plugins.ipam_hostlocal.ranges import Range


class Usage(NamedTuple):
    """Addresses of one range set, leased and not; gateways are neither."""

    used: int
    free: int


def usage(config: HostLocal, network: str) -> Usage:
    """Return the figures of the range set with the fewest free addresses: it decides about the next ADD.

    :raises OSError: when the directory of the network is there and cannot be listed.
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
        except OSError:  # looks like an address and is none
            continue
    return sorted(found)
