"""Prints what commands answer, and what is wrong."""

import json
from collections.abc import Iterable
from typing import Any

import typer

from cni_plugins.cli.failure import Failed
from cni_plugins.cli.text import plain


def print_answer(answer: Iterable[Any]) -> None:
    """:param answer: a JSON document, or lines of text"""
    if isinstance(answer, list | dict):
        typer.echo(json.dumps(answer, indent=2))
        return
    for line in answer:
        typer.echo(plain(line))


def warn(faults: Iterable[str]) -> None:
    for fault in faults:
        typer.echo(f"cnictl: {plain(fault)}", err=True)


def fail(faults: Iterable[str]) -> None:
    """:raises Failed: with the last of the faults, if there are any; the others are printed before"""
    *others, last = [*faults] or [""]
    warn(others)
    if last:
        raise Failed(plain(last))
