"""Starts the agent in place of `cnictl agent`, once the options have been parsed.

Typer and the modules it imports would stay in memory as long as the node runs. So the program executes itself
again in the same process, with all options written out in a form that needs no parser.
"""

import os
import sys
from typing import NoReturn

from cni_plugins.agent.serve import Options, serve
from cni_plugins.cli.failure import Failed
from cni_plugins.cli.version import AGENT_PROCESS


def require_agent_support() -> None:
    """:raises Failed: when the plugins of this build cannot call an agent"""
    from cni_plugins.engine.build import build_of

    if getattr(sys, "frozen", False) and not build_of("/proc/self/exe"):
        raise Failed("plugins that were frozen without a C compiler never call an agent")


def become(options: Options) -> NoReturn:
    """Execute this program again as the agent, in the same process with its descriptors and environment."""
    frozen = getattr(sys, "frozen", False)
    if not frozen:
        command = [sys.executable, "-m", "cni_plugins.cli.main"]
    else:
        # By its path if that still exists, so that ps does not show it as "exe".
        own = os.readlink("/proc/self/exe")
        command = [own if os.path.exists(own) else "/proc/self/exe"]
    os.execv(command[0], [*command, AGENT_PROCESS, *arguments(options)])  # noqa: S606 - no shell is wanted


def arguments(options: Options) -> list[str]:
    return [f"--{name.replace('_', '-')}={value}" for name, value in options._asdict().items()]


def run(given: list[str]) -> int | None:
    """Serve and return the exit code; None when the arguments are not those of this build.

    An upgraded agent executes the new program with the arguments that the old one wrote.
    """
    options = parse_arguments(given)
    return None if options is None else serve(options)


def parse_arguments(given: list[str]) -> Options | None:
    pairs = [word.removeprefix("--").partition("=") for word in given]
    found = {key.replace("-", "_"): value for key, _, value in pairs}
    if tuple(found) != Options._fields:
        return None
    try:
        return Options(
            workers=int(found["workers"]),
            socket=found["socket"],
            recycle_after=int(found["recycle_after"]),
            request_timeout=float(found["request_timeout"]),
            metrics=found["metrics"],
        )
    except ValueError:
        return None
