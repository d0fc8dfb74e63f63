"""The agent's socket: nobody else's is taken, and nobody else can take it. Handed over: see integration."""

import os
import socket
import stat
from pathlib import Path

import pytest

from cni_plugins.agent.listener import CannotListen, open_listener
from cni_plugins.agent.systemd import Supervisor


def made(path: Path, environment: dict[str, str] | None = None) -> socket.socket:
    return open_listener(str(path), {} if environment is None else environment).socket


def test_the_socket_is_for_this_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "run" / "agent.sock"
    with made(path) as found:
        assert (found.family, found.type) == (socket.AF_UNIX, socket.SOCK_SEQPACKET)
        assert found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        assert not found.getblocking()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_making_it_leaves_the_umask_alone(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        made(tmp_path / "run" / "agent.sock").close()
    finally:
        assert os.umask(before) == 0o027


def test_a_socket_that_nobody_listens_on_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    made(path).close()
    with made(path), socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as caller:
        caller.connect(str(path))


def test_another_agent_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    with made(path) as first:
        with pytest.raises(CannotListen, match="another agent listens at"):
            made(path)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as caller:
            caller.connect(str(path))
            first.accept()[0].close()


def test_a_socket_of_another_kind_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(CannotListen, match="cannot listen at"):
            made(path)
        assert path.is_socket()


def test_what_is_no_socket_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(CannotListen, match="cannot listen at"):
        made(path)
    assert path.read_text() == "data"


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770, 0o702])
def test_a_directory_that_others_can_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    directory.chmod(mode)
    with pytest.raises(CannotListen, match="only this user can write to"):
        made(directory / "agent.sock")


def test_a_directory_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "run").symlink_to("real")
    with pytest.raises(CannotListen, match="only this user can write to"):
        made(tmp_path / "run" / "agent.sock")


def test_a_directory_of_directories_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(CannotListen, match="cannot listen at .*: No such file or directory"):
        made(tmp_path / "not" / "there" / "agent.sock")


def test_a_path_that_is_too_long_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(CannotListen, match="cannot listen at .*: AF_UNIX path too long"):
        made(tmp_path / ("x" * 120))


def test_what_was_handed_to_another_process_is_not_ours(tmp_path: Path) -> None:
    environment = {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getppid()), "LISTEN_FDNAMES": "x", "A": "b"}
    path = tmp_path / "agent.sock"
    with made(path, environment):
        assert path.is_socket()
    assert environment == {"A": "b"}


def test_no_descriptors_handed_over_are_none(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    with made(path, {"LISTEN_FDS": "0", "LISTEN_PID": str(os.getpid())}):
        assert path.is_socket()


@pytest.mark.parametrize("abstract", [False, True])
def test_a_supervisor_is_told(tmp_path: Path, *, abstract: bool) -> None:
    address = f"@cni-plugins-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as hears:
        hears.bind(f"\0{address[1:]}" if abstract else address)
        Supervisor({"NOTIFY_SOCKET": address}).notify("READY=1", "STATUS=fine")
        assert hears.recv(100) == b"READY=1\nSTATUS=fine"


@pytest.mark.parametrize("address", ["", "/nowhere", "@nobody", "x" * 200])
def test_a_supervisor_that_cannot_be_told_is_no_error(address: str) -> None:
    Supervisor({"NOTIFY_SOCKET": address}).notify("READY=1")


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({}, 0.0),
        ({"WATCHDOG_USEC": "3000000"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, 0.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
        ({"WATCHDOG_USEC": "\u00b2"}, 0.0),
    ],
)
def test_a_watchdog_is_ours_if_it_says_so(environment: dict[str, str], seconds: float) -> None:
    given = dict(environment)
    assert Supervisor(given).watchdog == seconds
    assert given == {}


def test_a_successor_finds_the_same_supervisor() -> None:
    given = {"NOTIFY_SOCKET": "/run/notify", "WATCHDOG_USEC": "3000000"}
    assert Supervisor(dict(given)).environment() == given
    assert Supervisor({}).environment() == {}
