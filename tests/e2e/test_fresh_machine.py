"""Runs the README's two commands on a bare Debian, whose Python is the lowest that we promise."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator

import pytest

from tests.e2e.lab.bare import Bare, bare_machine
from tests.e2e.lab.tools import REPOSITORY

pytestmark = [
    pytest.mark.needs("apt-get", "debootstrap", "git", "pivot_root", "setpriv", "tar", "unshare"),
    pytest.mark.timeout(1500),
]

SUMMARY = re.compile(r"^(?=.*\d+ passed)(.*) in [\d.]+s", re.MULTILINE)
SKIPS = 10
USER = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "env", "HOME=/nonexistent")


@pytest.fixture(scope="module")
def machine() -> Iterator[Bare]:
    with bare_machine() as bare:
        yield bare


def succeeded(machine: Bare, *command: str, timeout: float) -> str:
    done = machine.run(*command, timeout=timeout)
    assert done.returncode == 0, f"{' '.join(command)}: exit {done.returncode}\n{done.stdout[-6000:]}"
    return done.stdout


def test_its_python_is_the_lowest_that_is_promised(machine: Bare) -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    version = succeeded(machine, "python3", "--version", timeout=10).split()[1]
    assert project["requires-python"] == f">={version}"
    assert f"Python {version} or newer" in (REPOSITORY / "README.md").read_text()


def test_a_user_is_told_at_once_what_root_has_to_install(machine: Bare) -> None:
    done = machine.run(*USER, "make", "demo", timeout=10)
    *_, said, command, _ = done.stdout.splitlines()
    assert done.returncode != 0
    assert said.startswith("make demo: not installed: ")
    assert command.startswith("apt-get install -y --no-install-recommends python3.11-venv libpython3.11 ")


def test_make_test_passes(machine: Bare) -> None:
    output = succeeded(machine, "make", "test", timeout=1200)
    assert "make test: not installed: " in output
    unit, integration = SUMMARY.findall(output)
    for summary in (unit, integration):
        counts = {word: int(count) for count, word in re.findall(r"(\d+) (\w+)", summary)}
        assert set(counts) <= {"passed", "skipped"}
        assert counts.get("skipped", 0) <= SKIPS, output[-6000:]
    lacking = [line for line in output.splitlines() if line.startswith("SKIPPED") and "not installed" in line]
    assert [line for line in lacking if "the reference is not installed" not in line] == []


def test_make_demo_passes(machine: Bare) -> None:
    output = succeeded(machine, "make", "demo", timeout=600)
    assert "own bootloader" not in output
    assert "== nothing is left" in output


def test_nothing_is_installed_again(machine: Bare) -> None:
    assert succeeded(machine, "packaging/needs.sh", "test", "demo", timeout=10) == ""
