"""Finds the networks to follow: those whose peers come from a store, or from a file."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from cni_plugins.contract.model import load
from cni_plugins.contract.registry_config import KINDS, RegistrySection
from cni_plugins.errors import CniError
from cni_plugins.protocol.fields import get
from cni_plugins.upkeep import overlay_configs
from cni_plugins.upkeep.overlay_configs import Configured
from cni_plugins.vxlan.config import VxlanConfig
from cni_plugins.vxlan.identity import bridge_name, default_vni, vxlan_name
from cni_plugins.vxlan.records import Extent

Signature = tuple[tuple[str, int, int, int], ...]


class Followed(NamedTuple):
    """A network whose peers may change.

    :param section: the store; None: the peers are in a file, or in the config.
    :param peers_file: empty: none.
    """

    of: Configured
    config: VxlanConfig
    section: RegistrySection | None
    peers_file: str = ""

    @property
    def network(self) -> str:
        return self.of.network

    @property
    def extent(self) -> Extent:
        config = self.config
        length = config.subnet_len if config.mode == "l3" else config.block_len
        return Extent(config.mode, config.within, length, config.port)

    @property
    def vni(self) -> int:
        return self.config.vni or default_vni(self.network)

    @property
    def links(self) -> tuple[str, str]:
        """The names of its VXLAN link and of its bridge, whether they exist or not."""
        return vxlan_name(self.vni), bridge_name(self.vni)


class Found(NamedTuple):
    """:param faults: a sentence for each file or network that cannot be used."""

    networks: tuple[Followed, ...] = ()
    faults: tuple[str, ...] = ()


def in_directory(directory: Path) -> Found:
    """Return the networks to follow; a directory that cannot be read has none."""
    try:
        configured = overlay_configs.in_directory(directory)
    except FileNotFoundError:
        return Found()
    except OSError as err:
        return Found(faults=(f"{directory}: {err.strerror}",))
    networks: list[Followed] = []
    faults = [*configured.faults]
    for one in configured.networks:
        try:
            followed = of(one)
        except CniError as err:
            faults.append(f"network {one.network}: {err.msg}")
            continue
        if followed is not None:
            networks.append(followed)
    return Found(tuple(networks), tuple(faults))


def of(one: Configured) -> Followed | None:
    """Return a network to follow, None if its peers come from elsewhere.

    :raises CniError: when its config is invalid.
    """
    backend = get(one.conf, "backend")
    kind = get(backend, "type") if isinstance(backend, dict) else None
    if kind in KINDS:
        section = load(RegistrySection, _object(backend), at=("backend",))
        return Followed(one, load(VxlanConfig, one.conf), section)
    if kind == "static":
        path = get(_object(backend), "peersFile")
        return Followed(one, load(VxlanConfig, one.conf), None, path if isinstance(path, str) else "")
    return None


def _object(value: Any) -> dict[str, Any]:  # noqa: ANN401 (JSON is anything)
    return value if isinstance(value, dict) else {}


def signature(paths: Iterable[str]) -> Signature:
    """Return what changes when one of the files does; those that do not exist are left out."""
    found = []
    for path in paths:
        try:
            status = os.stat(path)
        except (OSError, ValueError):
            continue
        found.append((path, status.st_ino, status.st_mtime_ns, status.st_size))
    return tuple(found)


def directory_signature(directory: Path) -> Signature:
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return ()
    return signature(f"{directory}/{name}" for name in names)
