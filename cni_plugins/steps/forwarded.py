"""Defines what a host is to forward, and the step that expects nobody to drop it."""

from typing import NamedTuple

from cni_plugins.steps.step import Step


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


class ExpectForwarded(Step):
    """No filter of another program drops these packets; it is for the administrator to let them through."""

    flows: tuple[Flow, ...]

    kept_because = "changes nothing"
    not_repaired_because = "the rules are another program's"

    def phrase(self) -> str:
        return "look for filters that drop what is forwarded"
