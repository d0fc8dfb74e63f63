"""Asks a running agent how it is."""

import json
import socket
from typing import Any

from cni_plugins.agent import protocol

_PATIENCE = 5.0  # seconds
_LIMIT = 1 << 22  # bytes; a thousand workers have less to say


class NoAgent(Exception):
    """Nobody answers; the message says what was tried."""


def ask(path: str) -> dict[str, Any]:
    """Return what the agent says of itself; `Scoreboard.page` lists the keys.

    :raises NoAgent: when there is none, or all its workers are busy for too long.
    """
    try:
        return _object(_asked(path), path)
    except TimeoutError as err:
        raise NoAgent(f"the agent at {path} did not answer within {_PATIENCE:.0f} s") from err
    except OSError as err:
        raise NoAgent(f"no agent at {path}: {err.strerror or err}") from err


def _asked(path: str) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as agent:
        agent.settimeout(_PATIENCE)
        agent.connect(path)
        agent.send(protocol.STATUS + b"\0")
        head = agent.recv(protocol.LIMIT)
        length = protocol.ANSWER.unpack(head)[1] if len(head) == protocol.ANSWER.size else _LIMIT
        text = b""
        while len(text) < length < _LIMIT and (part := agent.recv(protocol.LIMIT)):
            text += part
        if len(text) != length:
            raise _stranger(path)
        return text


def _object(text: bytes, path: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise _stranger(path)
    return found


def _stranger(path: str) -> NoAgent:
    return NoAgent(f"what listens at {path} is no agent of ours")
