"""What somebody else's program answers is said to be none of ours, and never believed or waited for long."""

import json
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from cni_plugins.agent.status import NoAgent, ask


@contextmanager
def answering(path: Path, packets: Sequence[bytes]) -> Iterator[None]:
    """Answer one caller with these packets, and close."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.bind(str(path))
        server.listen()

        def serve() -> None:
            connection, _ = server.accept()
            with connection, suppress(BrokenPipeError):  # who is not believed need not be heard out
                connection.recv(100)
                for packet in packets:
                    connection.send(packet)

        thread = threading.Thread(target=serve)
        thread.start()
        yield
        thread.join()


def head(length: int, code: int = 0) -> bytes:
    return struct.pack("=III", code, length, 0)


def test_an_agent_is_believed(tmp_path: Path) -> None:
    text = json.dumps({"build": "x" * 100_000}).encode()
    packets = [head(len(text)), *(text[at : at + 30_000] for at in range(0, len(text), 30_000))]
    with answering(tmp_path / "s", packets):
        assert ask(str(tmp_path / "s")) == json.loads(text)


@pytest.mark.parametrize(
    "packets",
    [
        [],
        [b"HTTP/1.1 400 Bad Request"],
        [b"x" * 12, b"{}"],
        [head(0)],
        [head(2), b"[]"],
        [head(2), b"{"],
        [head(3), b"\xff\xfe\xfd"],
        [head(1 << 31), b"{}", b" "],
        [head(100_000), *[b"[" * 25_000] * 4],
    ],
    ids=["closed", "foreign", "noise", "empty", "list", "broken", "binary", "short", "deep"],
)
def test_a_wrong_program_is_no_agent(tmp_path: Path, packets: list[bytes]) -> None:
    path = tmp_path / "s"
    with (
        answering(path, packets),
        pytest.raises(NoAgent, match=f"the process that listens at {path} is not an agent of these plugins"),
    ):
        ask(str(path))


def test_nobody_is_no_agent(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with pytest.raises(NoAgent, match=f"no agent at {path}: No such file or directory"):
        ask(str(path))
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as gone:
        gone.bind(str(path))
    with pytest.raises(NoAgent, match=f"no agent at {path}: Connection refused"):
        ask(str(path))


def test_a_path_that_is_too_long_is_said_to_be() -> None:
    with pytest.raises(NoAgent, match="AF_UNIX path too long"):
        ask("/" + "x" * 200)
