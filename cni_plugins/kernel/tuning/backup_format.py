"""Reads and writes the content of a backup: the reference's JSON, with keys of ours beside its own.

Each program ignores the keys of the other, so an attachment that one made can be deleted by the other.
"""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

from cni_plugins.ownership import Attachment
from cni_plugins.protocol import json_text
from cni_plugins.protocol.fields import Conf, get
from cni_plugins.steps.tuning import Key, LinkSettings

_LARGEST = 0xFFFFFFFF
_MAC_DIGITS = frozenset("0123456789abcdef:")
_MAC_LENGTHS = (6, 8, 20)  # octets: EUI-48, EUI-64, InfiniBand


class Backup(NamedTuple):
    """Values from before an ADD, and whose they are.

    :param attachment: None in a file of the reference.
    :param sandbox: the sandbox in which they were read, empty if unknown; see backup.identity.
    :param ifindex: the link's index there, 0 if unknown.
    """

    link: LinkSettings = LinkSettings()
    sysctls: tuple[tuple[Key, str], ...] = ()
    attachment: Attachment | None = None
    sandbox: str = ""
    ifindex: int = 0

    def filled_from(self, later: "Backup") -> "Backup":
        """Return this backup with what only a later one has: of two old values the first is the original."""
        pairs = zip(self.link, later.link, LinkSettings(), strict=True)
        link = LinkSettings._make(mine if mine != nothing else theirs for mine, theirs, nothing in pairs)
        known = dict(self.sysctls)
        more = ((key, value) for key, value in later.sysctls if key not in known)
        whole = later._replace(link=link, sysctls=(*self.sysctls, *more))
        return whole._replace(ifindex=later.ifindex or self.ifindex)


def encode(backup: Backup) -> str:
    """Return the text of a file. The reference leaves out what it did not change, too."""
    mac, promisc, mtu, allmulti, tx_queue_len, host_mtu = backup.link
    network, container_id, ifname = backup.attachment or ("", "", "")
    document = {
        "mac": mac or None,
        "promisc": promisc,
        "mtu": mtu or None,
        "allmulti": allmulti,
        "txQLen": tx_queue_len,
        "hostMtu": host_mtu or None,
        "sysctl": {"/".join(key): value for key, value in backup.sysctls} or None,
        "network": network,
        "containerID": container_id,
        "ifname": ifname,
        "sandbox": backup.sandbox,
        "ifindex": backup.ifindex,
    }
    return json.dumps({key: value for key, value in document.items() if value is not None}, indent=1)


def decode(data: bytes) -> Backup | None:
    """Return the backup in a file, without any value that could not be one; None if it is none at all."""
    try:
        conf = json_text.load(data)
    except ValueError:
        return None
    if not isinstance(conf, dict):
        return None
    return Backup(
        link=_link(conf),
        sysctls=tuple(_sysctls(get(conf, "sysctl"))),
        attachment=_attachment(conf),
        sandbox=_valid(conf, "sandbox", _is_text) or "",
        ifindex=_valid(conf, "ifindex", _is_number) or 0,
    )


def _link(conf: Conf) -> LinkSettings:
    return LinkSettings(
        mac=_valid(conf, "mac", _is_mac) or "",
        promisc=_valid(conf, "promisc", _is_bool),
        mtu=_valid(conf, "mtu", _is_number) or 0,
        allmulti=_valid(conf, "allmulti", _is_bool),
        tx_queue_len=_valid(conf, "txQLen", _is_number),
        host_mtu=_valid(conf, "hostMtu", _is_number) or 0,
    )


def _sysctls(listed: object) -> list[tuple[Key, str]]:
    """Return the settings whose path stays below /proc/sys/net."""
    if not isinstance(listed, dict):
        return []
    parted = [(tuple(path.split("/")), value) for path, value in listed.items()]
    return [(key, value) for key, value in parted if _is_key(key) and _is_text(value)]


def _is_key(key: Key) -> bool:
    return all(part not in ("", ".", "..") and part.isprintable() for part in key)


def _attachment(conf: Conf) -> Attachment | None:
    parts = [_valid(conf, key, _is_text) for key in ("network", "containerID", "ifname")]
    return Attachment(*parts) if all(parts) else None


def _valid(conf: Conf, key: str, is_valid: Callable[[object], bool]) -> Any:  # noqa: ANN401 (a type for each)
    value = get(conf, key)
    return value if is_valid(value) else None


def _is_text(value: object) -> bool:
    return isinstance(value, str) and "\0" not in value


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)


def _is_number(value: object) -> bool:
    return type(value) is int and 0 <= value <= _LARGEST


def _is_mac(value: object) -> bool:
    """Say whether a text is an address as Go writes it."""
    if not isinstance(value, str) or not _MAC_DIGITS.issuperset(value):
        return False
    octets = value.split(":")
    return len(octets) in _MAC_LENGTHS and all(len(octet) == 2 for octet in octets)  # noqa: PLR2004 (digits)
