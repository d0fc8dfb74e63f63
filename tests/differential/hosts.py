"""
Hosts for our own suite, each with a resident agent, whose answers are those of a cold call and come sooner.

A host is used for one case after the other as long as cleaning it makes it what it was at first.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from tests import namespaces
from tests.bench import resident
from tests.differential.cases import Case
from tests.differential.suites import Suite
from tests.namespaces import Namespace

_LOOK = """
ip -j -d address; ip -j rule; ip -j route show table all; ip -j -6 route show table all; nft list ruleset
"""
_SYSCTLS = Path("/proc/sys/net")
_CHANGED_BY_DESIGN = ("ipv4/ip_forward", "ipv6/conf/all/forwarding")
_COMPARED = (
    *_CHANGED_BY_DESIGN,
    "ipv4/conf/all/*",
    "ipv4/conf/default/*",
    "ipv6/conf/all/*",
    "ipv6/conf/default/*",
)


class Host(NamedTuple):
    """A host namespace, the variables that name its agent, what ends it, and how it looked at first."""

    namespace: Namespace
    variables: Mapping[str, str]
    stack: contextlib.ExitStack
    pristine: str


class Hosts:
    """A pool of hosts; threads take one each."""

    def __init__(self) -> None:
        self._idle: list[Host] = []

    @contextlib.contextmanager
    def lent(self, suite: Suite, case: Case) -> Iterator[Host]:
        """Lend a host for a case; only a plain case gives it back."""
        try:
            host = self._idle.pop()
        except IndexError:
            host = _started(suite)
        keep = False
        try:
            yield host
            is_plain = not case.rules and not any(step.host or step.probe for step in case.steps)
            keep = is_plain and _cleaned(host.namespace) == host.pristine
        finally:
            if keep:
                self._idle.append(host)
            else:
                host.stack.close()

    def close(self) -> None:
        """End all that are idle."""
        while self._idle:
            self._idle.pop().stack.close()


def _started(suite: Suite) -> Host:
    with contextlib.ExitStack() as stack:
        namespace = stack.enter_context(Namespace())
        with namespace.entered():
            namespaces.run("ip", "link", "set", "lo", "up")
        agent = stack.enter_context(resident.running(suite, namespace, workers=1))
        return Host(namespace, {resident.VARIABLE: agent.socket}, stack.pop_all(), _cleaned(namespace))


def _cleaned(namespace: Namespace) -> str:
    """Remove links and rules, and return what is there then."""
    with namespace.entered():
        links = [link["ifname"] for link in json.loads(namespaces.run("ip", "-j", "link"))]
        lines = "".join(f"link del {name}\n" for name in links if name != "lo")
        with contextlib.suppress(RuntimeError):  # the other end of a pair is gone already
            namespaces.run("ip", "-force", "-batch", "-", input=lines)
        namespaces.run("nft", "flush", "ruleset")
        for name in _CHANGED_BY_DESIGN:
            (_SYSCTLS / name).write_text("0")
        return namespaces.run("sh", "-c", _LOOK) + "".join(_sysctls())


def _sysctls() -> Iterator[str]:
    for pattern in _COMPARED:
        for path in sorted(_SYSCTLS.glob(pattern)):
            with contextlib.suppress(OSError):  # some can only be written
                yield f"{path} {path.read_text()}"
