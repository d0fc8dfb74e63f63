"""Lists the plugins. Imports are spelled out, as strings would hide modules from PyInstaller and mypy."""

from collections.abc import Callable, Mapping
from typing import Any

from cni_plugins.contract.ipam import IpamPlugin
from cni_plugins.contract.plugin import Plugin
from cni_plugins.errors import InvalidNetworkConfig


def _bandwidth() -> Plugin[Any]:
    from cni_plugins.bandwidth.plugin import PLUGIN

    return PLUGIN


def _bridge() -> Plugin[Any]:
    from cni_plugins.bridge.plugin import PLUGIN

    return PLUGIN


def _firewall() -> Plugin[Any]:
    from cni_plugins.firewall.plugin import PLUGIN

    return PLUGIN


def _loopback() -> Plugin[Any]:
    from cni_plugins.loopback.plugin import PLUGIN

    return PLUGIN


def _macvlan() -> Plugin[Any]:
    from cni_plugins.macvlan.plugin import PLUGIN

    return PLUGIN


def _portmap() -> Plugin[Any]:
    from cni_plugins.portmap.plugin import PLUGIN

    return PLUGIN


def _ptp() -> Plugin[Any]:
    from cni_plugins.ptp.plugin import PLUGIN

    return PLUGIN


def _sbr() -> Plugin[Any]:
    from cni_plugins.sbr.plugin import PLUGIN

    return PLUGIN


def _tuning() -> Plugin[Any]:
    from cni_plugins.tuning.plugin import PLUGIN

    return PLUGIN


def _vxlan() -> Plugin[Any]:
    from cni_plugins.vxlan.plugin import PLUGIN

    return PLUGIN


def _cluster() -> IpamPlugin:
    from cni_plugins.ipam_cluster.plugin import IPAM

    return IPAM


def _host_local() -> IpamPlugin:
    from cni_plugins.ipam_hostlocal.plugin import IPAM

    return IPAM


def _static() -> IpamPlugin:
    from cni_plugins.ipam_static.plugin import IPAM

    return IPAM


PLUGINS: Mapping[str, Callable[[], Plugin[Any]]] = {
    "bandwidth": _bandwidth,
    "bridge": _bridge,
    "firewall": _firewall,
    "loopback": _loopback,
    "macvlan": _macvlan,
    "portmap": _portmap,
    "ptp": _ptp,
    "sbr": _sbr,
    "tuning": _tuning,
    "vxlan": _vxlan,
}
IPAM_PLUGINS: Mapping[str, Callable[[], IpamPlugin]] = {
    "cluster": _cluster,
    "host-local": _host_local,
    "static": _static,
}
NAMES = tuple(sorted((*PLUGINS, *IPAM_PLUGINS)))  # every name that the frozen program answers to


def ipam(name: str) -> IpamPlugin | None:
    """Return our IPAM plugin of this name, None if it is not one."""
    load = IPAM_PLUGINS.get(name)
    return load() if load else None


def plugin(name: str) -> Plugin[Any]:
    """Return the main or chained plugin of this name.

    :raises InvalidNetworkConfig: when the program was called by another name.
    """
    load = PLUGINS.get(name)
    if load is None:
        raise InvalidNetworkConfig(f"this program has no plugin {name}", f"it answers to {', '.join(NAMES)}")
    return load()
