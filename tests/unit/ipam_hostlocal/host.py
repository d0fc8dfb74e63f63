"""A data directory of the test's own, and requests against it."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cni_plugins.protocol.decode import parse_result
from cni_plugins.protocol.request import Request
from cni_plugins.protocol.result import Result

NETWORK = "net"
SUBNET = {"subnet": "10.1.0.0/24"}


class Host:
    """One data directory, and what the commands are asked about it."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.leases = data_dir / NETWORK
        self.ipam: Mapping[str, Any] = SUBNET
        self.conf: Mapping[str, Any] = {}

    def request(
        self,
        container_id: str = "c1",
        ifname: str = "eth0",
        *,
        args: str = "",
        prev: Mapping[str, Any] | None = None,
        valid: tuple[tuple[str, str], ...] = (),
    ) -> Request:
        conf = {"name": NETWORK, "ipam": {"type": "host-local", "dataDir": str(self.data_dir), **self.ipam}}
        return Request(
            command="ADD",
            network=NETWORK,
            container_id=container_id,
            ifname=ifname,
            conf={**conf, **self.conf},
            prev_result=None if prev is None else parse_result(prev, "1.0.0"),
            args=args,
            valid_attachments=valid,
        )

    def lease(self, name: str, content: str | bytes, mtime: int | None = None) -> Path:
        """Write a lease as the reference does: beside nothing, recorded nowhere."""
        self.leases.mkdir(parents=True, exist_ok=True)
        path = self.leases / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        if mtime is not None:
            os.utime(path, ns=(mtime, mtime))
        return path

    def leased(self) -> dict[str, str]:
        """Return every lease file's content."""
        files = self.leases.iterdir() if self.leases.exists() else ()
        skipped = ("lock", "last_reserved_ip")
        return {path.name: path.read_bytes().decode() for path in files if not path.name.startswith(skipped)}


def addresses(result: Result) -> list[str]:
    return [str(ip.address) for ip in result.ips]
