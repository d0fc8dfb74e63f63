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

_SWITCHES = ("repair", "keeper")  # options that are on or off


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
    """Return the options as words that the option parser understands as well."""
    named = ((name.replace("_", "-"), value) for name, value in options._asdict().items())
    return [word for name, value in named for word in _words(name, value)]


def _words(name: str, value: object) -> list[str]:
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    values = value if isinstance(value, tuple) else (value,)
    return [f"--{name}={item}" for item in values]


def run(given: list[str]) -> int | None:
    """Serve and return the exit code; None when the arguments are not those of this build.

    An upgraded agent executes the new program with the arguments that the old one wrote.
    """
    options = parse_arguments(given)
    return None if options is None else serve(options)


def parse_arguments(given: list[str]) -> Options | None:
    found: dict[str, list[str]] = {}
    for word in given:
        key, _, value = word.removeprefix("--").partition("=")
        found.setdefault(key.replace("-", "_"), []).append(value)
    switches = {name: name in found for name in _SWITCHES}
    if any(is_on == (f"no_{name}" in found) for name, is_on in switches.items()):
        return None  # the words are of another build
    for name, is_on in switches.items():
        found.pop(name if is_on else f"no_{name}")
    lists = {name: tuple(found.pop(name, ())) for name in ("cache_dir", "plugin_dir")}
    single = [name for name in Options._fields if name not in (*lists, *_SWITCHES)]
    if list(found) != single:
        return None
    try:
        return _options({name: found[name][-1] for name in single}, lists, switches)
    except ValueError:
        return None


def _options(single: dict[str, str], lists: dict[str, tuple[str, ...]], switches: dict[str, bool]) -> Options:
    """:raises ValueError: for a number that is none"""
    return Options(
        workers=int(single["workers"]),
        socket=single["socket"],
        recycle_after=int(single["recycle_after"]),
        request_timeout=float(single["request_timeout"]),
        metrics=single["metrics"],
        conf_dir=single["conf_dir"],
        repair=switches["repair"],
        keeper=switches["keeper"],
        cache_dir=lists["cache_dir"],
        plugin_dir=lists["plugin_dir"],
    )
