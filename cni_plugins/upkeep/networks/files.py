"""Reads the networks in the runtime's directory of configs, and writes and removes those of `cnictl network`.

Files are written under a name that no runtime loads, and get their own by a link or a rename, so a runtime
never sees a part of one. Two top-level keys, which libcni ignores, say who wrote a file:
`cni-plugins.network` in all of ours, and `cni-plugins.registry` in those that follow a store. Other files are
never changed.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from ipaddress import ip_interface
from pathlib import Path
from typing import Any, NamedTuple

from cni_plugins.kernel.session.locks import locked
from cni_plugins.protocol import json_text
from cni_plugins.protocol.fields import Conf, IPNetwork, get
from cni_plugins.protocol.request import NAME
from cni_plugins.upkeep import config_files

OURS, FOLLOWED = "cni-plugins.network", "cni-plugins.registry"
CONF_DIR = Path("/etc/cni/net.d")
LONGEST = 200  # characters of a network's name; a file name has at most 255 bytes
_PATIENCE = 120.0  # seconds


class NetworkFile(NamedTuple):
    """A network as its file has it.

    :param document: the list of plugins; a file with a single one is shown as a list.
    """

    name: str
    path: Path
    document: Mapping[str, Any]

    @property
    def plugins(self) -> list[Conf]:
        return [*self.document["plugins"]]

    @property
    def driver(self) -> str:
        kind = get(self.plugins[0], "type") if self.plugins else ""
        return kind if isinstance(kind, str) else ""

    @property
    def is_ours(self) -> bool:
        return isinstance(self.document.get(OURS), dict)

    @property
    def follows(self) -> str:
        """The number that a network of a store has there; empty for one of this host alone."""
        mark = self.document.get(FOLLOWED)
        number = mark.get("id") if isinstance(mark, dict) and self.is_ours else None
        return number if isinstance(number, str) else ""

    @property
    def labels(self) -> Mapping[str, Any]:
        labels = self.document[OURS].get("labels") if self.is_ours else None
        return labels if isinstance(labels, dict) else {}

    @property
    def is_internal(self) -> bool:
        return self.is_ours and self.document[OURS].get("internal") is True

    @property
    def subnets(self) -> tuple[IPNetwork, ...]:
        return subnets_of(self.document)


class Directory(NamedTuple):
    """The networks of a directory; of several with one name, runtimes use the first.

    :param faults: a sentence for each file that runtimes do not load.
    """

    files: tuple[NetworkFile, ...] = ()
    faults: tuple[str, ...] = ()

    def find(self, name: str) -> NetworkFile | None:
        return next((file for file in self.files if file.name == name), None)


@contextmanager
def changing(directory: Path) -> Iterator[None]:
    """Keep other commands and the keeper from changing the directory, or from choosing subnets, meanwhile."""
    with locked(f"networks\0{directory.resolve()}", _PATIENCE):
        yield


def read(directory: Path) -> Directory:
    """Return the networks of a directory in the order of libcni; one that does not exist has none.

    :raises OSError: when it cannot be read.
    """
    files: list[NetworkFile] = []
    faults: list[str] = []
    try:
        listed = config_files.listed(directory)
    except FileNotFoundError:
        listed = []
    for path in listed:
        try:
            files.append(_parse(path, config_files.content(path)))
        except FileNotFoundError:  # removed meanwhile
            continue
        except (OSError, ValueError) as err:
            faults.append(f"{path}: {(isinstance(err, OSError) and err.strerror) or err}")
    return Directory(tuple(files), tuple(faults))


def _parse(path: Path, content: bytes) -> NetworkFile:
    """:raises ValueError: saying what is wrong."""
    document = json_text.load(content)
    if not isinstance(document, dict):
        raise ValueError("not an object")  # noqa: TRY004 (one kind of error for all faults)
    name = get(document, "name")
    if not isinstance(name, str) or not NAME.match(name):
        raise ValueError("it has no valid network name")
    listed = get(document, "plugins")
    plugins = [document] if listed is None else listed
    if not isinstance(plugins, list) or not all(isinstance(item, dict) for item in plugins):
        raise ValueError("plugins is not a list of objects")
    return NetworkFile(name, path, {**document, "name": name, "plugins": plugins})


def text_of(document: Conf) -> str:
    return json.dumps(document, indent=2) + "\n"


def path_of(directory: Path, name: str) -> Path:
    return directory / f"80-{name}.conflist"


def write(path: Path, document: Conf, *, replace: bool = False) -> None:
    """Write a network's file; call with `changing` held.

    :raises FileExistsError: when there is one, and `replace` is off.
    :raises OSError: when it cannot be written; nothing is left then.
    """
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(temporary, flags, 0o644)
    try:
        with os.fdopen(fd, "w") as file:
            os.fchmod(fd, 0o644)
            file.write(text_of(document))
            file.flush()
            os.fsync(fd)
        if replace:
            temporary.rename(path)
        else:
            path.hardlink_to(temporary)
    finally:
        temporary.unlink(missing_ok=True)


# ------------------------------------------------------------------------------------------------ subnets


def subnets_of(document: Conf) -> tuple[IPNetwork, ...]:
    """Return the address ranges of a network as its plugins have them, whatever else they contain."""
    found = (network for plugin in document["plugins"] for network in _subnets(plugin))
    return tuple(dict.fromkeys(found))


def _subnets(plugin: Conf) -> Iterator[IPNetwork]:
    for key in ("network", "subnet"):
        yield from _networks(get(plugin, key))
    ipam = get(plugin, "ipam")
    if not isinstance(ipam, dict):
        return
    yield from _networks(get(ipam, "subnet"))
    for ranges in _lists(get(ipam, "ranges")):
        for item in _lists(ranges):
            yield from _networks(get(item, "subnet") if isinstance(item, dict) else None)
    for item in _lists(get(ipam, "addresses")):
        yield from _networks(get(item, "address") if isinstance(item, dict) else None)


def _lists(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _networks(value: object) -> Iterator[IPNetwork]:
    for text in value if isinstance(value, list) else [value]:
        if isinstance(text, str) and "/" in text:
            try:
                yield ip_interface(text).network
            except ValueError:
                continue
