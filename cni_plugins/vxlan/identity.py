"""Computes VNI, link names and MAC addresses from the network, identically on every host without exchange."""

from cni_plugins.ownership import digest
from cni_plugins.protocol.fields import IPAddress

LARGEST_VNI = (1 << 24) - 1  # RFC 7348, 5
# Avoids the VNIs of other software: 1 (flannel), from 256 and 4096 on (Docker, Calico), up to 4095 (Windows).
_FIRST_VNI, _VNIS = 0x400000, 0x3FFFFF
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_IPV4 = 4
_POLYNOMIAL, _ONES = 0xEDB88320, 0xFFFFFFFF


def default_vni(network: str) -> int:
    return _FIRST_VNI + _crc32(network.encode()) % _VNIS


def _crc32(data: bytes) -> int:
    """Return zlib's CRC-32 (ISO 3309). Some Pythons link theirs with zlib, which nodes may lack."""
    value = _ONES
    for octet in data:
        value ^= octet
        for _ in range(8):
            value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
    return value ^ _ONES


def vxlan_name(vni: int) -> str:
    return f"vx{_base36(vni)}"


def bridge_name(vni: int) -> str:
    return f"vxbr{_base36(vni)}"


def _base36(number: int) -> str:
    text = ""
    while number:
        number, digit = divmod(number, len(_DIGITS))
        text = _DIGITS[digit] + text
    return text


def vtep_mac(address: IPAddress) -> str:
    """Return the MAC address of a host's VXLAN link: locally administered, containing the IPv4 address."""
    return f"02:fe:{_last_four(address)}"


class ContainerMacs:
    """Derives MAC addresses from IP addresses, for networks whose hosts do not learn them."""

    def __init__(self, vni: int) -> None:
        self._start = f"02:{digest(f'vni {vni}', 2)}"

    def of(self, address: IPAddress) -> str:
        return f"{self._start}:{_last_four(address)}"


def _last_four(address: IPAddress) -> str:
    if address.version == _IPV4:
        return address.packed.hex(":")
    # Distinct for all addresses of one /96, which a digest of the whole address would not guarantee.
    start = int(digest(str(int(address) >> 32), 8), 16)
    return ((int(address) + start) % (1 << 32)).to_bytes(4, "big").hex(":")
