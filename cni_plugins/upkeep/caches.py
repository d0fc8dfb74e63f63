"""Reads what runtimes remember of their attachments: the files in which libcni caches the result of each ADD.

containerd, CRI-O, podman, nerdctl, cnitool and multus use libcni. A file is written after ADD and deleted
after DEL, so it may be about a container that is long gone. Everything in it is untrusted until it has been
parsed; a file that is broken is reported and does not affect the others.
"""

import base64
import binascii
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cni_plugins.ownership import Attachment
from cni_plugins.protocol import json_text, versions
from cni_plugins.protocol.fields import Conf, get, rest, shown

DEFAULT = (Path("/var/lib/cni"), Path("/var/lib/cni/multus"))
# libcni/api.go: where it keeps attachments, and what it calls them.
_RESULTS, _KIND = "results", "cniCacheV1"
_LIMIT = 1 << 20  # bytes, as for a plugin's stdin
_MOST_FILES = 20_000


class CachedAttachment(NamedTuple):
    """An attachment that a runtime remembers.

    :param stamp: tells this file from a later one with the same name.
    :param netns: the sandbox's path; empty if neither file nor result has it.
    :param config: the network's config as the runtime had it, a list or a single plugin.
    """

    file: Path
    stamp: tuple[int, int]
    attachment: Attachment
    netns: str
    config: bytes
    result: Conf
    args: str = ""
    capability_args: Mapping[str, Any] = {}

    def is_kept(self) -> bool:
        """Say whether the runtime still has this file: it is deleted with the attachment."""
        try:
            return self.stamp == _stamp(self.file.lstat())
        except OSError:
            return False


class Found(NamedTuple):
    """What was found in caches, newest first.

    :param faults: a sentence for each broken file.
    """

    attachments: tuple[CachedAttachment, ...] = ()
    faults: tuple[str, ...] = ()


class _Broken(Exception):
    """A file of libcni's is damaged; the message says how."""


def read(directories: Iterable[Path]) -> Found:
    """Return the attachments in these caches; one that does not exist is empty."""
    newest: dict[Attachment, CachedAttachment] = {}
    faults: list[str] = []
    for path in (path for directory in directories for path in _files(directory / _RESULTS)):
        try:
            one = _read(path)
        except (_Broken, OSError) as err:
            reason = err.strerror if isinstance(err, OSError) else str(err)
            if not isinstance(err, FileNotFoundError):  # deleted meanwhile
                faults.append(f"{path}: {reason}")
            continue
        if one is not None:
            other = newest.get(one.attachment)
            if other is None or other.stamp < one.stamp:
                newest[one.attachment] = one
    ordered = sorted(newest.values(), key=lambda one: one.stamp, reverse=True)
    return Found(tuple(ordered), tuple(faults))


def _files(directory: Path) -> Iterator[Path]:
    try:
        with os.scandir(directory) as listed:
            names = sorted(item.name for item in listed if item.is_file(follow_symlinks=False))
    except OSError:
        return
    yield from (directory / name for name in names[:_MOST_FILES])


def _stamp(status: os.stat_result) -> tuple[int, int]:
    return status.st_mtime_ns, status.st_ino


def _read(path: Path) -> CachedAttachment | None:
    """Return the attachment in a file, None if the file is not of libcni's kind.

    :raises _Broken: when it is, and cannot be used.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(fd, "rb") as file:
        status = os.fstat(fd)
        _require_trusted(status)
        content = file.read(_LIMIT + 1)
    if len(content) > _LIMIT:
        raise _Broken(f"larger than {_LIMIT} bytes")
    try:
        entry = json_text.load(content)
    except ValueError as err:
        raise _Broken(f"not JSON: {err}") from err
    if not isinstance(entry, dict):
        raise _Broken("not an object")
    if entry.get("kind") != _KIND:  # releases before libcni 0.8 wrote the result alone
        return None
    return _parse(path, _stamp(status), entry)


def _require_trusted(status: os.stat_result) -> None:
    """A runtime runs as the user we are, and what it remembers is what we do."""
    if not stat.S_ISREG(status.st_mode):
        raise _Broken("not a file")
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise _Broken("others than the own user can write to it")


def _parse(path: Path, stamp: tuple[int, int], entry: Conf) -> CachedAttachment:
    names = (_text(entry, key) for key in ("networkName", "containerId", "ifName"))
    attachment = Attachment(*names)
    if path.name != "-".join(attachment):
        raise _Broken(f"is about {'-'.join(attachment)!r}")
    result = _object(entry, "result")
    return CachedAttachment(
        file=path,
        stamp=stamp,
        attachment=attachment,
        netns=_text(entry, "netns", required=False) or _sandbox(result, attachment.ifname),
        config=_config(entry),
        result=result,
        args=_args(entry),
        capability_args=_object(entry, "capabilityArgs"),
    )


def _text(entry: Conf, key: str, *, required: bool = True) -> str:
    value = entry.get(key)
    if value is None and not required:
        return ""
    if not isinstance(value, str) or (required and not value) or "\0" in value:
        raise _Broken(f"{key} is {shown(value)}")
    return value


def _object(entry: Conf, key: str) -> Mapping[str, Any]:
    value = entry.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _Broken(f"{key} is {shown(value)}")
    return value


def _config(entry: Conf) -> bytes:
    text = _text(entry, "config")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as err:
        raise _Broken(f"config is not base64: {err}") from err


def _args(entry: Conf) -> str:
    """Return CNI_ARGS, which libcni keeps as a list of pairs."""
    pairs = entry.get("cniArgs")
    if pairs is None:
        return ""
    are_pairs = isinstance(pairs, list) and all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(part, str) for part in pair)  # noqa: PLR2004 (key and value)
        for pair in pairs
    )
    if not are_pairs:
        raise _Broken(f"cniArgs is {shown(pairs)}")
    text = ";".join("=".join(pair) for pair in pairs)
    if "\0" in text:
        raise _Broken(f"cniArgs is {shown(text)}")
    return text


def _sandbox(result: Conf, ifname: str) -> str:
    """Return the sandbox's path as the result has it: libcni before 1.1.3 does not keep it otherwise."""
    listed = result.get("interfaces")
    for item in listed if isinstance(listed, list) else ():
        if isinstance(item, dict) and item.get("name") == ifname and isinstance(item.get("sandbox"), str):
            return str(item["sandbox"]).replace("\0", "")
    return ""


# ------------------------------------------------------------------------------------------- plugin configs


def plugin_confs(cached: CachedAttachment) -> list[dict[str, Any]]:
    """Return the config of each plugin of the list, as libcni sends it for CHECK.

    :raises ValueError: when the config is not one of libcni's; the message says why.
    """
    document = json_text.load(cached.config)
    listed = document.get("plugins") if isinstance(document, dict) else None
    plugins = [document] if listed is None else listed
    if not isinstance(plugins, list) or not all(isinstance(item, dict) for item in plugins):
        raise ValueError("its config is not a list of plugins")
    added = {
        "cniVersion": _version(document, cached.result),
        "name": cached.attachment.network,
        "prevResult": cached.result,
    }
    return [
        {**rest(plugin, (*added, "runtimeConfig")), **added, **_runtime(plugin, cached)} for plugin in plugins
    ]


def _version(document: Conf, result: Conf) -> object:
    """Return the version that the runtime has chosen: of several it takes one, and the result has that."""
    chosen = result.get("cniVersion")
    is_listed = isinstance(document.get("cniVersions"), list)
    return chosen if is_listed and chosen in versions.SUPPORTED else get(document, "cniVersion")


def _runtime(plugin: Conf, cached: CachedAttachment) -> dict[str, Any]:
    """Return the arguments for the capabilities that the plugin's config has."""
    wanted = get(plugin, "capabilities")
    names = [name for name, on in wanted.items() if on is True] if isinstance(wanted, dict) else []
    given = {name: cached.capability_args[name] for name in names if name in cached.capability_args}
    if given:
        return {"runtimeConfig": given}
    static = get(plugin, "runtimeConfig")
    return {} if static is None else {"runtimeConfig": static}
