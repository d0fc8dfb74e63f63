"""What `cnictl lab` does, told on stdout as it goes, or as one document for programs."""

import json
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import typer

from cni_plugins.cli import lab_build, lab_page, lab_ping
from cni_plugins.cli.failure import Failed
from cni_plugins.cli.lab_build import Site
from cni_plugins.cli.lab_place import DIRECTORY, Place, read_order

Made = TypeVar("Made")


def up(site: Site, *, keep: bool, as_json: bool) -> bool:
    """Build it and have it ping; whatever goes wrong on the way, nothing of it stays.

    Return whether everybody answered, and what was not to be kept left nothing.
    """
    say = _nothing if as_json else typer.echo
    try:
        document = _built(site, say)
    except BaseException:
        typer.echo("taking down what there is of it", err=True)
        lab_build.take_down(site.place)
        raise
    is_clean = keep or down(site.place, say)
    if as_json:
        _say_json(document)
    elif keep:
        inside = f"ip netns exec {site.lab.hosts[0].netns} …"
        say(f"\nlook into it with `{inside}`, remove it with {_how_to_remove(site.place)}")
    return bool(document["answers"]["whole"]) and is_clean


def _built(site: Site, say: Callable[[str], Any]) -> dict[str, Any]:
    say(lab_page.head(site.lab))
    lab_build.write_files(site)
    _, building = _timed(lambda: lab_build.build_underlay(site.lab))
    say(lab_page.built(building))
    made, attaching = _timed(lambda: lab_build.attach(site))
    say(lab_page.attached(made, attaching))
    report, pinging = _timed(lambda: lab_ping.ping(site.lab, made))
    say("\n".join(lab_page.answered(site.lab, report, pinging)))
    seconds = {"underlay": building, "attach": attaching, "ping": pinging}
    return lab_page.document(site.lab, made, report, seconds)


def down(place: Place, say: Callable[[str], Any]) -> bool:
    """Take it down; return whether the plugins left nothing and refused nothing."""
    namespaces = len(place.namespaces())
    removal, seconds = _timed(lambda: lab_build.take_down(place))
    say("\n".join(lab_page.removed(place.name, removal, namespaces, seconds)))
    return removal is None or removal.is_clean


def show(place: Place, *, ping: bool, as_json: bool) -> bool:
    """Show what there is; return whether everybody who was asked answered.

    :raises Failed: when there is no lab, or none that could ping.
    """
    known = read_order(place)
    if known is None:
        raise Failed(
            f"there is {'no' if place.is_empty() else 'only what is left of a'} lab named {place.name}"
        )
    lab, made = known[0], lab_build.attached(place)
    if ping and not made:
        raise Failed(f"the lab {place.name} has not been built to its end")
    report, seconds = _timed(lambda: lab_ping.ping(lab, made)) if ping else (None, 0.0)
    if as_json:
        _say_json(lab_page.document(lab, made, report, {"ping": seconds} if ping else {}))
    else:
        answers = ["", *lab_page.answered(lab, report, seconds)] if report else []
        typer.echo("\n".join([*lab_page.shown(lab, made, place.namespaces()), *answers]))
    return report is None or report.is_whole


def _how_to_remove(place: Place) -> str:
    where = "" if place.directory.parent == DIRECTORY else f" --dir {place.directory.parent}"
    return f"`cnictl lab down --name {place.name}{where}`"


def _timed(work: Callable[[], Made]) -> tuple[Made, float]:
    began = time.perf_counter()
    return work(), time.perf_counter() - began


def _nothing(_: str) -> None:
    """Say nothing: what is printed is for programs."""


def _say_json(document: Mapping[str, Any]) -> None:
    typer.echo(json.dumps(document, indent=2))
