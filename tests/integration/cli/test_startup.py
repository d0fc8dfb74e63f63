"""What cnictl loads: the agent's memory is every node's, and its version is asked by every script."""

import subprocess
import sys

import pytest

OPERATORS = {"typer", "rich", "pydantic.deprecated", "shellingham"}


def loaded(*words: str) -> tuple[int, set[str]]:
    """Return the exit code, and every module that was imported."""
    line = [sys.executable, "-X", "importtime", "-m", "cni_plugins.cli.main", *words]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    timed = (text for text in done.stderr.splitlines() if text.startswith("import time:"))
    return done.returncode, {text.rpartition("|")[2].strip() for text in timed}


def test_the_version_loads_nothing_of_the_commands() -> None:
    code, modules = loaded("--version")
    assert code == 0
    assert not modules & {*OPERATORS, "pydantic", "json", "subprocess", "cni_plugins.agent.serve"}


def test_the_agents_process_carries_no_parser_of_options() -> None:
    options = (
        "--workers=1",
        "--socket=/nowhere/at/all",
        "--recycle-after=1",
        "--request-timeout=1.0",
        "--metrics=",
        "--repair",
        "--keeper",
        "--conf-dir=",
    )
    code, modules = loaded("@agent", *options)
    assert code == 1
    assert "cni_plugins.agent.serve" in modules
    assert not modules & OPERATORS
    assert not {name for name in modules if name.startswith("cni_plugins.cli.")} - {
        "cni_plugins.cli.main",
        "cni_plugins.cli.agent",
        "cni_plugins.cli.agent.process",
        "cni_plugins.cli.version",
        "cni_plugins.cli.failure",
    }


@pytest.mark.parametrize(
    "words", [["agent", "status", "--socket", "/nowhere"], ["install", "--from", "/nowhere"]]
)
def test_plain_commands_load_no_table_drawing(words: list[str]) -> None:
    code, modules = loaded(*words)
    assert code == 1
    assert "typer" in modules
    assert "rich.console" not in modules
