"""What each road loads: a module that sneaks in costs every pod its milliseconds."""

import json
import os
import sys
from typing import Any

import pytest

from tests import cni

PROGRAM = """
import os, sys
sys.argv[0] = "/opt/cni/bin/{name}"
before = set(sys.modules)
real = os._exit
def end(code):
    os.write(2, "\\n".join(sorted(set(sys.modules) - before)).encode())
    real(code)
os._exit = end
from cni_plugins.front.main import main
main()
"""
CONF = {"cniVersion": "1.1.0", "name": "n", "type": "bridge", "cni.dev/valid-attachments": []}
NEVER = (
    "asyncio",
    "argparse",
    "netaddr",
    "pyroute2.requests",
    "pyroute2.iproute",
    "subprocess",
    "ssl",
)


def loaded(command: str, name: str = "bridge", conf: Any = CONF) -> set[str]:
    variables = cni.environment(command, netns=None)
    script = "import sys; sys.path[:0] = " + repr(sys.path) + PROGRAM.format(name=name)
    answer = cni.run([sys.executable, "-S", "-c", script], conf, {**os.environ, **variables})
    return set(answer.err.decode().splitlines())


def test_version_loads_nothing_of_the_suite() -> None:
    assert {name for name in loaded("VERSION") if name.startswith("cni_plugins")} == {
        "cni_plugins",
        "cni_plugins.front",
        "cni_plugins.front.main",
        "cni_plugins.front.version",
    }


def test_version_as_libcni_asks_for_it_loads_nothing() -> None:
    assert loaded("VERSION", conf=b'{"cniVersion":"1.0.0"}') == {
        "cni_plugins",
        "cni_plugins.front",
        "cni_plugins.front.main",
        "cni_plugins.front.version",
    }


def test_the_usage_line_loads_nothing() -> None:
    assert not {name for name in loaded("") if not name.startswith(("cni_plugins", "CNI "))} - {""}


def test_a_malformed_request_is_cheap() -> None:
    modules = loaded("NONSENSE")
    assert not {"pydantic", "pyroute2", "ctypes"} & modules


@pytest.mark.parametrize("command", ["DEL", "STATUS", "GC"])
def test_no_road_loads_what_it_does_not_need(command: str) -> None:
    modules = loaded(command)
    assert "cni_plugins.kernel.apply" in modules
    assert not [name for name in NEVER if name in modules]


def test_releasing_an_address_loads_neither_pydantic_nor_the_kernel_room() -> None:
    modules = loaded("DEL", "host-local", {**CONF, "type": "host-local", "ipam": {"type": "host-local"}})
    assert not {"pydantic", "pyroute2", "cni_plugins.kernel"} & modules


CALLS = """
import json, os, sys
from cni_plugins.engine.program import Program
from cni_plugins.engine.run import run
path, conf = sys.argv[1], sys.argv[2].encode()
status = os.stat(path + "/bridge")
for variables in json.loads(sys.argv[3]):
    outcome = run("bridge", variables, lambda _: conf, Program(status.st_dev, status.st_ino))
    assert outcome.code == 0, outcome
print("\\n".join(sys.modules))
"""


@pytest.mark.parametrize(
    "keys", [{}, {"isDefaultGateway": True, "ipMasq": True, "macspoofchk": True, "mtu": "auto"}]
)
def test_no_attachment_needs_pyroute2(bed: Any, keys: dict[str, Any]) -> None:
    conf = bed.conf(ipam=bed.host_local("10.1.0.0/24", "fd00:1::/64"), **keys)
    conf["cni.dev/valid-attachments"] = []
    netns = bed.sandbox().path
    calls = [cni.environment(command, netns=netns, path=bed.bin) for command in ("ADD", "DEL", "GC")]
    command = (sys.executable, "-c", CALLS, str(bed.bin), json.dumps(conf), json.dumps(calls))
    modules = set(bed.host.run(*command).split())
    assert "cni_plugins.kernel.links.links" in modules
    assert not {"pyroute2", "logging", *NEVER} & modules
