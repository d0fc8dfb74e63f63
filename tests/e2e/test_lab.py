"""`cnictl lab` as an operator runs it: hosts, containers, the overlay between them, and its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.needs("ip")
NAMESPACES = Path("/run/netns")

Lab = Callable[..., subprocess.CompletedProcess[str]]


def name() -> str:
    return f"e2e{os.getpid()}"


def namespaces() -> list[str]:
    return sorted(path.name for path in NAMESPACES.glob(f"{name()}-*"))


def links() -> str:
    return subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout


def is_there(place: Path) -> bool:
    return bool(namespaces()) or any(place.iterdir())


def command(dist: Path, place: Path, *words: str) -> list[str]:
    verb, *options = words
    return [str(dist / "cnictl"), "lab", verb, "--name", name(), "--dir", str(place), *options]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    directory = tmp_path / "labs"
    directory.mkdir(mode=0o700)
    return directory


@pytest.fixture
def lab(dist: Path, place: Path) -> Iterator[Lab]:
    """Run one command of a lab; whatever a test leaves is removed."""

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command(dist, place, *words), capture_output=True, text=True, check=False)

    before = links()
    yield run
    run("down")
    assert not is_there(place)
    assert links() == before


def plugins(tmp_path: Path, *, add: str, delete: str = ":") -> str:
    """Make a directory with a plugin that does this."""
    directory = tmp_path / "plugins"
    directory.mkdir()
    program = directory / "vxlan"
    program.write_text(
        f'#!/bin/sh\ncat >/dev/null\ncase "$CNI_COMMAND" in ADD) {add};; DEL) {delete};; esac\n'
    )
    program.chmod(0o755)
    return str(directory)


def page(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    return json.loads(done.stdout)


@pytest.mark.parametrize("underlay", ["4", "6"])
@pytest.mark.parametrize(
    "options",
    [
        ("--mode", "l3"),
        ("--mode", "l3", "--direct-routing", "same-subnet"),
        ("--mode", "l3", "--zero-control"),
        ("--mode", "l3", "--backend", "multicast"),
        ("--mode", "l2"),
        ("--mode", "l2", "--bum", "head-end"),
        ("--mode", "l2", "--zero-control"),
        ("--mode", "l2", "--backend", "multicast"),
        ("--mode", "l3", "--dual-stack"),
        ("--mode", "l3", "--dual-stack", "--zero-control"),
        ("--mode", "l3", "--dual-stack", "--backend", "multicast"),
        ("--mode", "l2", "--dual-stack"),
        ("--mode", "l2", "--dual-stack", "--bum", "head-end"),
    ],
    ids=" ".join,
)
def test_everybody_reaches_everybody_and_nothing_is_left(
    lab: Lab, place: Path, options: tuple[str, ...], underlay: str
) -> None:
    done = lab("up", "--once", "--json", "--containers", "2", "--underlay", underlay, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    answers = page(done)["answers"]
    assert answers["matrix"] == [[True] * 3] * 3
    families = 1 + ("--dual-stack" in options)
    assert answers["containers"] == {"asked": 30 * families, "answered": 30 * families}
    assert answers["hosts"] == {"asked": 18 * families, "answered": 18 * families}
    assert not is_there(place)


def test_a_lab_stays_until_it_is_taken_down(lab: Lab, place: Path) -> None:
    built = lab("up", "--hosts", "2")
    assert (built.returncode, built.stderr) == (0, "")
    n = name()
    assert namespaces() == sorted([f"{n}-sw", f"{n}-h1", f"{n}-h1-c1", f"{n}-h2", f"{n}-h2-c1"])
    again = lab("up")
    assert again.returncode == 1
    assert f"a lab named {n} already exists" in again.stderr
    shown = lab("show", "--ping")
    assert shown.returncode == 0
    assert "2 of 2 between containers, 4 of 4 from hosts" in shown.stdout
    down = lab("down")
    assert down.returncode == 0, down.stdout + down.stderr
    assert "detached  2 containers\nleft      nothing of the overlay on any host\n" in down.stdout
    assert not is_there(place)
    nothing = lab("down")
    assert (nothing.returncode, nothing.stdout) == (0, f"nothing to take down: there is no lab named {n}\n")


def test_who_is_cut_off_is_seen(lab: Lab) -> None:
    assert lab("up", "--hosts", "3").returncode == 0
    subprocess.run(["ip", "-n", f"{name()}-h2", "link", "set", "eth0", "down"], check=True)
    shown = lab("show", "--ping", "--json")
    assert shown.returncode == 1
    assert page(shown)["answers"]["matrix"] == [
        [True, False, True],
        [False, True, False],
        [True, False, True],
    ]
    assert lab("down").returncode == 0


def test_what_cannot_be_built_is_taken_down_again(lab: Lab, place: Path, tmp_path: Path) -> None:
    error = json.dumps({"cniVersion": "1.1.0", "code": 7, "msg": "not today", "details": "vni is 0"})
    done = lab("up", "--plugins", plugins(tmp_path, add=f"echo '{error}'; exit 1"))
    assert done.returncode == 1
    assert f"ADD of {name()}-h" in done.stderr
    assert done.stderr.endswith("not today: vni is 0\n")
    assert not is_there(place)


def test_what_a_plugin_leaves_on_hosts_is_named(lab: Lab, tmp_path: Path) -> None:
    result = json.dumps({"cniVersion": "1.1.0", "ips": [{"address": "192.0.2.1/32"}]})
    add = f"ip link add left0 type bridge; echo '{result}'"
    own = plugins(tmp_path, add=add)
    built = lab("up", "--hosts", "1", "--plugins", own)
    assert built.returncode == 1
    assert f"no answer: from {name()}-h1 to 192.0.2.1" in built.stdout
    down = lab("down")
    assert down.returncode == 1
    assert "left      on hosts:\n          h1: link left0\n" in down.stdout


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_an_end_by_signal_takes_down_what_there_is(
    dist: Path, lab: Lab, place: Path, tmp_path: Path, number: signal.Signals
) -> None:
    del lab  # it looks after what is left
    own = plugins(tmp_path, add="sleep 2; exit 1")
    process = subprocess.Popen(command(dist, place, "up", "--plugins", own), stderr=subprocess.DEVNULL)
    wait_for_namespaces()
    process.send_signal(number)
    assert process.wait(60) != 0
    assert not is_there(place)


def test_a_lab_whose_builder_was_killed_is_removed_by_name(dist: Path, lab: Lab, place: Path) -> None:
    process = subprocess.Popen(command(dist, place, "up", "--hosts", "9"), stdout=subprocess.DEVNULL)
    wait_for_namespaces()
    process.kill()
    process.wait()
    assert is_there(place)
    refused = lab("up")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert lab("down").returncode == 0
    assert not is_there(place)


def test_only_one_command_at_a_time_works_on_a_lab(dist: Path, lab: Lab, place: Path, tmp_path: Path) -> None:
    own = plugins(tmp_path, add="sleep 3; exit 1")
    process = subprocess.Popen(command(dist, place, "up", "--plugins", own), stderr=subprocess.DEVNULL)
    wait_for_namespaces()
    down = lab("down")
    assert down.returncode == 1
    assert "is being built or removed by another command" in down.stderr
    assert process.wait(60) == 1


def wait_for_namespaces() -> None:
    end = time.monotonic() + 30
    while not namespaces() and time.monotonic() < end:
        time.sleep(0.02)
    assert namespaces()
