"""Computes how the suite recognises its own objects: names, aliases, marks, tags and comments.

Everything made for an attachment has a name or tag computed here from (network, container id, ifname), so
DEL, CHECK and GC find it without a state file and without the sandbox. What belongs to a network, or to the
host, has one too. Formats are part of the contract between releases: what an older one made must still be
found.
"""

import hashlib
from typing import NamedTuple

# Linux: IFNAMSIZ is 16 with the NUL; "veth" and 8 hexadecimal digits is also the form the reference uses.
HOST_END_PREFIX = "veth"
HOST_LINK_PREFIX = "mvhost"  # of the host's own macvlan link, followed by 8 digits

# Aliases of links. Those of attachments begin with the first, followed by the attachment's comment.
ALIAS_PREFIX = "cni-plugins:"
BRIDGE_ALIAS = (
    "cni-plugins bridge"  # bridges and gateway ports; only links with this alias are removed when idle
)
VLAN_ALIAS = "cni-plugins VLAN"  # VLAN links, likewise
HOST_LINK_ALIAS = "cni-plugins host access "  # followed by the network's tag
OVERLAY_ALIAS = "cni-plugins overlay "  # followed by the network's tag and name
_EDITION = "has: "  # between these; followed by a digest of what the network's tables contain
ALIAS_LIMIT = 255  # bytes

# Routes: above RTPROT_STATIC (4), and used by no daemon of /etc/iproute2/rt_protos.
ROUTE_PROTOCOL = 217

# Rules of policy routing have the same protocol, and a mark as `fwmark` with a mask of zero, which every
# packet matches. This bit is set in all of these marks: the kernel does not list a mark of zero.
_NEVER_ZERO = 2

# nf_tables: one table for each family, in which objects of whole networks have names of their own.
NFT_TABLE = "cni_plugins"
RULE_MARK = "cni-plugins "  # what the comments of rules begin with
OF_NETWORKS = "overlay_"  # what the names of sets and chains of overlays begin with
LOCALNET = "localnet_"  # what the names of sets begin with whose links have route_localnet, before a digest
LINK_MARK = "217"  # in the setting `tag` of links whose route_localnet we switched on; it has no effect
OF_BRIDGES = "apart_"  # what those begin with that keep bridges apart, and belong to no attachment either
FORWARD_CHAIN = "firewall_forward"  # jumps to
ADMIN_CHAIN = "firewall_admin"  # the administrator's own; kept while it has rules
NETWORK_OWNER = "overlay:"  # what comments of elements and rules of overlays begin with, before the tag
NO_LINK = "-"  # in the comment of an element that no link of the host goes with

# Limits of bandwidth. The reference's qdisc and filter have the handle, priority and class id below.
IFB_PREFIX, REFERENCE_IFB_PREFIX = "ifb", "bwp"  # followed by 12 hexadecimal digits
BUCKET_HANDLE, REFERENCE_BUCKET_HANDLE = 0x0C410000, 0x00010000
REDIRECT_PRIORITY, REFERENCE_REDIRECT_PRIORITY = 0xFFFF, 1  # the last, so that filters of others come first
# Class ids of the filter: whether the qdisc that it is in was made for it, or was there before.
REDIRECT_IN_OWN, REDIRECT_IN_ANOTHERS = 0x0C410001, 0x0C410002
REFERENCE_REDIRECT_CLASS = 0x00010001

# Before a macvlan link has its alias it is in a group of its network, above the numbers that people choose.
_NURSERIES = 1 << 30  # a group is a signed number of 32 bits

# Files of tuning, as the reference names them, and what those are called that are being written.
BACKUP_SUFFIX, _UNFINISHED = ".json", ".new"
_LONGEST_FILE_NAME = 255  # bytes: NAME_MAX

_CHAINED = "+"  # before the name of a plugin that changes an interface another plugin made

# The kernel allows these in the names of links. nft(8) ends a comment at a quotation mark, so a saved ruleset
# would not load, or a rule would lose its end. ifnames.py forbids the percent sign.
_QUOTED = {char: f"%{ord(char):02X}" for char in "\"\\{}#;$'`"}


def digest(text: str, length: int = 16) -> str:
    """Return the first `length` hexadecimal digits of SHA-512, as the reference abbreviates names."""
    return hashlib.sha512(text.encode()).hexdigest()[:length]


# --------------------------------------------------------------------------------------------- attachments


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
    def names(self) -> str:
        """Network, interface and container, for people to read behind the tag."""
        return f"net: {self.network}, if: {quoted_ifname(self.ifname)}, id: {self.container_id}"

    @property
    def alias(self) -> str:
        """The alias of the attachment's link."""
        return f"{ALIAS_PREFIX}{self.tag} {self.names}"[:ALIAS_LIMIT]

    @property
    def host_end(self) -> str:
        """Name of the veth end that stays in the host."""
        return HOST_END_PREFIX + digest("\0".join(self), 8)

    @property
    def ifb(self) -> str:
        """Name of the ifb link, if `reference_ifb` is that of another interface of the container."""
        return ifb_of(self.tag)

    @property
    def reference_ifb(self) -> str:
        """Name that the reference gives to the one ifb link that a container can have in a network."""
        return REFERENCE_IFB_PREFIX + digest(self.network + self.container_id, 12)

    @property
    def mark(self) -> int:
        """A number from 1 to 2³²-1, for objects of the kernel that have no text."""
        return mark_of(self.tag)

    def rule_mark(self, *, shares_table: bool) -> int:
        """A mark of policy routing rules, which have no text either.

        :param shares_table: the rule leads to a table of others, whose routes are not the attachment's.
        """
        return self.mark & ~3 | _NEVER_ZERO | shares_table

    def mac(self, end: str, seed: str) -> str:
        """Return a locally administered unicast address for one end (IEEE 802: bits of the first octet).

        :param seed: differs between hosts: container ids may be the same on several that share a wire.
        """
        return mac_from("\0".join((*self, end, seed)))


def backup_names(attachment: Attachment) -> tuple[str, ...]:
    """Return the names of files for values that tuning changes, in order of preference.

    The first is the reference's. It may be another attachment's: neither network nor the border between
    container id and ifname is in it. It may also be too long for a file.
    """
    _, container_id, ifname = attachment
    shared = f"{container_id}_{ifname}{BACKUP_SUFFIX}"
    own = f"{attachment.tag}{BACKUP_SUFFIX}"
    return (shared, own) if len(shared.encode(errors="surrogateescape")) <= _LONGEST_FILE_NAME else (own,)


def unfinished_backup(attachment: Attachment) -> str:
    """Return the name under which a backup is written, before it gets its own by rename."""
    return f".{attachment.tag}{_UNFINISHED}"


def tag_of_backup(name: str) -> str:
    """Return the tag in the name of a file that only we write, empty for any other."""
    suffix = _UNFINISHED if name.startswith(".") else BACKUP_SUFFIX
    return name.removeprefix(".").removesuffix(suffix) if name.endswith(suffix) else ""


def quoted_ifname(ifname: str) -> str:
    """Return a link name as comments contain it: `%` and two digits for what nft(8) would parse."""
    return "".join(_QUOTED.get(char, char) for char in ifname)


def unquoted_ifname(text: str) -> str:
    """Return the link name that `quoted_ifname` wrote."""
    for char, code in _QUOTED.items():
        text = text.replace(code, char)
    return text


def tag_of(alias: str) -> str:
    """Return the tag in an alias of an attachment's link, empty for any other alias."""
    return alias.removeprefix(ALIAS_PREFIX).partition(" ")[0] if alias.startswith(ALIAS_PREFIX) else ""


def owner_of(alias: str) -> str:
    """Return the readable part of an alias of an attachment's link, empty for any other alias."""
    return alias.removeprefix(ALIAS_PREFIX).partition(" ")[2] if alias.startswith(ALIAS_PREFIX) else ""


def ifb_of(tag: str) -> str:
    """Return a name for an ifb link that no other attachment has."""
    return IFB_PREFIX + digest(tag, 12)


def mark_of(tag: str) -> int:
    """Return the mark of the attachment with this tag."""
    return int(digest(tag, 8), 16) or 1


def mac_from(seed: str) -> str:
    """Return a locally administered unicast address that follows from a text."""
    raw = bytearray.fromhex(digest(seed, 12))
    raw[0] = (raw[0] & 0xFC) | 0x02
    return raw.hex(":")


# ------------------------------------------------------------------------------------------ owners of rules


class Owner(NamedTuple):
    """Who a rule belongs to: an attachment, and the plugin of it that made the rule.

    An interface is made by one plugin, which owns every rule of its attachment that no chained plugin made:
    those of older releases, which name no plugin, and those of another type that the network had before.

    :param plugin: as `plugin_word` has it.
    """

    attachment: Attachment
    plugin: str = ""

    def comment(self, link: str = "") -> str:
        """Return the comment of an nf_tables element: tag, link, plugin, and the names for people to read.

        :param link: the host link whose absence shows that the attachment is gone, if there is one.
        """
        attachment = self.attachment
        return " ".join(filter(None, (attachment.tag, link or NO_LINK, self.plugin, attachment.names)))

    @property
    def holder(self) -> "Holder":
        return Holder(self.attachment.tag, self.plugin)

    def owns(self, comment: str) -> bool:
        """Say whether an element with this comment is the owner's."""
        return self.holder.owns(comment)

    def shares_attachment_with(self, comment: str) -> bool:
        """Say whether an element with this comment belongs to another plugin of the same attachment."""
        return _first_word(comment) == self.attachment.tag and not is_by(comment, self.plugin)


class Holder(NamedTuple):
    """An owner as the comment of an element names it: the attachment's tag, and the plugin."""

    tag: str
    plugin: str

    def owns(self, comment: str) -> bool:
        """Say whether an element with this comment is the owner's."""
        return _first_word(comment) == self.tag and is_by(comment, self.plugin)

    def index_key(self, number: int) -> bytes:
        """Return the key of the owner's entry with this number in the index of elements: 20 bytes."""
        chained = self.plugin if self.plugin.startswith(_CHAINED) else ""
        plugin = bytes.fromhex(digest(chained, 4)) if chained else bytes(2)
        return bytes.fromhex(self.tag.replace("-", "")) + plugin + number.to_bytes(2, "big")


def holder_of(comment: str) -> Holder:
    """Return the owner that the comment of an element names."""
    tag, _, plugin, *_ = (*comment.split(" ", 3), "", "", "")
    return Holder(tag, plugin if plugin.startswith(_CHAINED) else "")


def plugin_word(name: str, *, is_chained: bool) -> str:
    """Return the word for a plugin in comments of rules."""
    return f"{_CHAINED}{name}" if is_chained else name


def is_by(comment: str, plugin: str) -> bool:
    """Say whether an element was made by a plugin, or belongs to it as that which makes the interface."""
    word = (comment.split(" ", 3)[2:] or [""])[0]
    return word == plugin if plugin.startswith(_CHAINED) else not word.startswith(_CHAINED)


def link_of(comment: str) -> str:
    """Return the host link that an element goes with, NO_LINK if there is none."""
    return (comment.split(" ", 2)[1:] or [NO_LINK])[0]


def names_of(comment: str) -> str:
    """Return network, interface and container that the comment of an element names, for people."""
    return comment[comment.find("net: ") :] if "net: " in comment else comment


def is_stale(comment: str, network: str, plugin: str, valid_tags: frozenset[str]) -> bool:
    """Say whether an element is of a network, by a plugin, and of no valid attachment."""
    is_of_network = comment.startswith(network_tag(network))
    return is_of_network and is_by(comment, plugin) and _first_word(comment) not in valid_tags


def _first_word(comment: str) -> str:
    return comment.split(" ", 1)[0]


# ------------------------------------------------------------------------------------------ whole networks


def network_tag(network: str) -> str:
    """Return 16 hexadecimal digits."""
    return digest(network)


def network_mark(network: str) -> int:
    """Return a number for objects of the kernel that belong to a whole network and have no text.

    As the metric of a route it comes after those that the kernel chooses (256, 1024).
    """
    return mark_of(network_tag(network)) | 1 << 31


def overlay_alias(network: str, edition: str = "") -> str:
    """Return the alias of an overlay's links; only the tag in it identifies the network.

    :param edition: what the network's tables contain, a word; empty: not known.
    """
    said = f"{_EDITION}{edition} " if edition else ""
    return f"{_overlay_prefix(network)}{said}net: {network}"[:ALIAS_LIMIT]


def overlay_edition(alias: str, network: str) -> str:
    """Return the edition in an alias of this overlay's links, empty if there is none."""
    rest = alias.removeprefix(_overlay_prefix(network))
    return rest.removeprefix(_EDITION).partition(" ")[0] if rest.startswith(_EDITION) else ""


def is_overlay_alias(alias: str, network: str) -> bool:
    return alias.startswith(_overlay_prefix(network))


def _overlay_prefix(network: str) -> str:
    return f"{OVERLAY_ALIAS}{network_tag(network)} "


def host_link(network: str, master: str) -> str:
    """Return the name of the host's own macvlan link of a network on a master."""
    return HOST_LINK_PREFIX + digest(f"{network}\0{master}", 8)


def host_link_alias(network: str) -> str:
    """Return the alias of that link; only the tag in it identifies the network."""
    return f"{_host_link_prefix(network)}net: {network}"[:ALIAS_LIMIT]


def is_host_link_alias(alias: str, network: str) -> bool:
    return alias.startswith(_host_link_prefix(network))


def _host_link_prefix(network: str) -> str:
    return f"{HOST_LINK_ALIAS}{network_tag(network)} "


def nursery(network: str) -> int:
    """Return the number of the group in which macvlan links of a network are created."""
    return _NURSERIES | int(network_tag(network)[:7], 16)


def record_set(backend: str, version: int) -> str:
    """Return the name of the set of addresses that a backend of the firewall plugin lets through."""
    return f"firewall_{backend}{version}"


def member_set(bridge: str, *, isolated: bool = False) -> str:
    """Return the name of the set of containers for which a bridge is kept apart, or isolated."""
    return f"firewall_{'isolated' if isolated else 'on'}_{digest(bridge, 8)}"


def gateway_port(bridge: str, vlan: int) -> str:
    """Return the name of the port through which a bridge's gateway of a VLAN is attached."""
    return HOST_END_PREFIX + digest(f"{bridge}.{vlan}", 8)
