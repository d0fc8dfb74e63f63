"""etcd clusters."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from tests.servers.certificates import Certificates
from tests.servers.member import CACHE, Cluster, Member, ask, free_ports, until

PROGRAM = CACHE / "etcd/usr/bin/etcd"


class Etcd(Cluster):
    """:param flags: more of etcd's flags, of every member."""

    kind = "etcd"

    def __init__(
        self,
        directory: Path,
        number: int = 1,
        *,
        addresses: list[str] | None = None,
        netns: list[str] | None = None,
        tls: Certificates | None = None,
        flags: tuple[str, ...] = (),
    ) -> None:
        addresses = addresses or ["127.0.0.1"] * number
        ports = free_ports(2 * number) if netns is None else [2379, 2380] * number
        self._tls, self._flags = tls, flags
        self._headers: dict[str, str] = {}
        scheme = "https" if tls else "http"
        endpoints = [f"{scheme}://{a}:{port}" for a, port in zip(addresses, ports[::2], strict=True)]
        self._peers = [f"http://{a}:{port}" for a, port in zip(addresses, ports[1::2], strict=True)]
        spaces: list[str | None] = [*netns] if netns else [None] * number
        members = [
            Member(directory / f"m{i}", self._command(directory / f"m{i}", i, endpoints[i]), spaces[i])
            for i in range(number)
        ]
        super().__init__(members, endpoints)

    def _command(self, directory: Path, number: int, endpoint: str) -> Any:
        cluster = ",".join(f"m{i}={url}" for i, url in enumerate(self._peers))
        words = [str(PROGRAM), "--name", f"m{number}", "--data-dir", f"{directory}/data"]
        words += ["--listen-client-urls", endpoint, "--advertise-client-urls", endpoint]
        words += ["--listen-peer-urls", self._peers[number]]
        words += ["--initial-advertise-peer-urls", self._peers[number], "--initial-cluster", cluster]
        if self._tls:
            words += ["--cert-file", str(self._tls.server_cert), "--key-file", str(self._tls.server_key)]
            words += ["--trusted-ca-file", str(self._tls.ca), "--client-cert-auth"]
        words += self._flags
        return lambda: words

    def wait(self) -> None:
        running = [m for m in self.members if m._process is not None]
        for member in running:
            number = self.members.index(member)
            until(lambda n=number: self.call("kv/range", {"key": _text("x")}, n), "etcd is ready", running)

    def call(self, path: str, body: dict[str, Any], number: int = 0) -> Any:
        context = self._tls.context() if self._tls else None
        return ask(f"{self.endpoints[number]}/v3/{path}", body, headers=self._headers, context=context)

    def put(self, path: str, value: bytes) -> None:
        self.call("kv/put", {"key": _text(path), "value": base64.b64encode(value).decode()})

    def compact(self) -> None:
        revision = self.call("kv/range", {"key": _text("x")})["header"]["revision"]
        self.call("kv/compaction", {"revision": revision, "physical": True})

    def enable_users(self, prefix: str, **passwords: str) -> None:
        """Switch users on: root, and those given, who may read and write below a prefix."""
        end = _text(prefix[:-1] + chr(ord(prefix[-1]) + 1))
        self.call("auth/role/add", {"name": "root"})
        self.call("auth/role/add", {"name": "host"})
        permission = {"permType": "READWRITE", "key": _text(prefix), "range_end": end}
        self.call("auth/role/grant", {"name": "host", "perm": permission})
        for name, password in {"root": "toor", **passwords}.items():
            self.call("auth/user/add", {"name": name, "password": password})
            role = "root" if name == "root" else "host"
            self.call("auth/user/grant", {"user": name, "role": role})
        self.call("auth/enable", {})
        token = self.call("auth/authenticate", {"name": "root", "password": "toor"})["token"]
        self._headers = {"Authorization": token}


def _text(key: str) -> str:
    return base64.b64encode(key.encode()).decode()
