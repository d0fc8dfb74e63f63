"""
The lives of containers on a network, as each runtime leads them: they reach whom they should, and go.

A case is a network whose containers a test of this tier runs under containerd, podman and cnitool, without
and with a warm agent.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.e2e.lab import containerd, image, network, podman
from tests.e2e.lab.agent import PROGRAM, Agent, running, wait_for
from tests.e2e.lab.host import Completed, Host, raise_host
from tests.e2e.lab.plugin import BIN
from tests.e2e.lab.state import assert_unchanged, leases, observe
from tests.e2e.lab.tools import program

if TYPE_CHECKING:
    from tests.e2e.lab.cri import Cri

SERVE = ("httpd", "-f", "-p", "80", "-h", "/www")
MAC = "02:00:00:00:88:32"
CAPABILITIES = {"capabilities": {"ips": True, "mac": True}}
Execute = Callable[..., str]


@dataclass(frozen=True)
class Case:
    """
    A network whose capabilities are `ips` and `mac`, and what may be expected of it.

    `fixed`: one of its addresses, to be asked for; `of_host`: by which containers reach the host, if they do,
    as it does them.
    """

    conf: dict[str, Any]
    fixed: str
    of_host: tuple[str, ...] = ()
    is_masqueraded: bool = False

    def seen_outside(self, address: str) -> str:
        return network.HOST_AS_SEEN_OUTSIDE if self.is_masqueraded else address

    def assert_host_reaches(self, host: Host, *addresses: str) -> None:
        """Or that it does not, where the kernel keeps them apart."""
        for address in addresses if self.of_host else addresses[:1]:
            done = host.run("ping", "-c1", "-W3" if self.of_host else "-W1", address, check=False)
            assert (done.returncode == 0) == bool(self.of_host), done.stdout


def under_containerd(dist: Path, archive: Path, log: Path, case: Case, *, warm: bool) -> None:
    """Two pods, each with a container that serves."""
    with raise_host(dist, runtimes=True) as host:
        network.install(host, case.conf)
        network.serve_outside(host)
        before = observe(host)
        with (
            containerd.running(host, archive, log),
            agent_if(host, log.with_name("agent"), warm=warm),
            cri_client(host) as cri,
        ):
            with cri_pod(cri, "cnima") as (a, in_a), cri_pod(cri, "cnimb") as (b, in_b):
                assert len({*a, *b}) == 4
                for address in (*b, *case.of_host):
                    in_a("ping", "-c1", "-W3", address)
                assert in_b("wget", "-qO-", f"http://{a[0]}/") == image.PAGE
                assert in_a(*network.ASK_WHO).strip() == case.seen_outside(a[0])
                case.assert_host_reaches(host, *a, *b)
            assert_unchanged(host, before)


def under_podman(dist: Path, archive: Path, log: Path, case: Case, *, warm: bool) -> None:
    """One with address and MAC of its own, and one beside it; networks are set up anew meanwhile."""
    with raise_host(dist, runtimes=True) as host, agent_if(host, log, warm=warm):
        network.install(host, case.conf)
        network.serve_outside(host)
        name = case.conf["name"]
        command = podman.install(host, archive, name)
        before = observe(host)
        options = ("run", "-d", "--network", name, "--cap-add", "NET_RAW")  # for ping
        command(*options, "--name", "cnima", "--ip", case.fixed, "--mac-address", MAC, image.NAME, *SERVE)
        command(*options, "--name", "cnimb", image.NAME)
        for _ in range(2):
            assert f" {case.fixed}/" in command.execute("cnima", "ip", "-4", "-o", "addr", "show", "eth0")
            assert MAC in command.execute("cnima", "ip", "link", "show", "eth0")
            assert command.execute("cnimb", "wget", "-qO-", f"http://{case.fixed}/") == image.PAGE
            command("network", "reload", "cnima")
        for address in case.of_host:
            command.execute("cnimb", "ping", "-c1", "-W3", address)
        assert command.execute("cnima", *network.ASK_WHO).strip() == case.seen_outside(case.fixed)
        case.assert_host_reaches(host, case.fixed)
        command("rm", "-f", "-t0", "cnima", "cnimb")
        assert_unchanged(host, before)


def under_cnitool(host: Host, case: Case, *, warm: bool) -> None:
    """Every verb: of one with address and MAC of its own, one that is tampered with, one that is lost."""
    conf = case.conf | {"cniVersion": "1.1.0"}
    network.install(host, conf)
    host.outside()
    first, second, lost = host.netns("cnim1", "cnim2", "cnimlost")
    before = observe(host)
    cnitool = Cnitool(host, conf["name"])
    with _running(host, warm=warm) as agent:
        cnitool("status", first)
        mine = cnitool.add(first, ips=[case.fixed], mac=MAC)
        assert mine["ips"][0]["address"].split("/")[0] == case.fixed
        assert MAC in [interface["mac"] for interface in mine["interfaces"] if interface.get("sandbox")]
        alone = observe(host)

        theirs = [ip["address"].split("/")[0] for ip in cnitool.add(second)["ips"]]
        for address in (*theirs, *case.of_host):
            host.run("ip", "netns", "exec", "cnim1", "ping", "-c1", "-W3", address)
        case.assert_host_reaches(host, case.fixed, *theirs)
        for netns in (first, second):
            cnitool("check", netns)
        host.run("ip", "-n", "cnim2", "addr", "flush", "dev", "eth0", "scope", "global")
        assert cnitool("check", second, check=False).returncode == 1
        cnitool("del", second)
        cnitool("del", second)
        assert_unchanged(host, alone)

        cnitool.add(lost)
        host.remove_netns("cnimlost")
        cnitool("gc", first)  # which knows of nobody who is to stay
        assert_unchanged(host, before)
        cnitool("del", first)
        assert_unchanged(host, before)
        assert leases(host) == []
        for name in ("cnim1", "cnim2"):
            assert host.run("ip", "-n", name, "-br", "link").stdout.split()[0::4] == ["lo"]
        if agent is not None:
            assert agent.served() > 0
            assert agent.refused() == {}


@dataclass(frozen=True)
class Cnitool:
    """The command, on a network of a host."""

    host: Host
    name: str

    def __call__(self, verb: str, netns: str, *, check: bool = True, **environment: str) -> Completed:
        tool = program("cnitool")
        assert tool is not None
        return self.host.run(tool, verb, self.name, netns, check=check, env={"CNI_PATH": BIN, **environment})

    def add(self, netns: str, **asked: Any) -> dict[str, Any]:
        """ADD, with the values of capabilities; its result."""
        result = json.loads(self("add", netns, CAP_ARGS=json.dumps(asked)).stdout)
        assert isinstance(result, dict)
        return result


def _running(host: Host, *, warm: bool) -> AbstractContextManager[Agent | None]:
    return running(host) if warm else nullcontext()


@contextmanager
def agent_if(host: Host, log: Path, *, warm: bool) -> Iterator[None]:
    """An agent, if it is to be WARM, where the executables look for it; it must have served every call."""
    if not warm:
        yield
        return
    status = (PROGRAM, "agent", "status", "--json")
    with log.open("wb") as file:
        process = host.start(PROGRAM, "agent", log=file)
    try:
        wait_for("the agent", lambda: host.run(*status, check=False).returncode == 0)
        yield
        page = json.loads(host.run(*status).stdout)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert page["served"] > 0
    assert not any(page["refused"].values()), page


@contextmanager
def cri_client(host: Host) -> Iterator[Cri]:
    from tests.e2e.lab.cri import Cri

    cri = Cri(str(host.path(containerd.SOCKET)))
    try:
        yield cri
    finally:
        cri.close()


@contextmanager
def cri_pod(cri: Cri, name: str) -> Iterator[tuple[list[str], Execute]]:
    """Removed as a kubelet does, so every DEL but the first lacks the netns."""
    pod = cri.run_pod(name)
    try:
        container = cri.run_container(pod, list(SERVE))

        def execute(*command: str) -> str:
            code, output = cri.execute(container, *command)
            assert code == 0, output
            return output

        yield pod.addresses, execute
    finally:
        cri.stop_pod(pod)
        cri.stop_pod(pod)
        cri.remove_pod(pod)
