"""Requests the status document from a running agent."""

import socket
from typing import Any

from cni_plugins.agent import protocol
from cni_plugins.protocol import json_text

_TIMEOUT = 5.0  # seconds
_LIMIT = 1 << 22  # bytes; the status of a thousand workers is shorter


class NoAgent(Exception):
    """No agent has answered; the message says what was tried."""


def ask(path: str) -> dict[str, Any]:
    """Return the status document of the agent; `Scoreboard.status` lists the keys.

    :raises NoAgent: when no agent listens there, or none of its workers answers in time.
    """
    try:
        return _object(_request(path), path)
    except TimeoutError as err:
        raise NoAgent(
            f"the agent at {path} did not answer within {_TIMEOUT:.0f} s: all its workers are busy"
        ) from err
    except OSError as err:
        raise NoAgent(f"no agent at {path}: {err.strerror or err}") from err


def _request(path: str) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as agent:
        agent.settimeout(_TIMEOUT)
        agent.connect(path)
        agent.send(protocol.STATUS + b"\0")
        head = agent.recv(protocol.LIMIT)
        length = protocol.ANSWER.unpack(head)[1] if len(head) == protocol.ANSWER.size else _LIMIT
        text = b""
        while len(text) < length < _LIMIT and (part := agent.recv(protocol.LIMIT)):
            text += part
        if len(text) != length:
            raise _not_our_agent(path)
        return text


def _object(text: bytes, path: str) -> dict[str, Any]:
    try:
        found = json_text.load(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise _not_our_agent(path)
    return found


def _not_our_agent(path: str) -> NoAgent:
    return NoAgent(f"the process that listens at {path} is not an agent of these plugins")
