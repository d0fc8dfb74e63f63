"""One agent for all tests that only ask it things, in the network namespace the tests run in."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.agent import rig
from tests.integration.agent.rig import Agent


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if rig.lacking():
        pytest.skip(f"not installed: {rig.lacking()}")
    return tmp_path_factory.mktemp("agent")


@pytest.fixture(scope="session")
def warm(place: Path) -> Path:
    """Return the directory of executables that ask an agent first."""
    return rig.compile_callers(place / "warm")


@pytest.fixture(scope="session")
def cold(place: Path) -> Path:
    """Return the directory of executables that do the work themselves."""
    return rig.write_cold(place / "cold")


@pytest.fixture(scope="session")
def agent(place: Path) -> Iterator[Agent]:
    made = Agent(place)
    made.wait()
    yield made
    assert made.stop() == 0
    assert not made.socket.exists()


@pytest.fixture
def start(tmp_path: Path, place: Path) -> Iterator[Callable[..., Agent]]:
    """Start agents of the test's own, which end with it."""
    made: list[Agent] = []

    def starting(**options: object) -> Agent:
        made.append(Agent(tmp_path, **options))
        return made[-1]

    yield starting
    for one in made:
        one.stop()
