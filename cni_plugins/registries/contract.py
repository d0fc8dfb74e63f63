"""Defines what a layout of keys must be able to do for one network: ours, or flannel's."""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from cni_plugins.registries.network_registry import Member, Part
from cni_plugins.registries.store import Feed


class Registry(Protocol):
    """One network in a store. Every method raises StoreFailed, and Refused where the keys say so."""

    def follow(self) -> Feed:
        """Follow the records; `records_of` reads what the feed returns."""
        ...

    def records(self) -> dict[str, bytes]:
        """Return all records as they are now, by node."""
        ...

    def is_confirmed(self) -> bool:
        """Say whether a short list can be believed."""
        ...

    def parts(self) -> list[Part]:
        """Return every subnet and block that has an owner."""
        ...

    def live(self) -> frozenset[str]:
        """Return the nodes that are there."""
        ...

    def join(self, me: Member, record: Mapping[str, Any]) -> None:
        """Publish this host's record, which has `vtep`; nothing is written if it is there already."""
        ...

    def claim(self, me: Member, candidates: Iterable[str], wanted: int = 1) -> list[str]:
        """Return subnets or blocks of this host: those it has, and free ones until there are `wanted`."""
        ...

    def own(self, me: Member, cidr: str) -> Member | None:
        """Make this host the owner of a subnet or block; return another host that is."""
        ...

    def disown(self, me: Member, cidr: str) -> None:
        """Give a subnet or block back, if it is this host's."""
        ...

    def release(self, node: str) -> bool:
        """Remove everything of a node, which may be another host; False: there was nothing."""
        ...

    def show_life(self, me: Member, seconds: float) -> None:
        """Say that this host is there, for so long."""
        ...
