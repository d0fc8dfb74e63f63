"""The frozen cnictl: what is in it, what it installs, and the agent it becomes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from cni_plugins.cli.commands import app
from tests import cni

NAMES = ("bridge", "host-local", "static", "loopback")
PLUGIN_LIMIT = 24_000_000
AGENT_LIMIT = 45_000  # KB for the agent with two workers, shared pages counted once
BUILD = re.compile(rb"@build-id:([0-9a-f]{16})")
CONF = b'{"cniVersion":"1.1.0","name":"n","type":"loopback"}'


@pytest.fixture
def cnictl(dist: Path) -> Path:
    return dist / "cnictl"


def run(*words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words,
        env={"PATH": os.environ["PATH"], **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def wait_for(path: Path) -> None:
    end = time.monotonic() + 20
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.02)
    assert path.exists()


@contextmanager
def running(*command: str | Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.communicate(timeout=30)
        finally:
            process.kill()


def test_what_only_operators_need_is_in_no_plugin(dist: Path) -> None:
    plugin, cnictl = (dist / "bridge").read_bytes(), (dist / "cnictl").read_bytes()
    assert len(plugin) <= PLUGIN_LIMIT
    for module in (
        b"cni_plugins.agent.metrics.exporter",
        b"cni_plugins.cli",
        b"typer.core",
        b"rich.table",
        b"prometheus_client",
    ):
        assert module not in plugin
        assert module in cnictl


def test_both_programs_and_the_agents_code_carry_one_build_id(dist: Path, cnictl: Path) -> None:
    ids = {found[1] for name in (*NAMES, "cnictl") if (found := BUILD.search((dist / name).read_bytes()))}
    assert len(ids) == 1, "no C compiler: these executables always run cold"
    (build,) = ids
    assert build != b"0" * 16
    assert run(cnictl, "--version").stdout.endswith(f" (build {build.decode()})\n")


@pytest.mark.parametrize(
    "words",
    [
        ("--version",),
        ("--help",),
        ("install", "--help"),
        ("uninstall", "--help"),
        ("agent", "--help"),
        ("agent", "status", "--help"),
        ("overlay", "--help"),
        *(("overlay", command, "--help") for command in ("sync", "status", "peers", "probe")),
    ],
)
def test_every_command_runs_frozen(cnictl: Path, words: tuple[str, ...]) -> None:
    done = run(cnictl, *words)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("agent", "status", "--socket", "/nowhere"), 1),
        (("agent", "--workers", "0"), 2),
        (("agent", "--metrics", "0.0.0.0:80"), 2),
        (("agent", "--socket", "relative"), 2),
        (("agent", "--workers", "2", "status"), 2),
        (("nonsense",), 2),
    ],
)
def test_a_mistake_is_no_traceback(cnictl: Path, words: tuple[str, ...], code: int) -> None:
    done = run(cnictl, *words)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr
    assert "Traceback" not in done.stderr
    assert code == 2 or len(done.stderr.splitlines()) == 1


def test_install_brings_a_suite_that_works_and_uninstall_takes_it_away(cnictl: Path, tmp_path: Path) -> None:
    image = tmp_path / "image"
    done = run(cnictl, "install", "--destdir", image)
    assert done.returncode == 0, done.stderr
    for name in NAMES:
        assert '"1.1.0"' in run(image / "opt/cni/bin" / name, CNI_COMMAND="VERSION").stdout
    installed = image / "usr/local/bin/cnictl"
    assert run(installed, "--version").stdout == run(cnictl, "--version").stdout
    assert "everything is up to date" in run(cnictl, "install", "--destdir", image).stdout
    missing = run(installed, "install", "--destdir", image)
    assert (missing.returncode, missing.stdout) == (1, "")
    assert "name the directory" in missing.stderr
    # By the installed one itself, which thereby removes the file it runs from.
    done = run(installed, "uninstall", "--destdir", image)
    assert done.returncode == 0, done.stderr
    assert not [path for path in image.rglob("*") if path.is_file()]


@pytest.mark.needs("unshare", "mount")
def test_systemd_is_told_in_order(cnictl: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    fake = tmp_path / "bin" / "systemctl"
    fake.parent.mkdir()
    fake.write_text(f'#!/bin/sh\nls /etc/systemd/system >> {log}\necho "$@" >> {log}\n')
    fake.chmod(0o755)
    options = "--prefix /mnt/suite --bin-dir /mnt/cni"
    script = f"""
        for place in /run /etc /mnt; do mount -t tmpfs -o mode=755 tmpfs $place; done
        mkdir -p /run/systemd/system
        {cnictl} install {options} --no-start > {tmp_path}/quiet
        test ! -e {log}
        {cnictl} install {options}
        {cnictl} uninstall {options}
        find /mnt /etc -type f
    """
    command = ["unshare", "-m", "--propagation", "private", "sh", "-ec", script]
    done = run(*command, PATH=f"{fake.parent}:{os.environ['PATH']}")
    assert (done.returncode, done.stderr) == (0, "")
    agent = "cni-plugins-agent.socket cni-plugins-agent.service"
    units = ["cni-overlay-sync.service", "cni-overlay-sync.timer", *reversed(agent.split())]
    assert log.read_text().splitlines() == [
        *(*units, "daemon-reload"),
        *(*units, "enable --now cni-plugins-agent.socket"),
        *(*units, "try-reload-or-restart cni-plugins-agent.service"),
        *(*units, f"disable --now {agent} cni-overlay-sync.timer"),
        "daemon-reload",
    ]
    assert "enable --now cni-plugins-agent.socket" in (tmp_path / "quiet").read_text()
    assert done.stdout.splitlines()[-1] == "run systemctl daemon-reload"


@pytest.mark.needs("systemd-analyze")
def test_systemd_accepts_the_units(cnictl: Path, tmp_path: Path) -> None:
    run(cnictl, "install", "--destdir", tmp_path)
    units = sorted((tmp_path / "usr/local/lib/systemd/system").iterdir())
    assert [unit.suffix for unit in units] == [".service", ".timer", ".service", ".socket"]
    for unit in units:
        unit.write_text(unit.read_text().replace("/usr/local/bin", f"{tmp_path}/usr/local/bin"))
    done = run("systemd-analyze", "verify", "--man=no", *units)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_agent_is_small_and_one_process_with_its_command(cnictl: Path, tmp_path: Path) -> None:
    socket = tmp_path / "private" / "agent.sock"
    socket.parent.mkdir(mode=0o700)
    # Not the caches of the machine: it would repair what they remember.
    options = ("--workers", "2", "--socket", socket, "--cache-dir", tmp_path, "--no-keeper")
    with running(cnictl, "agent", *options) as agent:
        wait_for(socket)
        time.sleep(0.5)
        page = run(cnictl, "agent", "status", "--socket", socket)
        assert page.returncode == 0, page.stderr
        assert f"pid {agent.pid}," in page.stdout
        assert Path(f"/proc/{agent.pid}/comm").read_text() == "cnictl\n"
        children = Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()
        assert len(children) == 3  # two workers, and the process that watches the ruleset
        assert sum(pss(pid) for pid in (str(agent.pid), *children)) <= AGENT_LIMIT
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(30) == 0


def pss(pid: str) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


@pytest.mark.needs("systemd-socket-activate", "unshare")
def test_a_socket_of_systemd_reaches_the_agent(cnictl: Path, dist: Path, tmp_path: Path) -> None:
    socket = tmp_path / "agent.sock"
    activation = ("systemd-socket-activate", "--seqpacket", "-l", str(socket))
    with running(*activation, str(cnictl), "agent", "--workers", "1", "--no-repair"):
        wait_for(socket)
        # The first caller wakes the agent, and waits for it.
        first = subprocess.run(
            [dist / "loopback"],
            env=cni.environment(
                "STATUS", container=None, netns=None, ifname=None, CNI_PLUGINS_AGENT=str(socket)
            ),
            input=CONF,
            capture_output=True,
            timeout=30,
            check=False,
        )
        assert (first.returncode, first.stdout) == (0, b"")
        page = run(cnictl, "agent", "status", "--socket", socket)
        assert "\nserved   1\n" in page.stdout, page.stdout + page.stderr


def commands(group: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every command of the sources with the words that call it."""
    yield words, group
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*words, name))


def test_the_frozen_program_helps_with_every_command_and_option(cnictl: Path) -> None:
    """Freezing strips docstrings, so help must not be one."""
    for words, command in commands(get_command(app)):
        done = run(cnictl, *words, "--help", COLUMNS="300")
        shown = " ".join(done.stdout.split())
        assert done.returncode == 0, done.stderr
        assert command.help, words
        assert command.help in shown, words
        for option in command.params:
            assert option.help, (words, option.name)
            assert option.help in shown, (words, option.name)
