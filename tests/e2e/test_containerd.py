"""containerd and runc run real containers on our network: through `ctr run --cni` and through the CRI."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from tests.e2e.lab import containerd, image, network
from tests.e2e.lab.agent import wait_for
from tests.e2e.lab.host import Host, raise_host
from tests.e2e.lab.lives import SERVE, cri_client, cri_pod
from tests.e2e.lab.plugin import BIN
from tests.e2e.lab.state import State, assert_unchanged, observe

pytestmark = pytest.mark.needs("containerd", "ctr", "runc", "busybox", "nft")

CONF = network.conflist(network.NAME, "cniebr0", "10.88.0.0/24", "fd00:88::/64")
Execute = Callable[..., str]


@pytest.fixture(scope="module", params=["cold", "warm"])
def host(
    request: pytest.FixtureRequest, dist: Path, busybox: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Host]:
    """A host with containerd, our network and an outside, without and with an agent."""
    log = tmp_path_factory.mktemp("containerd") / "log"
    with raise_host(dist, runtimes=True) as up:
        network.install(up, CONF)
        network.serve_outside(up)
        with (
            containerd.running(up, busybox, log),
            _agent(up, log) if request.param == "warm" else nullcontext(),
        ):
            yield up


@contextmanager
def _agent(host: Host, log: Path) -> Iterator[None]:
    """An agent where the executables look for it; it must have served every call."""
    status = (f"{BIN}/cnictl", "agent", "status", "--json")
    with log.with_name("agent").open("wb") as file:
        process = host.start(f"{BIN}/cnictl", "agent", log=file)
    try:
        wait_for("the agent", lambda: host.run(*status, check=False).returncode == 0)
        yield
        page = json.loads(host.run(*status).stdout)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert page["served"] > 0
    assert not any(page["refused"].values()), page


@pytest.fixture
def idle(host: Host) -> State:
    """The state to come back to: after a first container, so with the bridge, which stays by design."""
    with _ctr_container(host, "cniefirst", "true"):
        pass
    state = observe(host)
    assert state["leases"] == []
    return state


def test_two_containers_of_ctr_reach_each_other_and_the_outside(host: Host, idle: State) -> None:
    with (
        _ctr_container(host, "cniea", *SERVE) as execute_a,
        _ctr_container(host, "cnieb", *SERVE) as execute_b,
    ):
        a, b = _address_of(execute_a), _address_of(execute_b)
        assert a != b
        execute_a("ping", "-c1", "-W3", b)
        execute_b("ping", "-c1", "-W3", a)
        assert execute_a("wget", "-qO-", f"http://{b}/") == image.PAGE
        assert _seen_outside(execute_a) == network.HOST_AS_SEEN_OUTSIDE
    assert_unchanged(host, idle)


@pytest.mark.needs("python:grpc")
def test_two_pods_reach_each_other_and_the_outside(host: Host, idle: State) -> None:
    with (
        cri_client(host) as cri,
        cri_pod(cri, "cniea") as (a, execute_a),
        cri_pod(cri, "cnieb") as (b, execute_b),
    ):
        assert not set(a) & set(b)
        for address in ("127.0.0.1", *b):
            execute_a("ping", "-c1", "-W3", address)
        assert execute_b("wget", "-qO-", f"http://{a[0]}/") == image.PAGE
        assert _seen_outside(execute_a) == network.HOST_AS_SEEN_OUTSIDE
    assert_unchanged(host, idle)


@contextmanager
def _ctr_container(host: Host, name: str, *command: str) -> Iterator[Execute]:
    """A container in the foreground of `ctr run --cni`; at its end ctr calls DEL with an empty CNI_NETNS."""

    def execute(*inside: str) -> str:
        return host.run("ctr", "tasks", "exec", "--exec-id", f"x{time.monotonic_ns()}", name, *inside).stdout

    run = ("ctr", "run", "--rm", "--cni", image.NAME, name, *command)
    with host.start(*run, log=subprocess.PIPE) as process:
        try:
            if command != ("true",):
                _wait_for_network(process, execute)
            yield execute
        finally:
            host.run("ctr", "tasks", "kill", "-s", "KILL", name, check=False)
            out, _ = process.communicate(timeout=30)
    assert host.run("ctr", "containers", "list", "-q").stdout.split().count(name) == 0, out.decode()


def _wait_for_network(process: subprocess.Popen[bytes], execute: Execute) -> None:
    """A task that is made, and not started before the network is set up, runs commands already."""
    for _ in range(100):
        assert process.poll() is None, process.communicate()[0].decode()
        try:
            _address_of(execute)
        except (AssertionError, ValueError):
            time.sleep(0.1)
        else:
            return
    raise AssertionError("the container does not come up")


def _address_of(execute: Execute) -> str:
    words = execute("ip", "-4", "-o", "addr", "show", "dev", "eth0").split()
    return words[words.index("inet") + 1].split("/")[0]


def _seen_outside(execute: Execute) -> str:
    return execute(*network.ASK_WHO).strip()
