"""Reads the file that names a store for networks of several hosts, and says which of them this host has."""

import os
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from cni_plugins.contract.model import empty, load
from cni_plugins.contract.registry_config import RegistrySection
from cni_plugins.errors import DecodingFailed, IoFailed
from cni_plugins.protocol import json_text
from cni_plugins.protocol.fields import rest

DEFAULT = Path("/etc/cni-plugins/registry.json")
_LIMIT = 64 << 10  # bytes
_WHAT = "registry file"


class _RegistryFile(RegistrySection):
    networks: list[str] = Field(default_factory=empty)


class RegistryFile(NamedTuple):
    """A store, and which of its networks this host has.

    :param backend: the keys of the store, as configs of overlays have them under `backend`.
    :param patterns: of names, as in a shell.
    """

    section: RegistrySection
    backend: Mapping[str, Any]
    patterns: tuple[str, ...] = ("*",)

    @property
    def node(self) -> str:
        return self.section.node or os.uname().nodename

    def follows(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self.patterns)


def read(path: Path) -> RegistryFile:
    """Return what a file says; without `networks`, all networks of the store are followed.

    :raises CniError: when it cannot be read or is not valid; naming the file.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_LIMIT + 1)
    except OSError as err:
        raise IoFailed(f"{path}: {err.strerror}") from err
    try:
        document = json_text.load(content[:_LIMIT])
    except ValueError as err:
        raise DecodingFailed(f"{path}: not JSON: {err}") from err
    return parse(document, str(path))


def parse(document: object, where: str) -> RegistryFile:
    """:raises CniError: naming every fault."""
    if not isinstance(document, dict):
        raise DecodingFailed(f"{where}: not an object")
    model = load(_RegistryFile, document, f"{_WHAT} {where}")
    patterns = tuple(model.networks) if "networks" in model.model_fields_set else ("*",)
    backend = {"type": model.type, **rest(document, ("networks", "type"))}
    return RegistryFile(load(RegistrySection, backend, f"{_WHAT} {where}"), backend, patterns)
