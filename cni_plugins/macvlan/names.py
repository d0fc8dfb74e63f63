"""Names of links that several attachments share, computed so that every ADD arrives at the same."""

from cni_plugins.ownership import digest
from cni_plugins.protocol.ifnames import ifname_fault


def vlan_link(parent: str, vlan: int) -> str:
    """Return the customary name, or where that is too long one that begins with `vlan`."""
    name = f"{parent}.{vlan}"
    return name if not ifname_fault(name) else f"vlan{digest(parent, 6)}.{vlan}"
