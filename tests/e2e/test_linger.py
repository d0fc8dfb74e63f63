"""
Where no agent is installed, the first call leaves a process behind that answers the next ones.

The hosts here have a pid namespace, as such a process exists only where the host's first process is.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.lab.agent import SOCKET, Speaker, build_of, rebuild, started, wait_for
from tests.e2e.lab.host import Host, raise_host
from tests.e2e.lab.network import BRIDGE
from tests.e2e.lab.plugin import BIN, Answer, Call, finish, run, start
from tests.e2e.lab.processes import running_in

pytestmark = [pytest.mark.needs("ip", "nft", "setpriv", "nsenter"), pytest.mark.timeout(180)]

OTHER = "0123456789abcdef"
NETWORK = BRIDGE | {"ipam": {"type": "host-local", "ranges": [[{"subnet": "10.85.0.0/16"}]]}}
ADDRESS = {"cniVersion": "1.1.0", "name": "cnienet", "type": "host-local", "ipam": NETWORK["ipam"]}
PLACE = "/run/cni-plugins"
NAME = "cni-lingering"
STATUS = Call("STATUS", ADDRESS)


def lingering(call: Call, seconds: int = 300) -> Call:
    return call.but(variables={**call.variables, "CNI_PLUGINS_LINGER": str(seconds)})


@pytest.fixture
def alone(dist: Path) -> Iterator[Host]:
    """A host with processes of its own, the first of which is in its namespaces."""
    with raise_host(dist, runtimes=True) as host:
        yield host


@pytest.fixture
def build(dist: Path) -> str:
    return build_of(dist / "bridge")


def left(host: Host) -> list[int]:
    """The processes that were left behind, as the machine numbers them; parents first."""
    return sorted(pid for pid, name in running_in(host.anchor).items() if name == NAME)


def served(host: Host, build: str) -> int:
    speaker = Speaker(host, f"{PLACE}/{build}.sock", f"{BIN}/host-local")
    try:
        return int(speaker.page()["served"])
    finally:
        speaker.close()


def files(host: Host) -> list[str]:
    place = host.path(PLACE)
    return sorted(os.listdir(place)) if place.exists() else []


def add_all(host: Host, count: int, **variables: str) -> list[Answer]:
    """So many containers at once."""
    names = [f"cnie{n}" for n in range(count)]
    netns = host.netns(*names)
    calls = [
        Call("ADD", NETWORK, container=name, netns=path, variables=variables)
        for name, path in zip(names, netns, strict=True)
    ]
    processes = [start(host, call) for call in calls]
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(finish, processes, calls))


def test_only_the_first_call_is_cold(alone: Host, build: str) -> None:
    [netns] = alone.netns("cnie1")
    add = Call("ADD", NETWORK, netns=netns)
    answer = run(alone, add).ok()
    wait_for("a process that stays", lambda: left(alone))
    assert files(alone) == [f"{build}.first", f"{build}.sock"]
    check = add.but(command="CHECK", conf={**NETWORK, "prevResult": answer.document})
    run(alone, check).ok()
    run(alone, add.but(command="DEL")).ok()
    assert served(alone, build) == 2
    [parent, *workers] = left(alone)
    assert len(workers) >= 2
    parents = {Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1] for pid in workers}
    assert parents == {str(parent)}


def test_twenty_at_once_from_nothing_start_one_interpreter(alone: Host, build: str) -> None:
    answers = add_all(alone, 20)
    assert [answer.code for answer in answers] == [0] * 20
    assert len({answer.addresses[0] for answer in answers}) == 20
    assert served(alone, build) == 19


def test_a_hundred_at_once_from_nothing(alone: Host, build: str) -> None:
    answers = add_all(alone, 100)
    assert [answer.code for answer in answers] == [0] * 100
    assert len({answer.addresses[0] for answer in answers}) == 100
    assert served(alone, build) == 99


@pytest.mark.parametrize(("score", "kept"), [(0, 500), (100, 500), (800, 800)])
def test_nothing_of_the_caller_is_kept(alone: Host, score: int, kept: int) -> None:
    reader, writer = os.pipe()
    script = f"cd /run && echo {score} >/proc/self/oom_score_adj && exec {BIN}/host-local"
    environment = alone.environment(lingering(STATUS).environment)

    with subprocess.Popen(
        alone.argv("sh", "-c", script),
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=[writer],
        start_new_session=True,
    ) as process:
        os.close(writer)
        out, err = process.communicate(STATUS.stdin, timeout=20)  # ends only at the end of both pipes
    assert (process.returncode, out, err) == (0, b"", b"")
    assert os.read(reader, 1) == b""  # nobody holds the other end
    os.close(reader)
    wait_for("a process that stays", lambda: len(left(alone)) > 2)
    parent, *workers = left(alone)
    for pid in (parent, *workers):
        root = Path(f"/proc/{pid}")
        targets = {number: os.readlink(root / "fd" / number) for number in os.listdir(root / "fd")}
        assert [targets[number] for number in "012"] == ["/dev/null"] * 3
        allowed = ("/dev/null", f"{BIN}/", "socket:[", "pipe:[", "anon_inode:", f"{PLACE}/", "/plugins/")
        strange = [target for target in targets.values() if not any(word in target for word in allowed)]
        assert not strange
        assert os.readlink(root / "cwd") == "/"
        assert (root / "oom_score_adj").read_text().strip() == str(kept)
    assert os.getsid(parent) == parent
    assert os.getsid(parent) != os.getsid(alone.anchor)


@pytest.mark.parametrize(
    "how", ["variable", "empty", "rubbish", "file", "no-agent", "network", "mounts", "user"]
)
def test_it_can_be_forbidden_and_exists_only_at_home(alone: Host, how: str) -> None:
    call, elsewhere = STATUS, []
    match how:
        case "variable":
            call = lingering(call, 0)
        case "empty":
            call = call.but(variables={"CNI_PLUGINS_LINGER": ""})
        case "rubbish":
            call = call.but(variables={"CNI_PLUGINS_LINGER": "5 minutes"})
        case "file":
            alone.write("/etc/cni/no-linger", "")
        case "no-agent":
            call = call.but(variables={"CNI_PLUGINS_AGENT": ""})
        case "network":
            elsewhere = ["unshare", "--net"]
        case "mounts":
            elsewhere = ["unshare", "--mount"]
        case "user":
            elsewhere = ["unshare", "--user", "--map-root-user"]
    done = alone.run(*elsewhere, call.program, env=call.environment, input=call.stdin.decode(), check=False)
    assert done.returncode == 0, done
    time.sleep(0.3)
    if how == "empty":
        assert left(alone)
    else:
        assert not left(alone)
        assert not files(alone)


def test_an_agent_takes_its_place(alone: Host) -> None:
    with started(alone, "--workers", "2") as agent:  # whose page has another pid than the machine's
        wait_for("the agent", lambda: alone.path(SOCKET).exists())
        run(alone, STATUS).ok()
        assert agent.served() == 1
        assert not left(alone)
        alone.run("pkill", "-KILL", "-x", "cnictl")  # it leaves its socket
    run(alone, STATUS).ok()
    wait_for("a process that stays", lambda: left(alone))


def test_nothing_is_left_after_the_idle_time(alone: Host) -> None:
    for _ in range(3):
        run(alone, lingering(STATUS, 1)).ok()
    wait_for("the end", lambda: not left(alone), 10)
    assert files(alone) == []
    run(alone, lingering(STATUS, 1)).ok()
    wait_for("another", lambda: left(alone))
    wait_for("its end", lambda: not left(alone), 10)
    assert files(alone) == []


def test_calls_keep_it_there(alone: Host, build: str) -> None:
    run(alone, lingering(STATUS, 2)).ok()
    wait_for("a process that stays", lambda: left(alone))
    before = left(alone)[0]
    for _ in range(8):
        time.sleep(0.5)
        run(alone, lingering(STATUS, 2)).ok()
    assert left(alone)[0] == before
    assert served(alone, build) == 8


@pytest.mark.parametrize("milliseconds", [0, 3, 6, 9, 12, 15, 18, 22, 26, 30, 35, 40, 50, 70])
def test_the_first_caller_is_killed_while_others_wait(alone: Host, build: str, milliseconds: int) -> None:
    names = [f"cnie{n}" for n in range(10)]
    netns = alone.netns(*names)
    calls = [
        Call("ADD", NETWORK, container=name, netns=path) for name, path in zip(names, netns, strict=True)
    ]
    first, *others = calls
    with start(alone, first) as killed:
        assert killed.stdin is not None
        with suppress(BrokenPipeError):
            killed.stdin.write(first.stdin)
            killed.stdin.close()
        processes = [start(alone, call) for call in others]
        time.sleep(milliseconds / 1000)
        os.killpg(killed.pid, signal.SIGKILL)  # what entered the host, and the plugin
        with ThreadPoolExecutor(len(others)) as pool:
            answers = list(pool.map(finish, processes, others))
    assert [answer.code for answer in answers] == [0] * len(others), answers
    assert len({answer.addresses[0] for answer in answers}) == len(others)
    assert served(alone, build) > len(others) / 2  # and did not all start Python
    for call in calls:
        run(alone, call.but(command="DEL")).ok()


def test_what_stayed_is_killed(alone: Host) -> None:
    run(alone, STATUS).ok()
    wait_for("a process that stays", lambda: len(left(alone)) > 2)
    before = left(alone)
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    for _ in range(3):
        run(alone, STATUS).ok()
    wait_for("another one", lambda: len(left(alone)) > 2)
    assert not set(before) & set(left(alone))


def test_its_parent_alone_is_killed(alone: Host) -> None:
    run(alone, STATUS).ok()
    wait_for("a process that stays", lambda: len(left(alone)) > 2)
    os.kill(left(alone)[0], signal.SIGKILL)
    for _ in range(3):
        run(alone, STATUS).ok()


def test_what_stayed_is_stopped(alone: Host, build: str) -> None:
    """One call waits for it and is answered cold; the next ones start anew; it ends when it goes on."""
    run(alone, STATUS).ok()
    wait_for("a process that stays", lambda: len(left(alone)) > 2)
    before = left(alone)
    for pid in before:
        os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    run(alone, STATUS).ok()
    assert time.monotonic() - began < 20
    began = time.monotonic()
    for _ in range(3):
        run(alone, STATUS).ok()
    assert time.monotonic() - began < 4
    assert set(left(alone)) - set(before)
    for pid in before:
        os.kill(pid, signal.SIGCONT)
    wait_for("its end", lambda: not set(before) & set(left(alone)))
    assert served(alone, build) >= 2
    assert files(alone) == [f"{build}.first", f"{build}.sock"]


def test_a_faulty_config_is_refused_in_the_same_words(alone: Host) -> None:
    faulty: list[Any] = [b"{", {**NETWORK, "mtu": "x"}, {**NETWORK, "ipam": {"type": "host-local"}}]
    [netns] = alone.netns("cnie1")
    calls = [Call("ADD", conf, netns=netns) for conf in faulty]
    cold = [run(alone, lingering(call, 0)) for call in calls]
    for _ in range(4):
        assert [run(alone, call) for call in calls] == cold
        run(alone, Call("ADD", NETWORK, netns=netns)).ok()
        run(alone, Call("DEL", NETWORK, netns=netns)).ok()


def test_two_builds_stay_side_by_side(alone: Host, dist: Path, build: str) -> None:
    alone.run("mount", "-t", "tmpfs", "tmpfs", BIN)
    place = alone.path(BIN)
    rebuild(dist / "bridge", place / "host-local", build)
    for _ in range(2):
        run(alone, STATUS).ok()
    rebuild(dist / "bridge", place / ".new", OTHER)
    (place / ".new").replace(place / "host-local")
    for _ in range(3):
        run(alone, STATUS).ok()
    assert (served(alone, build), served(alone, OTHER)) == (1, 2)
    assert files(alone) == sorted(f"{one}.{kind}" for one in (build, OTHER) for kind in ("first", "sock"))


def test_an_upgrade_under_load_fails_nobody(alone: Host, dist: Path, build: str) -> None:
    alone.run("mount", "-t", "tmpfs", "tmpfs", BIN)
    place = alone.path(BIN)
    for one in (build, OTHER):
        rebuild(dist / "bridge", place / f".{one}", one)

    def put(one: str) -> None:
        (place / ".link").hardlink_to(place / f".{one}")
        (place / ".link").replace(place / "host-local")

    put(build)
    with ThreadPoolExecutor(4) as pool:
        answers = pool.map(lambda _: run(alone, STATUS), range(120))
        for one in (OTHER, build, OTHER):
            time.sleep(0.3)
            put(one)
        assert [answer.code for answer in answers] == [0] * 120
    assert served(alone, build) + served(alone, OTHER) >= 100


@pytest.mark.parametrize("what", ["directory", "file", "link"])
@pytest.mark.parametrize("kind", ["sock", "first"])
def test_somebody_else_has_taken_a_name(alone: Host, build: str, kind: str, what: str) -> None:
    path = alone.path(f"{PLACE}/{build}.{kind}")
    path.parent.mkdir(mode=0o700)
    treasure = alone.write("/run/treasure", "kept")
    match what:
        case "directory":
            (path / "full").mkdir(parents=True)
        case "file":
            path.write_text("")
        case "link":
            path.symlink_to("/run/treasure")
    for _ in range(2):
        run(alone, STATUS).ok()
    assert treasure.read_text() == "kept"


@pytest.mark.parametrize("options", ["ro", "size=4k,nr_inodes=2"])
def test_run_is_full_or_read_only(alone: Host, options: str) -> None:
    alone.run("mount", "-t", "tmpfs", "-o", f"{options},mode=755", "tmpfs", "/run")
    for _ in range(2):
        run(alone, STATUS).ok()
    assert not left(alone)


@pytest.mark.parametrize("mode", ["777", "775"])
def test_a_directory_where_others_can_write_is_not_used(alone: Host, mode: str) -> None:
    alone.run("install", "-d", "-m", mode, PLACE)
    run(alone, STATUS).ok()
    time.sleep(0.3)
    assert not left(alone)
    assert not files(alone)


@pytest.mark.parametrize("how", ["capability", "privileges"])
def test_nothing_stays_of_a_caller_that_is_confined(alone: Host, how: str) -> None:
    confined = {"capability": ["--bounding-set", "-sys_time"], "privileges": ["--no-new-privs"]}[how]
    done = alone.run(
        "setpriv", *confined, STATUS.program, env=STATUS.environment, input=STATUS.stdin.decode(), check=False
    )
    assert done.returncode == 0, done
    time.sleep(0.3)
    assert not left(alone)
    run(alone, STATUS).ok()
    wait_for("a process that stays", lambda: left(alone))


def test_limits_are_those_of_the_host(alone: Host) -> None:
    script = f"ulimit -S -n 64; ulimit -S -l 16; exec nice -n 5 {STATUS.program}"
    alone.run("sh", "-c", script, env=STATUS.environment, input=STATUS.stdin.decode())
    wait_for("a process that stays", lambda: len(left(alone)) > 2)
    for pid in left(alone):
        for item in ("Max open files", "Max locked memory"):
            lines = [Path(f"/proc/{one}/limits").read_text().splitlines() for one in (pid, alone.anchor)]
            own, hosts = ([line for line in text if line.startswith(item)] for text in lines)
            assert own == hosts
        assert os.getpriority(os.PRIO_PROCESS, pid) == os.getpriority(os.PRIO_PROCESS, alone.anchor)


def test_a_busy_process_is_not_taken_for_a_stopped_one(alone: Host, build: str) -> None:
    """Its workers wait for slow IPAM plugins; another caller works itself, and no call is broken off."""
    slow = f"#!/bin/sh\n[ $CNI_COMMAND = ADD ] && sleep 12\nexec {BIN}/host-local\n"
    alone.write("/opt/slow/slow", slow).chmod(0o755)
    run(alone, STATUS).ok()
    wait_for("a process that stays", lambda: len(left(alone)) > 2)
    before = left(alone)
    conf = {**NETWORK, "ipMasq": False, "ipam": {**NETWORK["ipam"], "type": "slow"}}
    names = [f"cnie{n}" for n in range(len(before))]
    calls = [
        Call("ADD", conf, container=name, netns=path, variables={"CNI_PATH": f"{BIN}:/opt/slow"})
        for name, path in zip(names, alone.netns(*names), strict=True)
    ]
    with ThreadPoolExecutor(len(calls)) as pool:
        slow_ones = [pool.submit(finish, start(alone, call), call) for call in calls]
        time.sleep(1)
        run(alone, STATUS).ok()
        assert left(alone) == before
        assert [one.result().code for one in slow_ones] == [0] * len(calls)
    assert left(alone) == before
    run(alone, STATUS).ok()
    assert files(alone) == [f"{build}.first", f"{build}.sock"]
