"""The agent's process. `cnictl agent` becomes it once its options are understood.

Typer and what it imports would stay in memory as long as the node runs. So the options are written out in
full, and the program starts itself again in the same process, with words that need no parser.
"""

import os
import sys
from pathlib import Path
from typing import NoReturn

from cni_plugins.agent.serve import Options, serve
from cni_plugins.cli.failure import Failed
from cni_plugins.cli.version import AGENT_PROCESS


def require_called() -> None:
    """:raises Failed: when the plugins of this build do not know of an agent"""
    from cni_plugins.cli.install.layout import build

    if getattr(sys, "frozen", False) and not build(Path("/proc/self/exe")):
        raise Failed("plugins that were frozen without a C compiler never call an agent")


def become(options: Options) -> NoReturn:
    """Start this program again as the agent; the process, its descriptors and its environment stay."""
    frozen = getattr(sys, "frozen", False)
    if not frozen:
        command = [sys.executable, "-m", "cni_plugins.cli.main"]
    else:
        # By its path where that is still there, so that ps does not call it "exe".
        own = os.readlink("/proc/self/exe")
        command = [own if os.path.exists(own) else "/proc/self/exe"]
    os.execv(command[0], [*command, AGENT_PROCESS, *words(options)])  # noqa: S606 - no shell is what is wanted


def words(options: Options) -> list[str]:
    return [f"--{name.replace('_', '-')}={value}" for name, value in options._asdict().items()]


def run(given: list[str]) -> int | None:
    """Serve; None when the words are not those of this build.

    An agent that is upgraded starts the new program with the words the old one wrote.
    """
    options = understood(given)
    return None if options is None else serve(options)


def understood(given: list[str]) -> Options | None:
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
