"""From environment and stdin to document and exit code."""

import errno
import json
from typing import Any

import pytest

from cni_plugins.engine import registry
from cni_plugins.engine.run import run
from cni_plugins.errors import CniError, InvalidNetworkConfig
from tests import cni

ENVIRONMENT = cni.environment("ADD")
CONF = {
    "cniVersion": "1.1.0",
    "name": "n",
    "type": "static",
    "ipam": {"type": "static", "addresses": [{"address": "10.1.0.2/24"}]},
}


def answered(name: str = "static", conf: Any = CONF, **environment: str) -> Any:
    text = conf if isinstance(conf, bytes) else json.dumps(conf).encode()
    return run(name, {**ENVIRONMENT, **environment}, lambda limit: text[:limit], None)


def test_an_ipam_plugin_answers() -> None:
    outcome = answered()
    assert (outcome.code, outcome.trace) == (0, "")
    assert json.loads(outcome.stdout)["ips"] == [{"address": "10.1.0.2/24"}]


@pytest.mark.parametrize("command", ["DEL", "STATUS", "GC"])
def test_other_commands_print_nothing(command: str) -> None:
    assert answered(CNI_COMMAND=command) == (b"", 0, "")


def test_an_error_is_one_document() -> None:
    outcome = answered(conf=b"rubbish")
    document = json.loads(outcome.stdout)
    assert (outcome.code, outcome.trace) == (1, "")
    assert list(document) == ["cniVersion", "code", "msg", "details"]
    assert document["code"] == 6


def test_stdin_is_not_read_for_a_malformed_environment() -> None:
    def fail(_limit: int) -> bytes:
        raise AssertionError

    outcome = run("static", {**ENVIRONMENT, "CNI_IFNAME": ""}, fail, None)
    assert json.loads(outcome.stdout)["code"] == 4


@pytest.mark.parametrize(
    "shortage",
    [
        OSError(number, "")
        for number in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.ENOSPC)
    ]
    + [MemoryError()],
    ids=repr,
)
def test_a_shortage_of_the_host_may_be_over_later(
    shortage: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_request: Any) -> None:
        raise shortage

    plugin = registry.ipam("static")
    assert plugin is not None
    monkeypatch.setattr(registry, "ipam", lambda _name: plugin._replace(reserve=fail))
    outcome = answered()
    assert (outcome.code, outcome.trace, json.loads(outcome.stdout)["code"]) == (1, "", 11)


def test_what_nobody_foresaw_is_a_document_and_a_trace() -> None:
    def fail(_limit: int) -> bytes:
        raise ZeroDivisionError("oops")

    outcome = run("static", ENVIRONMENT, fail, None)
    assert outcome.code == 1
    assert json.loads(outcome.stdout) == {
        "cniVersion": "1.1.0",
        "code": 999,
        "msg": "internal error: oops",
        "details": "ZeroDivisionError",
    }
    assert "Traceback" in outcome.trace


def test_notes_become_details() -> None:
    err = CniError("msg", "details")
    err.add_note("first")
    err.add_note("second")
    assert err.full_details() == "details; first; second"


def test_every_name_is_a_plugin() -> None:
    for name in registry.NAMES:
        assert (registry.ipam(name) or registry.plugin(name)).name == name
    with pytest.raises(InvalidNetworkConfig):
        registry.plugin("host-local")


def every_error() -> list[type[CniError]]:
    return [kind for kind in CniError.__subclasses__() if kind.__module__ == "cni_plugins.errors"]


def test_each_code_has_one_class() -> None:
    codes = [kind.code for kind in every_error() if kind.__name__ != "DelegateFailed"]
    assert len(codes) == len(set(codes))
    assert set(codes) >= {1, 2, 4, 5, 6, 7, 8, 11, 50, 51}
