"""Defines the steps for settings that an interface has already: sysctls of its sandbox, and the link's own.

What they change is recorded first, in a file, because nothing in the kernel remembers an old value.
"""

from typing import NamedTuple

from cni_plugins.ownership import Attachment
from cni_plugins.steps.step import IN_SANDBOX, SANDBOX, Removal, Step, place

Key = tuple[str, ...]  # the path of a setting below /proc/sys/net, in parts: names of links may have dots


class LinkSettings(NamedTuple):
    """Settings of a link in the sandbox; empty, 0 or None: left as it is, or not recorded.

    :param host_mtu: that of the other end of a veth pair, in the host.
    """

    mac: str = ""
    promisc: bool | None = None
    mtu: int = 0
    allmulti: bool | None = None
    tx_queue_len: int | None = None
    host_mtu: int = 0


def sysctl_name(key: Key) -> str:
    """Return the name of a setting as sysctl(8) accepts it."""
    has_dots = any("." in part for part in key)
    return ("/" if has_dots else ".").join(("net", *key))


class RecordSettings(Step):
    """The attachment's backup has the values from before the first change to each of these settings.

    :param sysctls: key and future value.
    :param link: the link's future values. What has them already need not be recorded.
    """

    data_dir: str
    attachment: Attachment
    sysctls: tuple[tuple[Key, str], ...]
    link: LinkSettings

    not_repaired_because = "it records what was there before ADD"

    def inverse(self, before: str) -> Step:
        return ReplaceBackup(self.data_dir, self.attachment, before)

    def phrase(self) -> str:
        return f"record the settings of {self.attachment.ifname} in {self.data_dir}"


class ReplaceBackup(Removal):
    """The attachment's backup has this content; without content there is none."""

    data_dir: str
    attachment: Attachment
    content: str

    def phrase(self) -> str:
        return f"put back the earlier backup of {self.attachment.ifname} in {self.data_dir}"


class WriteSysctl(Step):
    """A setting of the sandbox was written, even if it had the value: some take effect on other settings."""

    key: Key
    value: str

    not_repaired_because = IN_SANDBOX

    def inverse(self, before: str) -> Step:
        return WriteSysctl(self.key, before)

    def phrase(self) -> str:
        return f"set sysctl {sysctl_name(self.key)} to {self.value!r} {place(SANDBOX)}"


class SetPromisc(Step):
    """The link in the sandbox receives frames for any address, or only for its own."""

    link: str
    on: bool

    not_repaired_because = IN_SANDBOX

    def inverse(self, before: str) -> Step:
        return SetPromisc(self.link, on=not self.on)

    def phrase(self) -> str:
        return f"switch promiscuous mode of {self.link} {'on' if self.on else 'off'} {place(SANDBOX)}"


class SetAllmulti(Step):
    """The link in the sandbox receives all multicast frames, or only those of its groups."""

    link: str
    on: bool

    not_repaired_because = IN_SANDBOX

    def inverse(self, before: str) -> Step:
        return SetAllmulti(self.link, on=not self.on)

    def phrase(self) -> str:
        return f"switch all-multicast mode of {self.link} {'on' if self.on else 'off'} {place(SANDBOX)}"


class SetTxQueueLen(Step):
    """The link in the sandbox has a transmit queue of this many packets."""

    link: str
    length: int

    not_repaired_because = IN_SANDBOX

    def inverse(self, before: str) -> Step:
        return SetTxQueueLen(self.link, int(before))

    def phrase(self) -> str:
        return f"set the transmit queue length of {self.link} to {self.length} {place(SANDBOX)}"


class SetHostEndMtu(Step):
    """The host end of the sandbox's veth has this MTU, in bytes."""

    link: str
    host_end: str
    mtu: int

    not_repaired_because = ""

    def inverse(self, before: str) -> Step:
        return SetHostEndMtu(self.link, self.host_end, int(before))

    def phrase(self) -> str:
        return f"set the MTU of {self.host_end}, the host end of {self.link}, to {self.mtu}"


class RestoreSettings(Removal):
    """What the attachment's backups record is in effect again, as far as it is still there; they are gone."""

    data_dirs: tuple[str, ...]
    attachment: Attachment

    def phrase(self) -> str:
        return f"restore the settings of {self.attachment.ifname} from {' and '.join(self.data_dirs)}"


class DelStaleBackups(Removal):
    """No backup is left of an attachment of the network that is not valid."""

    data_dirs: tuple[str, ...]
    network: str
    valid_tags: frozenset[str]

    def phrase(self) -> str:
        return f"remove stale backups of network {self.network} from {' and '.join(self.data_dirs)}"
