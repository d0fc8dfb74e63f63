"""The words with which `cnictl agent` starts itself again."""

import inspect

import pytest

from cni_plugins.agent.serve import Options
from cni_plugins.cli.agent import command, process

OPTIONS = Options(
    workers=3,
    socket="/run/a b.sock",
    recycle_after=5,
    request_timeout=2.5,
    metrics="unix:/m",
    cache_dir=("/a", "/b=c"),
)


def test_words_are_understood_again() -> None:
    for options in (
        OPTIONS,
        Options(2),
        OPTIONS._replace(repair=False, conf_dir="/c"),
        OPTIONS._replace(keeper=False),
    ):
        assert process.parse_arguments(process.arguments(options)) == options


def test_words_are_options_of_the_command_so_that_another_build_can_parse_them() -> None:
    assert process.arguments(OPTIONS) == [
        "--workers=3",
        "--socket=/run/a b.sock",
        "--recycle-after=5",
        "--request-timeout=2.5",
        "--metrics=unix:/m",
        "--repair",
        "--keeper",
        "--cache-dir=/a",
        "--cache-dir=/b=c",
        "--conf-dir=",
    ]


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--workers=3"],
        ["--workers=x", "--socket=/s", "--recycle-after=5", "--request-timeout=2.5", "--metrics="],
        [*process.arguments(OPTIONS), "--new=1"],
        [*process.arguments(OPTIONS), "--no-repair"],
        [word for word in process.arguments(OPTIONS) if word != "--repair"],
        [word for word in process.arguments(OPTIONS) if word != "--keeper"],
    ],
)
def test_words_of_another_build_are_left_to_the_parser(words: list[str]) -> None:
    assert process.parse_arguments(words) is None


def test_the_help_names_the_defaults_that_the_agent_has() -> None:
    told = inspect.getsource(command)
    defaults = Options._field_defaults
    assert f"Default: {defaults['socket']}." in told
    assert f"Default: {defaults['recycle_after']}." in told
    assert f"Default: {defaults['request_timeout']:.0f}." in told
