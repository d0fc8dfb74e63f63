"""CNI calls for all tiers: the environment, the call of an executable or of the engine, the answer."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

CONTAINER, IFNAME = "c1", "eth0"
NOWHERE = "/nowhere"
"""A path that does not exist, where a call needs none that does."""


def environment(
    command: str,
    *,
    container: str | None = CONTAINER,
    netns: str | None = NOWHERE,
    ifname: str | None = IFNAME,
    path: str | Path | None = NOWHERE,
    **variables: str | None,
) -> dict[str, str]:
    """Build the environment of a call.

    :param variables: other variables, or the same ones by their full names; None leaves a variable out
    """
    usual: dict[str, str | None] = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": container,
        "CNI_NETNS": netns,
        "CNI_IFNAME": ifname,
        "CNI_PATH": None if path is None else str(path),
    }
    return {name: value for name, value in {**usual, **variables}.items() if value is not None}


class Answer(NamedTuple):
    """What one call gave back."""

    code: int
    out: bytes
    err: bytes

    @property
    def document(self) -> dict[str, Any]:
        """The one JSON document on stdout; anything before or after it is a failure."""
        document = json.loads(self.out)
        assert isinstance(document, dict), self
        return document

    @property
    def addresses(self) -> list[str]:
        """The addresses of a result, without their prefix length."""
        return [ip["address"].split("/")[0] for ip in self.document["ips"]]

    def ok(self) -> Answer:
        """Return this answer, which must be a success."""
        assert self.code == 0, self
        return self


def stdin_of(conf: Any) -> bytes:
    """Return a configuration as a plugin reads it; bytes are passed on as they are."""
    return conf if isinstance(conf, bytes) else json.dumps(conf).encode()


def run(
    argv: Sequence[str | Path],
    conf: Any,
    variables: Mapping[str, Any],
    *,
    timeout: float = 60,
    directory: str | None = None,
) -> Answer:
    """Run an executable with a configuration on stdin and exactly these environment variables."""
    process = subprocess.Popen(
        argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=variables,
        cwd=directory,
    )
    return finish(process, conf, timeout)


def finish(process: subprocess.Popen[bytes], conf: Any, timeout: float = 60) -> Answer:
    """Hand a configuration to a process that was started with pipes, and wait for its answer."""
    try:
        out, err = process.communicate(stdin_of(conf), timeout=timeout)
    except BaseException:
        process.kill()
        process.communicate()
        raise
    return Answer(process.returncode, out, err)


def run_engine(conf: Any, variables: Mapping[str, str], program: Any, name: str = "") -> Answer:
    """Let the engine of this process answer as an executable would.

    :param program: identifies the executable that a delegate must not be, as `engine.run` wants it
    :param name: of the executable; the type of the configuration if not given
    """
    from cni_plugins.engine import run as engine

    text = stdin_of(conf)
    outcome = engine.run(name or str(conf["type"]), dict(variables), lambda limit: text[:limit], program)
    return Answer(outcome.code, outcome.stdout, outcome.trace.encode())


def request(directory: Path, conf: Mapping[str, Any], command: str, netns: str, **more: Any) -> Any:
    """Return the engine's own view of a call, for tests that replace a part of a plugin."""
    from cni_plugins.protocol import request as requests

    variables = environment(command, netns=netns, path=directory, **more)
    return requests.parse(variables, lambda _: stdin_of(conf))


def on_path(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the variables with this process's PATH, for plugins that start tools."""
    return {"PATH": os.environ["PATH"], **variables}
