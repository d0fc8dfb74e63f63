"""What STATUS tries, and the lock under which tables are chosen."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from cni_plugins.errors import TryAgainLater
from cni_plugins.kernel.ip import rules
from cni_plugins.kernel.netlink.socket import Refused
from cni_plugins.kernel.session import locks
from tests.integration.sbr.conftest import DUAL, MAINS, Network, routing

STATUS = {"cniVersion": "1.1.0", "name": "net2", "type": "sbr"}


def lacks(monkeypatch: pytest.MonkeyPatch, *versions: int) -> None:
    """Let the kernel refuse rules of these IP versions."""
    genuine = rules._add

    def refuse(session: Any, step: Any) -> None:
        if step.address.version in versions:
            raise Refused(errno.EAFNOSUPPORT, "", 0)
        genuine(session, step)

    monkeypatch.setattr(rules, "_add", refuse)


@pytest.mark.parametrize(("versions", "text"), [((4,), "IPv4"), ((6,), "IPv6"), ((4, 6), "IPv4 and IPv6")])
def test_status_fails_without_policy_routing(
    bed: Any, monkeypatch: pytest.MonkeyPatch, versions: tuple[int, ...], text: str
) -> None:
    before = bed.host.run("ip", "rule"), bed.host.run("ip", "-6", "rule")
    assert bed.call("STATUS", STATUS) == (0, None)
    lacks(monkeypatch, *versions)
    code, error = bed.call("STATUS", STATUS)
    assert (code, error["code"]) == (1, 50)
    assert error["msg"] == f"this kernel has no policy routing for {text}"
    assert (bed.host.run("ip", "rule"), bed.host.run("ip", "-6", "rule")) == before


def test_add_fails_without_policy_routing_and_leaves_nothing(
    bed: Any, sandbox: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = Network(bed, MAINS["bridge"], DUAL)
    network.attach(sandbox)
    before = routing(sandbox)
    lacks(monkeypatch, 6)
    code, error = network.call("ADD", network.sbr, sandbox)
    assert (code, error["code"], error["msg"]) == (1, 100, "this kernel has no policy routing for IPv6")
    assert "add rule from fd00:2::2 lookup 101 in the sandbox" in error["details"]
    assert routing(sandbox) == before


def test_a_sandbox_that_another_request_holds_is_not_changed(
    bed: Any, sandbox: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does it keep other sandboxes waiting, or DEL."""
    network = Network(bed, MAINS["bridge"], DUAL)
    network.attach(sandbox)
    before = routing(sandbox)
    monkeypatch.setattr(locks, "_SANDBOX_TIMEOUT", 0.05)
    status = Path(sandbox.path).stat()
    with bed.inside():
        held = locks.lock_sandbox(f"{status.st_dev}:{status.st_ino}")
        assert held is not None
        with pytest.raises(TryAgainLater):
            locks.lock_sandbox(f"{status.st_dev}:{status.st_ino}")
        other = locks.lock_sandbox("another")
        assert other is not None
        os.close(other)
    code, error = network.call("ADD", network.sbr, sandbox)
    assert (code, error["code"]) == (1, 11)
    assert error["msg"] == "another request is changing the routing tables of this sandbox"
    assert routing(sandbox) == before
    assert network.call("DEL", network.sbr, sandbox) == (0, None)
    os.close(held)
    assert network.call("ADD", network.sbr, sandbox)[0] == 0
