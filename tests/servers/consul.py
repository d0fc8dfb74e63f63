"""Consul servers; Debian's 1.8.7."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.servers.certificates import Certificates
from tests.servers.member import CACHE, Cluster, Member, ask, free_ports, until

PROGRAM = CACHE / "consul/usr/bin/consul"
MASTER = "11111111-2222-3333-4444-555555555555"


class Consul(Cluster):
    """:param acl: tokens are needed; `token` makes some."""

    kind = "consul"

    def __init__(
        self,
        directory: Path,
        number: int = 1,
        *,
        addresses: list[str] | None = None,
        netns: list[str] | None = None,
        tls: Certificates | None = None,
        acl: bool = False,
    ) -> None:
        self._addresses = addresses or ["127.0.0.1"] * number
        ports = free_ports(3 * number) if netns is None else [8500, 8301, 8300] * number
        self._tls, self._acl = tls, acl
        self._ports = [ports[3 * i : 3 * i + 3] for i in range(number)]
        scheme = "https" if tls else "http"
        endpoints = [f"{scheme}://{a}:{p[0]}" for a, p in zip(self._addresses, self._ports, strict=True)]
        spaces: list[str | None] = [*netns] if netns else [None] * number
        members = [
            Member(directory / f"m{i}", self._command(directory / f"m{i}", i), spaces[i])
            for i in range(number)
        ]
        super().__init__(members, endpoints)

    def _command(self, directory: Path, number: int) -> Callable[[], list[str]]:
        http, serf, rpc = self._ports[number]
        address = self._addresses[number]
        config: dict[str, Any] = {
            "performance": {"raft_multiplier": 1},
            "disable_update_check": True,
            "ports": {"http": -1, "https": -1, "dns": -1, "grpc": -1, "serf_wan": -1}
            | {"serf_lan": serf, "server": rpc},
            "retry_join": [f"{a}:{p[1]}" for a, p in zip(self._addresses, self._ports, strict=True)],
            "retry_interval": "1s",
            "leave_on_terminate": False,
            # A member that hangs is a member still.
            "autopilot": {"cleanup_dead_servers": False},
        }
        config["ports"]["https" if self._tls else "http"] = http
        if self._tls:
            config["ca_file"] = str(self._tls.ca)
            config["cert_file"], config["key_file"] = str(self._tls.server_cert), str(self._tls.server_key)
            config["verify_incoming_https"] = True
        if self._acl:
            config["acl"] = {
                "enabled": True,
                "default_policy": "deny",
                "tokens": {"master": MASTER, "agent": MASTER},
            }

        def command() -> list[str]:
            (directory / "config.json").write_text(json.dumps(config))
            words = [str(PROGRAM), "agent", "-server", f"-bootstrap-expect={len(self._addresses)}"]
            words += [f"-data-dir={directory}/data", f"-node=m{number}"]
            words += [f"-bind={address}", f"-client={address}"]
            return [*words, "-log-level=warn", f"-config-file={directory}/config.json"]

        return command

    def wait(self) -> None:
        running = [m for m in self.members if m._process is not None]
        for member in running:
            number = self.members.index(member)
            until(lambda n=number: self._is_ready(n), "Consul is ready", running)

    def _is_ready(self, number: int) -> bool:
        if not self.call("GET", "/v1/status/leader", number=number):
            return False
        # The leader writes only after it has caught up, and makes the master token then.
        return bool(self.call("PUT", "/v1/kv/ready", b"x", number=number))

    def call(self, method: str, path: str, body: Any = None, number: int = 0) -> Any:
        context = self._tls.context() if self._tls else None
        headers = {"X-Consul-Token": MASTER} if self._acl else {}
        return ask(self.endpoints[number] + path, body, method=method, headers=headers, context=context)

    def put(self, path: str, value: bytes) -> None:
        self.call("PUT", f"/v1/kv/{path.lstrip('/')}", value)

    def token(self, name: str, rules: str) -> str:
        """Return a new token with a policy of these rules."""
        self.call("PUT", "/v1/acl/policy", {"Name": name, "Rules": rules})
        return str(self.call("PUT", "/v1/acl/token", {"Policies": [{"Name": name}]})["SecretID"])
