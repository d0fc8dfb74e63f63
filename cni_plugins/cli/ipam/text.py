"""Formats what `cnictl ipam` prints, with pure functions."""

import time
from collections.abc import Iterable, Iterator
from typing import Any

from cni_plugins.cli.text import table
from cni_plugins.keeper.blocks_once import Overview, Owned

_HEAD = ("", "BLOCK", "NODE", "LEASED", "OF", "AGENT")
_UNKNOWN = "-"


def lines(seen: Iterable[Overview]) -> Iterator[str]:
    """Yield a paragraph for each network."""
    for number, one in enumerate(seen):
        if number:
            yield ""
        listed = ", ".join(
            f"{subnet.network} in blocks of /{subnet.length}" for subnet in one.followed.subnets
        )
        yield f"{one.followed.network}: {listed}; {_state(one)}"
        if one.owned:
            yield from table(_HEAD, map(_row, one.owned))


def _state(one: Overview) -> str:
    if one.state is None:
        return "no keeper has been here"
    age = (
        f", confirmed {max(0.0, time.time() - one.state.confirmed):.0f} s ago" if one.state.confirmed else ""
    )
    trouble = f" ({one.state.trouble})" if one.state.trouble else ""
    return f"{one.state.state}{trouble}{age}"


def _row(one: Owned) -> tuple[str, ...]:
    leased = _UNKNOWN if one.leased is None else str(one.leased)
    agent = {None: _UNKNOWN, True: "live", False: "away"}[one.is_live]
    return ("*" if one.is_self else "", one.cidr, one.node, leased, str(one.size), agent)


def document(seen: Iterable[Overview]) -> list[dict[str, Any]]:
    return [
        {
            "network": one.followed.network,
            "file": one.followed.file,
            "subnets": [
                {"subnet": str(subnet.network), "blockLen": subnet.length} for subnet in one.followed.subnets
            ],
            "state": None if one.state is None else one.state._asdict(),
            "owned": [
                {
                    "block": owned.cidr,
                    "node": owned.node,
                    "self": owned.is_self,
                    "size": owned.size,
                    "leased": owned.leased,
                    "live": owned.is_live,
                }
                for owned in one.owned
            ],
            "error": one.error,
        }
        for one in seen
    ]


def faults(seen: Iterable[Overview]) -> Iterator[str]:
    for one in seen:
        if one.error:
            yield f"network {one.followed.network}: {one.error}"
