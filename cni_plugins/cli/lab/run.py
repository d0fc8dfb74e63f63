"""Runs the commands of `cnictl lab`, and prints their progress, or one JSON document at the end."""

import json
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import typer

from cni_plugins.cli.failure import Failed
from cni_plugins.cli.lab import build, text
from cni_plugins.cli.lab import ping as pings
from cni_plugins.cli.lab.build import BuildOrder
from cni_plugins.cli.lab.files import DIRECTORY, Place, read_order

Made = TypeVar("Made")


def up(order: BuildOrder, *, keep: bool, as_json: bool) -> bool:
    """Build the lab and ping; on any error it is removed again.

    Return whether all pings were answered and, unless the lab is kept, its removal left nothing.
    """
    say = _print_nothing if as_json else typer.echo
    try:
        document = _build(order, say)
    except BaseException:
        typer.echo("taking the incomplete lab down", err=True)
        build.take_down(order.place)
        raise
    is_clean = keep or down(order.place, say)
    if as_json:
        _print_json(document)
    elif keep:
        inside = f"ip netns exec {order.lab.hosts[0].netns} …"
        say(f"\ninspect it with `{inside}`, remove it with {_how_to_remove(order.place)}")
    return bool(document["answers"]["whole"]) and is_clean


def _build(order: BuildOrder, say: Callable[[str], Any]) -> dict[str, Any]:
    say(text.head(order.lab))
    build.write_files(order)
    _, building = _timed(lambda: build.build_underlay(order.lab))
    say(text.built(building))
    made, attaching = _timed(lambda: build.attach(order))
    say(text.attached(made, attaching))
    report, pinging = _timed(lambda: pings.ping(order.lab, made))
    say("\n".join(text.answered(order.lab, report, pinging)))
    seconds = {"underlay": building, "attach": attaching, "ping": pinging}
    return text.document(order.lab, made, report, seconds)


def down(place: Place, say: Callable[[str], Any]) -> bool:
    """Take the lab down; return whether no DEL failed and nothing is left on the hosts."""
    namespaces = len(place.namespaces())
    removal, seconds = _timed(lambda: build.take_down(place))
    say("\n".join(text.removed(place.name, removal, namespaces, seconds)))
    return removal is None or removal.is_clean


def show(place: Place, *, ping: bool, as_json: bool) -> bool:
    """Show the lab; return whether all pings were answered.

    :raises Failed: when the lab does not exist, or is not complete enough to ping.
    """
    known = read_order(place)
    if known is None:
        raise Failed(f"there is {'no' if place.is_empty() else 'only a part of a'} lab named {place.name}")
    lab, made = known[0], build.attached(place)
    if ping and not made:
        raise Failed(f"the lab {place.name} has not been built completely")
    report, seconds = _timed(lambda: pings.ping(lab, made)) if ping else (None, 0.0)
    if as_json:
        _print_json(text.document(lab, made, report, {"ping": seconds} if ping else {}))
    else:
        answers = ["", *text.answered(lab, report, seconds)] if report else []
        typer.echo("\n".join([*text.shown(lab, made, place.namespaces()), *answers]))
    return report is None or report.is_whole


def _how_to_remove(place: Place) -> str:
    where = "" if place.directory.parent == DIRECTORY else f" --dir {place.directory.parent}"
    return f"`cnictl lab down --name {place.name}{where}`"


def _timed(work: Callable[[], Made]) -> tuple[Made, float]:
    began = time.perf_counter()
    return work(), time.perf_counter() - began


def _print_nothing(_: str) -> None:
    """Print no progress, as the output is JSON."""


def _print_json(document: Mapping[str, Any]) -> None:
    typer.echo(json.dumps(document, indent=2))
