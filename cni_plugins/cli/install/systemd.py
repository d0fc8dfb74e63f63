"""Runs the systemctl commands that an install and an uninstall need."""

import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

from cni_plugins.cli.failure import Failed
from cni_plugins.cli.install.layout import AGENT_UNITS, SYNC_UNITS, Places

_SOCKET, _SERVICE = AGENT_UNITS
_TIMER, _ = SYNC_UNITS
# Only the socket is enabled: the first call starts the service. A running agent is sent SIGHUP, and executes
# the new build.
START = (
    ("systemctl", "daemon-reload"),
    ("systemctl", "enable", "--now", _SOCKET),
    ("systemctl", "try-reload-or-restart", _SERVICE),
)
STOP = (("systemctl", "disable", "--now", *AGENT_UNITS, _TIMER),)
FORGET = (("systemctl", "daemon-reload"),)

Commands = Sequence[Sequence[str]]


def is_running(places: Places) -> bool:
    """Say whether systemd runs and this install is on its node; see sd_booted(3)."""
    return not places.destdir and Path("/run/systemd/system").is_dir()


def run(commands: Commands) -> None:
    """:raises Failed: with the last line of systemctl's stderr"""
    for command in commands:
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
            )
        except FileNotFoundError as err:
            raise Failed(f"{command[0]} is not installed") from err
        if done.returncode:
            message = done.stderr.strip().rpartition("\n")[2] or f"exit code {done.returncode}"
            raise Failed(f"{shlex.join(command)}: {message}")


def to_start(places: Places) -> Commands:
    """Return the commands that enable the agent, on this node or in an image."""
    return (("systemctl", f"--root={places.destdir}", "enable", _SOCKET),) if places.destdir else START


def lines(commands: Commands) -> list[str]:
    return [shlex.join(command) for command in commands]
