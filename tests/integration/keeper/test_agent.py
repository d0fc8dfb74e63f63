"""The agent runs a keeper beside its workers, which ends with it and is replaced when it is killed."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.integration.agent.rig import Agent
from tests.integration.conftest import Namespace
from tests.integration.keeper.conftest import wait

_PRIVATE = 'mount --make-rprivate / && mount -t tmpfs none /run && mount -t tmpfs none /var/lib && exec "$@"'


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Agent]]:
    if not shutil.which("nsenter") or os.geteuid() != 0:
        pytest.skip("needs root and nsenter")
    made: list[Agent] = []
    host = Namespace()

    def starting(**options: Any) -> Agent:
        inside = ("nsenter", f"--net={host.path}", "unshare", "-m", "sh", "-c", _PRIVATE, "sh")
        conf_dir = tmp_path / "net.d"
        conf_dir.mkdir(exist_ok=True)
        made.append(Agent(tmp_path, inside=inside, keeper=True, conf_dir=str(conf_dir), **options))
        made[-1].wait()
        return made[-1]

    yield starting
    for one in made:
        if one.process.poll() is None:
            assert one.stop() == 0
    host.close()


def keeper_of(agent: Agent) -> int:
    pid = agent.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for child in children:
        with suppress(OSError):  # it has ended
            if Path(f"/proc/{child}/comm").read_text().strip() == "cni-keeper":
                return int(child)
    return 0


def test_a_keeper_runs_is_replaced_and_ends_with_the_agent(start: Callable[..., Agent]) -> None:
    agent = start()
    wait(lambda: keeper_of(agent))
    first = keeper_of(agent)
    os.kill(first, signal.SIGKILL)
    wait(lambda: keeper_of(agent) not in (0, first))
    second = keeper_of(agent)
    assert agent.stop() == 0
    assert not Path(f"/proc/{second}").exists()


def test_a_store_that_is_away_keeps_no_agent_from_starting_or_ending(
    start: Callable[..., Agent], tmp_path: Path
) -> None:
    (tmp_path / "net.d").mkdir()
    (tmp_path / "net.d" / "blue.conf").write_text(
        '{"name": "blue", "type": "vxlan", "network": "10.0.0.0/16",'
        ' "backend": {"type": "etcd", "endpoints": ["http://127.0.0.1:1"]}}'
    )
    agent = start()
    wait(lambda: any("keeper=broken network=blue registry=etcd what=" in line for line in agent.journal()))
    assert agent.stop() == 0
