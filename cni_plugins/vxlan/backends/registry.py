"""Loads backends by type. Imports are spelled out, as strings would hide them from PyInstaller and mypy."""

from collections.abc import Mapping
from typing import Any

from cni_plugins.contract.model import load
from cni_plugins.errors import InvalidNetworkConfig
from cni_plugins.protocol.fields import get, shown
from cni_plugins.vxlan.backends.roster import Backend

_AT = ("backend",)


def backend(conf: Mapping[str, Any]) -> Backend:
    """Return the backend that a config names.

    :raises InvalidNetworkConfig: when there is no backend of this type, or naming every fault of its keys.
    """
    kind = get(conf, "type")
    match kind:
        case "static":
            from cni_plugins.vxlan.backends.static import StaticBackend

            return load(StaticBackend, conf, at=_AT)
        case "multicast":
            from cni_plugins.vxlan.backends.multicast import MulticastBackend

            return load(MulticastBackend, conf, at=_AT)
        case "etcd" | "consul" | "zookeeper":
            from cni_plugins.vxlan.backends.stored import StoredBackend

            return load(StoredBackend, conf, at=_AT)
        case _:
            raise InvalidNetworkConfig(
                f"invalid network config: backend.type: there is no backend {shown(kind)}",
                "backends are static, multicast, etcd, consul and zookeeper",
            )
