"""Parses MAC addresses in any usual notation, and derives link-local addresses from them."""

from ipaddress import IPv6Interface

from cni_plugins.protocol.fields import shown

_MULTICAST = 0x01  # IEEE 802: the group bit of the first octet


def link_local(mac: str) -> IPv6Interface:
    """Return the link-local address of a link with this EUI-48 (RFC 4862, 5.3; RFC 4291, appendix A)."""
    octets = bytearray.fromhex(mac.replace(":", ""))
    octets[0] ^= 0x02
    identifier = octets[:3] + b"\xff\xfe" + octets[3:]
    return IPv6Interface((b"\xfe\x80" + bytes(6) + identifier, 64))


def parse_mac(value: object) -> str:
    """Return an EUI-48 in lower case with colons, from any notation that netaddr knows.

    :raises ValueError: when it is not a valid address for a link.
    """
    from netaddr import EUI, mac_unix_expanded, valid_mac

    # netaddr has no annotations.
    if not isinstance(value, str) or not valid_mac(value):  # type: ignore[no-untyped-call]
        raise ValueError(f"invalid MAC address {shown(value)}")
    mac = EUI(value, version=48, dialect=mac_unix_expanded)  # type: ignore[no-untyped-call]
    if not int(mac) or mac.packed[0] & _MULTICAST:
        raise ValueError(f"MAC address {shown(value)} is {'multicast' if int(mac) else 'all zero'}")
    return str(mac)
