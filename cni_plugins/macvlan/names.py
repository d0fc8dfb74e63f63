"""Names of links that several attachments share, computed so that every ADD arrives at the same."""

from cni_plugins.spec.attachment import digest
from cni_plugins.spec.ifnames import ifname_fault

_HOST_LINK_PREFIX = "mvhost"


def vlan_link(parent: str, vlan: int) -> str:
    """Return the customary name, or where that is too long one that begins with `vlan`."""
    name = f"{parent}.{vlan}"
    return name if not ifname_fault(name) else f"vlan{digest(parent, 6)}.{vlan}"


def host_link(network: str, master: str) -> str:
    """Return the name of the host's own macvlan link of a network on a master."""
    return _HOST_LINK_PREFIX + digest(f"{network}\0{master}", 8)
