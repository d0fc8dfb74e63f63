"""One process of a cluster: started, killed, stopped and restarted by its pid."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tests.namespaces import entered

CACHE = Path(os.environ.get("CNI_PLUGINS_TEST_CACHE") or Path.home() / ".cache/cni-plugins-tests")
_READY_WITHIN = 60.0


class Member:
    """A server process with a directory of its own.

    :param command: made anew at each start.
    :param netns: path of a network namespace; None: this one.
    """

    def __init__(self, directory: Path, command: Callable[[], list[str]], netns: str | None = None) -> None:
        self.directory = directory
        self._command, self._netns = command, netns
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text(errors="replace")

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        where = entered(self._netns) if self._netns else contextlib.nullcontext()
        with where, (self.directory / "log").open("ab") as log:
            # Whoever ends this process ends its servers, too.
            words = ["setpriv", "--pdeathsig", "KILL", "--", *self._command()]
            self._process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def kill(self) -> None:
        """End the process at once; a stopped one, too."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """Let the process be there and do nothing."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def wipe(self) -> None:
        """Remove what a killed member has stored."""
        shutil.rmtree(self.directory / "data", ignore_errors=True)


class Cluster:
    """Members, and what tests of every kind of server need."""

    kind = ""

    def __init__(self, members: list[Member], endpoints: list[str]) -> None:
        self.members, self.endpoints = members, endpoints

    def start(self) -> None:
        for member in self.members:
            member.start()
        self.wait()

    def wait(self) -> None:
        """Wait until every member that runs takes part in a cluster with a leader."""
        raise NotImplementedError

    def put(self, path: str, value: bytes) -> None:
        """Write as an operator, or an enemy."""
        raise NotImplementedError

    def restart(self, *, wiped: bool = False) -> None:
        self.close()
        for member in self.members:
            if wiped:
                member.wipe()
        self.start()

    def close(self) -> None:
        for member in self.members:
            member.kill()


def free_ports(number: int, address: str = "127.0.0.1") -> list[int]:
    """Return ports that were free a moment ago, below those that the kernel chooses for connections."""
    ports: list[int] = []
    candidate = 10000 + (os.getpid() * 37) % 15000
    while len(ports) < number:
        candidate = 10000 + (candidate - 9999) % 22000
        with socket.socket() as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                tried.bind((address, candidate))
                ports.append(candidate)
    return ports


def until(
    test: Callable[[], Any], what: str, logs: Iterable[Member] = (), within: float = _READY_WITHIN
) -> Any:
    """Wait until a test returns something true, and return that."""
    end = time.monotonic() + within
    while True:
        with contextlib.suppress(OSError, ValueError):
            found = test()
            if found:
                return found
        if time.monotonic() > end:
            raise AssertionError(f"{what}\n" + "\n".join(member.log[-2000:] for member in logs))
        time.sleep(0.05)


def ask(
    url: str,
    body: Any = None,
    *,
    method: str | None = None,
    headers: dict[str, str] | None = None,
    context: ssl.SSLContext | None = None,
) -> Any:
    """Return the answer to an HTTP request as JSON, or as bytes if it is none."""
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, method=method, headers=headers or {})
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    with opener.open(request, timeout=10) as answer:
        found = answer.read()
    try:
        return json.loads(found)
    except ValueError:
        return found
