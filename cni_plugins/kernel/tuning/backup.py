"""Keeps the values from before ADD in the attachment's backup, and gives them back on DEL.

The backup is complete before the first change, so a killed ADD can be undone as well.
"""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cni_plugins.errors import CniError
from cni_plugins.kernel.deed import REMOVES, Uncompared, deed
from cni_plugins.kernel.ip import sysctl
from cni_plugins.kernel.links import links
from cni_plugins.kernel.links.link import IFF_ALLMULTI, IFF_PROMISC, Link
from cni_plugins.kernel.netlink import rtnetlink as wire
from cni_plugins.kernel.session import netns
from cni_plugins.kernel.session.session import Session
from cni_plugins.kernel.tuning import backup_dir, sysctls
from cni_plugins.kernel.tuning.backup_format import Backup, decode, encode
from cni_plugins.kernel.tuning.link import host_end_of
from cni_plugins.ownership import (
    BACKUP_SUFFIX,
    Attachment,
    backup_names,
    network_tag,
    tag_of_backup,
    unfinished_backup,
)
from cni_plugins.steps.step import ABSENT, SANDBOX, UNCHANGED
from cni_plugins.steps.tuning import (
    DelStaleBackups,
    Key,
    LinkSettings,
    RecordSettings,
    ReplaceBackup,
    RestoreSettings,
)

_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_MISSING = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)


def identity(session: Session) -> str:
    """Return boot and number of the sandbox: its path and its inode can become those of another."""
    cookie = session.rtnl(SANDBOX).namespace_cookie()
    return f"{sysctl.read_file(_BOOT_ID)}:{cookie or netns.identity(session.fd(SANDBOX))}"


# ------------------------------------------------------------------------------------------------ recording


def _record(session: Session, step: RecordSettings) -> str:
    """Add to the backup what is about to change; return its text from before."""
    now = _present(session, step)
    if now.link == LinkSettings() and not now.sysctls:
        return UNCHANGED
    with backup_dir.created(step.data_dir) as directory:
        name, data, found = _own(directory, step.attachment)
        kept = found if found is not None and _is_of(found, now) else None
        content = encode(kept.filled_from(now) if kept else now)
        before = data.decode(errors="surrogateescape") if kept and data else ABSENT
        if content == before:
            return UNCHANGED
        backup_dir.write(directory, name, unfinished_backup(step.attachment), content)
    return before


def _present(session: Session, step: RecordSettings) -> Backup:
    """Return the values of everything that the plan changes."""
    link, values = LinkSettings(), _values(session, step)
    ifindex = 0
    if step.link != LinkSettings():
        found = links.get(session, SANDBOX, step.attachment.ifname)
        link, ifindex = _changing(session, found, step.link), found.ifindex
    return Backup(link, values, step.attachment, identity(session), ifindex)


def _values(session: Session, step: RecordSettings) -> tuple[tuple[Key, str], ...]:
    """Return all sysctls if any will change: that of one can change others.

    Those that are missing, or cannot be read, are the business of the steps that write them.
    """
    with session.inside(SANDBOX):
        found = {key: value for key, _ in step.sysctls if (value := _value(key)) is not None}
    wanted = dict(step.sysctls)
    is_changing = any(not sysctls.is_same(value, wanted[key]) for key, value in found.items())
    return tuple(found.items()) if is_changing else ()


def _value(key: Key) -> str | None:
    try:
        return sysctls.read(key)
    except OSError as err:
        if err.errno not in _MISSING:
            raise
        return None


def _changing(session: Session, link: Link, wanted: LinkSettings) -> LinkSettings:
    """Return the settings of a link that will change."""
    peer = host_end_of(session, link) if wanted.host_mtu else None
    present = LinkSettings(
        link.mac,
        bool(link.flags & IFF_PROMISC),
        link.mtu,
        bool(link.flags & IFF_ALLMULTI),
        link.tx_queue_len,
        peer.mtu if peer else 0,
    )
    of_each = zip(present, wanted, LinkSettings(), strict=True)
    return LinkSettings._make(old if new not in (nothing, old) else nothing for old, new, nothing in of_each)


def _own(directory: int, attachment: Attachment) -> tuple[str, bytes | None, Backup | None]:
    """Return name, content and values of the attachment's backup, or the name that a new one gets.

    What is damaged can give nothing back to anyone, so its name is free. A file of the reference names no
    attachment and is ours by its name.
    """
    *others, last = backup_names(attachment)
    for name in others:
        data = backup_dir.read(directory, name)
        found = decode(data) if data else None
        if found is None or found.attachment in (None, attachment):
            return name, data, found
    data = backup_dir.read(directory, last)
    return last, data, decode(data) if data else None


def _is_of(found: Backup, now: Backup) -> bool:
    """Say whether a backup is of the sandbox and the link as they are now, or may be."""
    is_same_link = not found.ifindex or not now.ifindex or found.ifindex == now.ifindex
    return found.attachment in (None, now.attachment) and found.sandbox in ("", now.sandbox) and is_same_link


def _replace(_session: Session, step: ReplaceBackup) -> None:
    with backup_dir.existing(step.data_dir) as directory:
        if directory is None:
            return
        name, _, _ = _own(directory, step.attachment)
        if step.content:
            backup_dir.write(directory, name, unfinished_backup(step.attachment), step.content)
        else:
            backup_dir.discard(directory, name)


# ------------------------------------------------------------------------------------------------ restoring


def _restore(session: Session, step: RestoreSettings) -> None:
    """Give back what the backups record, and remove them.

    A value that the kernel refuses is given up: the interface is about to go, and an error would keep the
    runtime from calling the plugins before this one. A shortage is an error, so that the runtime tries again.
    """
    for path in step.data_dirs:
        with backup_dir.existing(path) as directory:
            if directory is None:
                continue
            for name in backup_names(step.attachment):
                _restore_one(session, directory, name, step.attachment)
            backup_dir.discard(directory, unfinished_backup(step.attachment))


def _restore_one(session: Session, directory: int, name: str, attachment: Attachment) -> None:
    data = backup_dir.read(directory, name)
    if data is None:
        return
    found = decode(data)
    if found is not None and found.attachment not in (None, attachment):
        return  # another's, which has the same name
    if found is not None and session.sandbox is not None and found.sandbox in ("", identity(session)):
        _give_back(session, found, attachment.ifname)
    backup_dir.discard(directory, name)


def _give_back(session: Session, backup: Backup, ifname: str) -> None:
    """Restore the link first: with its MTU, for example, the kernel changes settings of IPv6."""
    link = links.find(session, SANDBOX, ifname)
    is_recorded = link is not None and backup.ifindex in (0, link.ifindex)
    if link is not None and is_recorded:
        for restore in _restorers(session, backup.link, link):
            with _refusable():
                restore()
    values = tuple((key, value) for key, value in backup.sysctls if is_recorded or ifname not in key)
    with session.inside(SANDBOX):
        for key, value in reversed(values):
            with _refusable():
                sysctls.put(key, value)
        for key, value in reversed(values):  # again, as some change others: those of `all`, for example
            with _refusable():
                if sysctls.read(key) != value:
                    sysctls.put(key, value)


@contextmanager
def _refusable() -> Iterator[None]:
    try:
        yield
    except CniError:
        pass
    except OSError as err:
        if err.errno in backup_dir.SHORTAGES:
            raise


def _restorers(session: Session, old: LinkSettings, link: Link) -> Iterator[Callable[[], object]]:
    """Yield a function for each recorded setting, in the reverse order of ADD."""

    def send(attribute: bytes = b"", flag: int = 0, *, on: bool = False) -> Callable[[], None]:
        message = links.set_message(attribute, index=link.ifindex, flags=flag if on else 0, mask=flag)
        return lambda: links.send(session, message, where=SANDBOX)

    if old.tx_queue_len is not None:
        yield send(wire.number(wire.IFLA_TXQLEN, old.tx_queue_len))
    if old.allmulti is not None:
        yield send(flag=IFF_ALLMULTI, on=old.allmulti)
    if old.host_mtu:
        yield lambda: _restore_host_mtu(session, link, old.host_mtu)
    if old.mtu:
        yield send(wire.number(wire.IFLA_MTU, old.mtu))
    if old.promisc is not None:
        yield send(flag=IFF_PROMISC, on=old.promisc)
    if old.mac:
        yield send(wire.mac(wire.IFLA_ADDRESS, old.mac))


def _restore_host_mtu(session: Session, link: Link, mtu: int) -> None:
    peer = host_end_of(session, link)
    if peer is not None:
        links.send(session, links.set_message(wire.number(wire.IFLA_MTU, mtu), index=peer.ifindex))


# ----------------------------------------------------------------------------------------------- collecting


def _collect(_session: Session, step: DelStaleBackups) -> None:
    """Remove the network's files without a valid attachment.

    Files of the reference stay: they do not say of which network they are, and may be another's in use.
    """
    for path in step.data_dirs:
        with backup_dir.existing(path) as directory:
            if directory is None:
                continue
            for name in os.listdir(directory):
                if _is_stale(directory, name, step):
                    backup_dir.discard(directory, name)


def _is_stale(directory: int, name: str, step: DelStaleBackups) -> bool:
    tag = tag_of_backup(name)
    if not tag.startswith(f"{network_tag(step.network)}-"):
        data = backup_dir.read(directory, name) if name.endswith(BACKUP_SUFFIX) else None
        found = decode(data) if data else None
        if found is None or found.attachment is None or found.attachment.network != step.network:
            return False
        tag = found.attachment.tag
    return tag not in step.valid_tags


DEEDS = (
    deed(RecordSettings, _record, Uncompared("only DEL needs it, and the reference makes none for sysctls"))
    | deed(ReplaceBackup, _replace, REMOVES)
    | deed(RestoreSettings, _restore, REMOVES)
    | deed(DelStaleBackups, _collect, REMOVES)
)
