"""Clusters by kind, and the sections of a config that name them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cni_plugins.contract.registry_config import RegistrySection
from tests.servers.consul import Consul
from tests.servers.etcd import Etcd
from tests.servers.member import Cluster
from tests.servers.zookeeper import ZooKeeper

KINDS: dict[str, Any] = {"etcd": Etcd, "consul": Consul, "zookeeper": ZooKeeper}


def cluster_of(kind: str, directory: Path, number: int = 1, **more: Any) -> Cluster:
    cluster: Cluster = KINDS[kind](directory, number, **more)
    return cluster


def section_of(cluster: Cluster, **more: Any) -> RegistrySection:
    return RegistrySection(type=cluster.kind, **{"endpoints": cluster.endpoints, **more})
