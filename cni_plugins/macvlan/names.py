"""Computes names of links that several attachments share, identically in every ADD."""

from cni_plugins.ownership import digest
from cni_plugins.protocol.ifnames import ifname_fault


def vlan_link(parent: str, vlan: int) -> str:
    """Return `parent.vlan`, or a name that begins with `vlan` and a digest if that is too long."""
    name = f"{parent}.{vlan}"
    return name if not ifname_fault(name) else f"vlan{digest(parent, 6)}.{vlan}"
