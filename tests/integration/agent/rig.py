"""An agent from the sources, the executables' side of it compiled, and the cold road to compare with."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cni_plugins.agent import status
from tests import cni
from tests.cni import Answer

ROOT = Path(__file__).resolve().parents[3]
BUILD = "0" * 16  # in handoff.c, until freezing writes another one there
NAMES = ("bridge", "host-local", "loopback", "static")
COLD = 42  # the caller's exit code when it was left to itself
_PATIENCE = 20.0  # seconds
_AGENT = """
import sys
import cni_plugins.engine.build as build
build.BUILD = sys.argv[1]
from cni_plugins.agent.serve import Options, serve
sys.exit(serve(Options(**eval(sys.argv[2]))))
"""
_PLUGIN = """#!{python}
import sys
sys.path[:0] = {path!r}
from cni_plugins.front.main import main
main()
"""


def lacking() -> str:
    return ", ".join(tool for tool in ("cc", "nsenter", "unshare") if not shutil.which(tool))


def compile_callers(directory: Path) -> Path:
    """Make the executables of all plugins, one file under several names."""
    sources = [ROOT / "packaging" / "handoff.c", Path(__file__).with_name("caller.c")]
    directory.mkdir()
    first = directory / NAMES[0]
    subprocess.run(["cc", "-O1", "-Wall", "-o", first, *sources], check=True)
    for name in NAMES[1:]:
        os.link(first, directory / name)
    return directory


def write_cold(directory: Path) -> Path:
    """Make executables that go the cold road."""
    directory.mkdir()
    text = _PLUGIN.format(python=sys.executable, path=[str(ROOT), *sys.path])
    for name in NAMES:
        path = directory / name
        path.write_text(text)
        path.chmod(0o755)
    return directory


def call(
    program: Path,
    command: str,
    stdin: bytes = b"{}",
    *,
    inside: Sequence[str] = (),
    directory: str = "/",
    environment: Mapping[str, str | bytes] | None = None,
    **variables: str,
) -> Answer:
    """Run a plugin as a runtime does.

    :param inside: a command that runs the program somewhere else.
    :param variables: of the environment; an empty one is left out, unless given as `environment`.
    """
    given = cni.environment(command, path=program.parent, **variables)
    kept = {key: value for key, value in cni.on_path(given).items() if value}
    return cni.run(
        [*inside, program], stdin, {**kept, **(environment or {})}, timeout=_PATIENCE, directory=directory
    )


class Agent:
    """An agent in a process of its own; stopped, it must end well."""

    def __init__(
        self,
        directory: Path,
        *,
        inside: Sequence[str] = (),
        build: str = BUILD,
        environment: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
        **options: Any,
    ) -> None:
        self.socket = directory / "run" / "agent.sock"
        self._log = directory / "agent.log"
        # It would look at what the machine's own runtimes remember.
        whole = {"workers": 2, "socket": str(self.socket), "repair": False, "keeper": False, **options}
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*inside, sys.executable, "-c", _AGENT, build, repr(whole)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env={"PATH": os.environ["PATH"], **(environment or {})},
                pass_fds=pass_fds,
            )

    def has_served(self, count: int) -> bool:
        """Say whether so many requests were served: a worker counts one after its answer."""
        end = time.monotonic() + _PATIENCE
        while self.page()["served"] < count and time.monotonic() < end:
            time.sleep(0.01)
        return bool(self.page()["served"] == count)

    def wait(self, text: str = "workers at", times: int = 1) -> str:
        """Wait until the journal has this text, and return its last line with it."""
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end:
            found = [line for line in self.journal() if text in line]
            if len(found) >= times:
                return found[-1]
            assert self.process.poll() is None, self.journal()
            time.sleep(0.01)
        raise AssertionError(f"no {text!r} in {self.journal()}")

    def journal(self) -> list[str]:
        return self._log.read_text().splitlines()

    def page(self) -> dict[str, Any]:
        return status.ask(str(self.socket))

    def variables(self) -> dict[str, str]:
        return {"CNI_PLUGINS_AGENT": str(self.socket)}

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(_PATIENCE)
