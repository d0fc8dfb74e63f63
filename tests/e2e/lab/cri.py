"""
A client of the Container Runtime Interface (k8s.io/cri-api runtime/v1/api.proto) with grpcio alone.

Messages are written field by field, `[(number, value), …]`, and read as `{number: [value, …]}`, so no
generated code is needed for the dozen fields a pod takes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc  # type: ignore[import-untyped]

from tests.e2e.lab import image

Fields = list[tuple[int, Any]]
Message = dict[int, list[Any]]

VARINT, FIXED64, BYTES = 0, 1, 2
PROTOCOLS = ("tcp", "udp", "sctp")  # enum Protocol


@dataclass(frozen=True)
class Pod:
    """A running pod sandbox."""

    name: str
    sandbox: str
    addresses: list[str]
    config: Fields
    netns: str
    """As the runtime's own host names it."""


class Cri:
    """The runtime service behind a unix socket."""

    def __init__(self, socket: str) -> None:
        self._channel = grpc.insecure_channel(f"unix://{socket}")

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def call(self, method: str, fields: Fields) -> Message:
        """One call of the runtime service."""
        path = f"/runtime.v1.RuntimeService/{method}"
        answer: Message = self._channel.unary_unary(path, encode, decode)(
            fields, timeout=60, wait_for_ready=True
        )
        return answer

    def networks(self) -> list[str]:
        """Status: the names of the networks that the runtime has loaded; its own loopback is one of them."""
        info = _texts(self.call("Status", [(1, 1)]), 2)
        loaded = json.loads(info["cniconfig"])["Networks"] or []
        return [item["Config"]["Name"] for item in loaded]

    def run_pod(
        self, name: str, ports: Sequence[Mapping[str, Any]] = (), annotations: Mapping[str, str] | None = None
    ) -> Pod:
        """RunPodSandbox, and the addresses the network gave it."""
        config = _pod_config(name, ports, annotations or {})
        sandbox = self.call("RunPodSandbox", [(1, config)])[1][0].decode()
        answer = self.call("PodSandboxStatus", [(1, sandbox), (2, 1)])
        network = decode(decode(answer[1][0])[5][0])
        more = [decode(ip)[1][0].decode() for ip in network.get(2, [])]
        spaces = json.loads(_texts(answer, 2)["info"])["runtimeSpec"]["linux"]["namespaces"]
        [netns] = [space["path"] for space in spaces if space["type"] == "network"]
        netns = netns.replace("/var/run/", "/run/")  # a symbolic link, which leads elsewhere from outside
        return Pod(name, sandbox, [network[1][0].decode(), *more], config, netns)

    def run_container(self, pod: Pod, command: list[str]) -> str:
        """CreateContainer and StartContainer in POD."""
        config: Fields = [(1, [(1, "main")]), (2, [(1, image.NAME)]), *((3, word) for word in command)]
        config += [(11, "main.log"), (15, [])]
        create: Fields = [(1, pod.sandbox), (2, config), (3, pod.config)]
        container: str = self.call("CreateContainer", create)[1][0].decode()
        self.call("StartContainer", [(1, container)])
        return container

    def execute(self, container: str, *command: str) -> tuple[int, str]:
        """ExecSync: exit code and output."""
        answer = self.call("ExecSync", [(1, container), *((2, word) for word in command), (3, 20)])
        output = b"".join(answer.get(1, []) + answer.get(2, []))
        return answer.get(3, [0])[0], output.decode()

    def stop_pod(self, pod: Pod) -> None:
        """StopPodSandbox: the runtime calls DEL."""
        self.call("StopPodSandbox", [(1, pod.sandbox)])

    def remove_pod(self, pod: Pod) -> None:
        """RemovePodSandbox: the runtime calls DEL once more, with an empty CNI_NETNS."""
        self.call("RemovePodSandbox", [(1, pod.sandbox)])


def _pod_config(name: str, ports: Sequence[Mapping[str, Any]], annotations: Mapping[str, str]) -> Fields:
    return [
        (1, [(1, name), (2, f"uid-{name}"), (3, "cnie")]),
        (2, name),
        (3, f"/var/log/pods/{name}"),
        *((5, _port_mapping(port)) for port in ports),
        *((7, [(1, key), (2, value)]) for key, value in annotations.items()),
    ]


def _port_mapping(port: Mapping[str, Any]) -> Fields:
    """A mapping as portmap reads it, as a message of the CRI."""
    fields = [(1, PROTOCOLS.index(port["protocol"])), (2, port["containerPort"]), (3, port["hostPort"])]
    return [*fields, (4, port.get("hostIP", ""))]


def _texts(message: Message, number: int) -> dict[str, str]:
    """A field that is a map of strings."""
    entries = (decode(entry) for entry in message.get(number, []))
    return {entry[1][0].decode(): entry[2][0].decode() for entry in entries}


def encode(fields: Fields) -> bytes:
    """Write a message: strings, lists of fields and integers."""
    return b"".join(_field(number, value) for number, value in fields)


def _field(number: int, value: object) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3 | VARINT) + _varint(value)
    data = value.encode() if isinstance(value, str) else encode(value)  # type: ignore[arg-type]
    return _varint(number << 3 | BYTES) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])


def decode(data: bytes) -> Message:
    """Read a message; nested ones stay bytes, to be decoded in turn."""
    message: Message = {}
    stream = iter(data)
    for tag in _varints(stream):
        number, kind = tag >> 3, tag & 7
        message.setdefault(number, []).append(_READERS[kind](stream))
    return message


def _varints(stream: Iterator[int]) -> Iterator[int]:
    for byte in stream:
        yield _rest_of_varint(byte, stream)


def _rest_of_varint(byte: int, stream: Iterator[int]) -> int:
    value, shift = byte & 0x7F, 7
    while byte & 0x80:
        byte = next(stream)
        value |= (byte & 0x7F) << shift
        shift += 7
    return value


def _take(count: int, stream: Iterator[int]) -> bytes:
    return bytes(next(stream) for _ in range(count))


_READERS: dict[int, Callable[[Iterator[int]], Any]] = {
    VARINT: lambda stream: _rest_of_varint(next(stream), stream),
    FIXED64: lambda stream: _take(8, stream),
    BYTES: lambda stream: _take(_rest_of_varint(next(stream), stream), stream),
}
