"""Describes packets that a host forwards."""

from typing import NamedTuple


class Flow(NamedTuple):
    """Packets that are forwarded from one link to another.

    :param leaves: empty: any link but those of the network.
    :param inside: the network's link that rules for it would name.
    :param bridged: whether they are frames between ports of `enters`, which filters of IP packets meet only
        if br_netfilter is on.
    """

    enters: str
    leaves: str
    versions: tuple[int, ...]
    inside: str
    bridged: bool = False
