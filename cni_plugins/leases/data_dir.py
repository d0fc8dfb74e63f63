"""Reads the lease directory from the config, the only key of it that DEL and GC need.

Separate from config.py, because an invalid or removed range must not keep DEL from freeing an address, and
DEL need not load pydantic.
"""

from cni_plugins.errors import InvalidNetworkConfig
from cni_plugins.protocol.fields import Conf, get, shown

DEFAULT = "/var/lib/cni/networks"


def data_dir(conf: Conf) -> str:
    """Return `ipam.dataDir` of a network config.

    :raises InvalidNetworkConfig: when it is not an absolute path.
    """
    ipam = get(conf, "ipam")
    value = get(ipam, "dataDir") if isinstance(ipam, dict) else None
    if value is None or value == "":
        return DEFAULT
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        raise InvalidNetworkConfig("ipam.dataDir is not an absolute path", f"ipam.dataDir is {shown(value)}")
    return value
