"""Hosts that share a store in memory, each with directories of its own, and calls of the plugin there."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cni_plugins.contract import snapshot
from cni_plugins.ipam_cluster.config import parse
from cni_plugins.ipam_cluster.plugin import IPAM
from cni_plugins.keeper import identity
from cni_plugins.keeper.blocks import BlockKeeper, Round
from cni_plugins.keeper.blocks_configs import Followed
from cni_plugins.keeper.files import Places
from cni_plugins.protocol.request import Request
from cni_plugins.protocol.result import Result
from cni_plugins.registries.network_registry import NetworkRegistry
from cni_plugins.registries.store import Store

NETWORK = "net"
REGISTRY = {"type": "etcd", "endpoints": ["http://192.0.2.250:2379"]}


class ClusterHost:
    def __init__(self, root: Path, node: str, **ipam: Any) -> None:
        self.places = Places(str(root / node / "run"), str(root / node / "kept"))
        self.data_dir = root / node / "leases"
        self.directory = Path(snapshot.blocks_dir(NETWORK, self.places.run))
        registry = {**REGISTRY, "node": node}
        subnet = {} if "ranges" in ipam else {"subnet": "192.0.2.0/24"}
        self.ipam = {"type": "cluster", "dataDir": str(self.data_dir), "registry": registry, **subnet, **ipam}
        self.conf: Mapping[str, Any] = {}
        config = parse(self.request())
        self.followed = Followed(NETWORK, config.registry, config.data_dir, config.subnets)
        self.clock = 1000.0
        self.keeper: BlockKeeper | None = None

    def request(self, container: str = "c1", args: str = "", **more: Any) -> Request:
        conf = {"name": NETWORK, "ipam": self.ipam, **self.conf}
        return Request(
            command="ADD",
            network=NETWORK,
            container_id=container,
            ifname="eth0",
            conf=conf,
            args=args,
            **more,
        )

    def start(self, store: Store) -> BlockKeeper:
        registry = NetworkRegistry(store, NETWORK)
        me = identity.member(self.followed.registry, self.places.kept)
        self.keeper = BlockKeeper(self.followed, registry, me, self.places, lambda: self.clock)
        return self.keeper

    def step(self) -> Round:
        assert self.keeper is not None
        return self.keeper.step()

    @property
    def written(self) -> dict[str, Any]:
        found = json.loads((self.directory / "blocks.json").read_text())
        assert isinstance(found, dict)
        return found

    def lease(self, address: str) -> None:
        """Write a lease as a call does."""
        directory = self.data_dir / NETWORK
        directory.mkdir(parents=True, exist_ok=True)
        (directory / address).write_bytes(f"c-{address}\r\neth0".encode())

    def unlease(self, address: str) -> None:
        (self.data_dir / NETWORK / address).unlink()

    def add(self, monkeypatch: pytest.MonkeyPatch, container: str = "c1", args: str = "") -> Result:
        with monkeypatch.context() as patched:
            patched.setattr(snapshot, "blocks_dir", lambda *_: str(self.directory))
            return IPAM.reserve(self.request(container, args))
