"""Builds the JSON documents of `cnictl network`, with pure functions. docs/network.md lists the keys."""

from collections.abc import Iterable
from typing import Any

from cni_plugins.cli.network.create import Created
from cni_plugins.cli.network.listing import Network
from cni_plugins.cli.network.text import scope
from cni_plugins.upkeep.networks.containers import Container


def created(network: Created) -> dict[str, Any]:
    return {
        "name": network.name,
        "scope": "cluster" if network.is_shared else "local",
        "subnets": [*network.subnets],
        "vni": network.vni or None,
        "file": str(network.file) if network.file else None,
    }


def listed(networks: Iterable[Network]) -> list[dict[str, Any]]:
    """Return networks with the numbers of containers on this host and on others."""
    return [
        {
            **_summary(one),
            "containers": len(one.containers),
            "elsewhere": sum(map(len, one.elsewhere.values())),
        }
        for one in networks
    ]


def inspected(networks: Iterable[Network]) -> list[dict[str, Any]]:
    """Return everything that is known of networks."""
    return [
        {
            **_summary(one),
            "internal": bool(one.view and one.view.is_internal),
            "labels": dict(one.view.labels) if one.view else {},
            "file": str(one.file.path) if one.file else None,
            "containers": [_container(each) for each in one.containers],
            "elsewhere": {node: [*users] for node, users in one.elsewhere.items()},
            "vni": one.stored.vni if one.stored and one.stored.vni else None,
            "config": dict(one.view.document) if one.view else None,
        }
        for one in networks
    ]


def _summary(network: Network) -> dict[str, Any]:
    view = network.view
    return {
        "name": network.name,
        "driver": view.driver if view else None,
        "scope": scope(network),
        "subnets": [str(subnet) for subnet in view.subnets] if view else [],
    }


def _container(container: Container) -> dict[str, Any]:
    return {
        "id": container.container_id,
        "interface": container.ifname,
        "netns": container.netns,
        "addresses": [*container.addresses],
        "mac": container.mac,
        "known_by": container.known_by,
    }
