"""Which plugins there are. Spelled out, as strings would hide modules from PyInstaller and mypy."""

from typing import Any

from cni_plugins.contract.ipam import Ipam
from cni_plugins.contract.plugin import Plugin
from cni_plugins.errors import InvalidNetworkConfig

# Every name the frozen program answers to.
NAMES = ("bridge", "host-local", "loopback", "macvlan", "ptp", "static", "vxlan")


def ipam(name: str) -> Ipam | None:
    """Return our IPAM plugin of this name, if it is one."""
    match name:
        case "host-local":
            from cni_plugins.ipam_hostlocal.plugin import IPAM as HOST_LOCAL

            return HOST_LOCAL
        case "static":
            from cni_plugins.ipam_static.plugin import IPAM as STATIC

            return STATIC
        case _:
            return None


def plugin(name: str) -> Plugin[Any]:
    """Return the main plugin of this name.

    :raises InvalidNetworkConfig: when the program was called by a name that is none.
    """
    match name:
        case "bridge":
            from cni_plugins.bridge.plugin import PLUGIN as BRIDGE

            return BRIDGE
        case "loopback":
            from cni_plugins.loopback.plugin import PLUGIN as LOOPBACK

            return LOOPBACK
        case "macvlan":
            from cni_plugins.macvlan.plugin import PLUGIN as MACVLAN

            return MACVLAN
        case "ptp":
            from cni_plugins.ptp.plugin import PLUGIN as PTP

            return PTP
        case "vxlan":
            from cni_plugins.vxlan.plugin import PLUGIN as VXLAN

            return VXLAN
        case _:
            raise InvalidNetworkConfig(
                f"this program has no plugin {name}", f"it answers to {', '.join(NAMES)}"
            )
