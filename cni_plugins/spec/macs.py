"""MAC addresses as runtimes and people write them."""

from cni_plugins.spec.fields import shown

_MULTICAST = 0x01  # IEEE 802: the group bit of the first octet


def parse_mac(value: object) -> str:
    """Return an EUI-48 in lower case with colons, from any of the notations netaddr knows.

    :raises ValueError: when it is no address a link can have.
    """
    from netaddr import EUI, mac_unix_expanded, valid_mac

    # netaddr has no annotations.
    if not isinstance(value, str) or not valid_mac(value):  # type: ignore[no-untyped-call]
        raise ValueError(f"invalid MAC address {shown(value)}")
    mac = EUI(value, version=48, dialect=mac_unix_expanded)  # type: ignore[no-untyped-call]
    if not int(mac) or mac.packed[0] & _MULTICAST:
        raise ValueError(f"MAC address {shown(value)} is {'multicast' if int(mac) else 'all zero'}")
    return str(mac)
