"""Wherever the kernel is short of memory in a DEL, a GC or a failing ADD, no address in use is released."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from cni_plugins.contract.plugin import Decision
from cni_plugins.engine import lifecycle, registry
from cni_plugins.errors import KernelRefused
from cni_plugins.kernel.netlink.socket import Socket
from tests.integration.engine.test_refused_steps import REFUSED

PLUGINS: dict[str, dict[str, Any]] = {
    "bridge": {"bridge": "br0", "isGateway": True, "ipMasq": True},
    "ptp": {"ipMasq": True},
    "macvlan": {"master": "wire0"},
}


class Shortage:
    """Fails the request to the kernel with this number, and all after it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.seen = 0

    @contextmanager
    def felt(self, patch: pytest.MonkeyPatch) -> Iterator[None]:
        original = Socket._number

        def send(asking: Socket, *arguments: Any) -> Any:
            self.seen += 1
            if self.seen > self.number:
                raise OSError(errno.ENOMEM, "Cannot allocate memory")
            return original(asking, *arguments)

        with patch.context() as patched:
            patched.setattr(Socket, "_number", send)
            yield

    @property
    def came(self) -> bool:
        return self.seen > self.number


@pytest.fixture(params=PLUGINS)
def conf(bed: Any, request: pytest.FixtureRequest) -> Any:
    bed.host.run("ip", "link", "add", "wire0", "type", "veth", "peer", "wire1")
    bed.host.run("ip", "link", "set", "wire0", "up")
    own = {"type": request.param, **PLUGINS[request.param], "ipam": bed.host_local("10.1.0.0/24")}
    return {"cniVersion": "1.1.0", "name": "net1", **own}


@pytest.mark.parametrize("command", ["DEL", "GC"])
def test_an_address_is_released_only_when_its_link_is_known_to_be_gone(
    bed: Any, conf: Any, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox = bed.sandbox()
    asked = {**conf, "cni.dev/valid-attachments": []} if command == "GC" else conf
    number = 0
    while True:
        if not sandbox.link("eth0"):
            bed.call("DEL", conf, sandbox)
            bed.add(conf, sandbox)
        shortage = Shortage(number)
        with shortage.felt(monkeypatch):
            code, error = bed.call(command, asked, sandbox if command == "DEL" else "")
        if sandbox.link("eth0"):
            assert len(bed.leased()) == 1, f"after {number} requests: {error}"
        if not shortage.came:
            break
        assert error is None or error["code"] in (11, 100), error
        number += 1
    assert (code, bed.leased(), sandbox.link("eth0")) == (0, set(), None)
    assert number > 2


def test_an_add_that_cannot_undo_its_link_keeps_the_address(
    bed: Any, conf: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The DEL that the runtime sends then releases it."""
    plugin, sandbox = registry.plugin(conf["type"]), bed.sandbox()
    shortage = Shortage(0)

    def decide(*arguments: Any) -> Any:
        plan, result, _ = plugin.decide(*arguments)
        return Decision((*plan, REFUSED), result)

    original = lifecycle.apply.Change.take_back

    def take_back(change: Any, reason: BaseException) -> None:
        with shortage.felt(monkeypatch):
            original(change, reason)

    with monkeypatch.context() as patched:
        patched.setattr(lifecycle.apply.Change, "take_back", take_back)
        with bed.inside(), pytest.raises(KernelRefused) as raised:
            lifecycle.run(plugin._replace(decide=decide), bed.request(conf, sandbox), bed.program)
    assert sandbox.link("eth0")
    assert "the addresses stay reserved" in " ".join(raised.value.__notes__)
    assert len(bed.leased()) == 1
    assert bed.call("DEL", conf, sandbox) == (0, None)
    assert (bed.leased(), sandbox.link("eth0")) == (set(), None)


@pytest.mark.parametrize("nth", range(30))
def test_an_answer_that_is_lost_inside_a_step_leaves_nothing(
    bed: Any, conf: Any, nth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a socket overflows: the kernel did what it was asked, and the ADD is told of a shortage."""
    sandbox = bed.sandbox()
    seen = 0
    original = Socket.call

    def call(asking: Socket, *messages: Any) -> Any:
        nonlocal seen
        answers = original(asking, *messages)
        seen += 1
        if seen == nth + 1:
            raise OSError(errno.ENOBUFS, "No buffer space available")
        return answers

    before = bed.state()
    with monkeypatch.context() as patched:
        patched.setattr(Socket, "call", call)
        code, error = bed.call("ADD", {**conf, "removeIdleBridge": True}, sandbox)
    if code:
        assert error["code"] in (11, 100), error
        assert sandbox.link("eth0") is None
        assert bed.leased() == set()
        assert bed.state()["links"] == before["links"]
    else:
        assert seen <= nth


@pytest.mark.parametrize("kind", ["bridge", "ptp"])
def test_a_host_end_that_is_renamed_during_an_add_goes_with_it(
    bed: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = {"cniVersion": "1.1.0", "name": "net1", "type": kind, "ipam": bed.host_local("10.1.0.0/24")}
    plugin, sandbox = registry.plugin(kind), bed.sandbox()

    def decide(*arguments: Any) -> Any:
        plan, result, _ = plugin.decide(*arguments)
        return Decision((*plan, REFUSED), result)

    original = lifecycle.apply.Change.take_back

    def take_back(change: Any, reason: BaseException) -> None:
        for link in bed.host.ip("link"):
            if link["ifname"].startswith("veth"):
                bed.host.run("ip", "link", "set", link["ifname"], "name", "other0")
        original(change, reason)

    with monkeypatch.context() as patched:
        patched.setattr(lifecycle.apply.Change, "take_back", take_back)
        with bed.inside(), pytest.raises(KernelRefused):
            lifecycle.run(plugin._replace(decide=decide), bed.request(conf, sandbox), bed.program)
    assert sandbox.link("eth0") is None
    assert bed.host.link("other0") is None
    assert bed.leased() == set()
