"""Where the leases of a network are, which is all that DEL and GC need of the config.

Kept apart from config.py: a broken or removed range must not keep DEL from freeing an address, and DEL has no
need to load pydantic.
"""

from cni_plugins.errors import InvalidNetworkConfig
from cni_plugins.protocol.fields import Conf, get, shown

DEFAULT = "/var/lib/cni/networks"


def data_dir(conf: Conf) -> str:
    """Return `ipam.dataDir` of a network config.

    :raises InvalidNetworkConfig: when it is no absolute path.
    """
    ipam = get(conf, "ipam")
    value = get(ipam, "dataDir") if isinstance(ipam, dict) else None
    if value is None or value == "":
        return DEFAULT
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        raise InvalidNetworkConfig("ipam.dataDir is not an absolute path", f"ipam.dataDir is {shown(value)}")
    return value
