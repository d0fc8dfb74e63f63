"""One attachment (network, container id, ifname) and the names that follow from it.

Everything the suite makes for an attachment bears a name or tag computed here, so DEL, CHECK and GC find it
without a state file and without the sandbox.
"""

import hashlib
from typing import NamedTuple

# Linux: IFNAMSIZ is 16 with the NUL; "veth" and 8 hexadecimal digits is also the form the reference uses.
HOST_END_PREFIX = "veth"
ALIAS_PREFIX = "cni-plugins:"
ALIAS_LIMIT = 255


def digest(text: str, length: int = 16) -> str:
    """Return the first `length` hexadecimal digits of SHA-512, as the reference abbreviates names."""
    return hashlib.sha512(text.encode()).hexdigest()[:length]


class Attachment(NamedTuple):
    """What one ADD makes and the matching DEL removes."""

    network: str
    container_id: str
    ifname: str

    @property
    def tag(self) -> str:
        """33 characters: digest of the network, dash, digest of interface and container."""
        return f"{network_tag(self.network)}-{digest(f'{self.ifname}:{self.container_id}')}"

    @property
    def comment(self) -> str:
        """The tag with a readable rest, for aliases and nf_tables comments; cut where those end."""
        return f"{self.tag} net: {self.network}, if: {self.ifname}, id: {self.container_id}"

    @property
    def alias(self) -> str:
        return f"{ALIAS_PREFIX}{self.comment}"[:ALIAS_LIMIT]

    @property
    def host_end(self) -> str:
        """Name of the veth end that stays in the host."""
        return HOST_END_PREFIX + digest("\0".join(self), 8)

    @property
    def mark(self) -> int:
        """A number from 1 to 2³²-1, for objects of the kernel that bear no text."""
        return mark_of(self.tag)

    def mac(self, end: str) -> str:
        """Return a locally administered unicast address for one end (IEEE 802: bits of the first octet)."""
        return mac_from("\0".join((*self, end)))


def owner_of(alias: str) -> str:
    """Return the readable rest of an alias of ours, empty for any other."""
    return alias.removeprefix(ALIAS_PREFIX).partition(" ")[2] if alias.startswith(ALIAS_PREFIX) else ""


def tag_of(alias: str) -> str:
    """Return the tag in an alias of ours, empty for any other."""
    return alias.removeprefix(ALIAS_PREFIX).partition(" ")[0] if alias.startswith(ALIAS_PREFIX) else ""


def mark_of(tag: str) -> int:
    """Return the mark of the attachment with this tag."""
    return int(digest(tag, 8), 16) or 1


def network_mark(network: str) -> int:
    """Return a number for objects of the kernel that belong to a whole network and bear no text.

    As the metric of a route it stands behind those that the kernel makes (256, 1024).
    """
    return mark_of(network_tag(network)) | 1 << 31


def network_tag(network: str) -> str:
    return digest(network)


def mac_from(seed: str) -> str:
    raw = bytearray.fromhex(digest(seed, 12))
    raw[0] = (raw[0] & 0xFC) | 0x02
    return raw.hex(":")
