"""Creates a network: on this host alone, or in the store of many hosts."""

import secrets
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from cni_plugins.cli.failure import Failed
from cni_plugins.cli.network import pools
from cni_plugins.cli.network.conflist import bridge_of, conflist
from cni_plugins.cli.network.place import Place
from cni_plugins.cli.network.wish import Wish
from cni_plugins.errors import CniError
from cni_plugins.keeper import networks as keeper
from cni_plugins.protocol.fields import IPNetwork, parse_cidr
from cni_plugins.registries.shared_networks import (
    RESERVED,
    AlreadyThere,
    Contended,
    SharedNetwork,
    SharedNetworks,
)
from cni_plugins.upkeep.networks import files, taken, validate
from cni_plugins.upkeep.networks.files import Directory
from cni_plugins.upkeep.networks.taken import HostView, Taken
from cni_plugins.vxlan.config import DEFAULT_PORT
from cni_plugins.vxlan.identity import LARGEST_VNI, default_vni

_ULA_OVERLAY = 48  # prefix length; hosts have subnets of it


class Created(NamedTuple):
    """A new network.

    :param file: where this host has it; None: its keeper writes it, or it does not follow this network.
    :param told: what keeps this host from having it.
    """

    name: str
    subnets: tuple[str, ...]
    file: Path | None
    is_shared: bool = False
    vni: int = 0
    told: tuple[str, ...] = ()


def locally(wish: Wish, place: Place) -> Created:
    """Write this host's file of a network.

    :raises Failed: when the name, the bridge or a given subnet is in use, or a plugin refuses the config.
    """
    overlay = _backend(wish) if wish.driver == "vxlan" else {}
    path = files.path_of(place.conf_dir, wish.name)
    try:
        with files.changing(place.conf_dir):
            found = _read(place)
            _require_free(wish, found)
            view = _look(wish)
            used = _used(wish, view, found)
            subnets = _subnets(wish, used)
            document = conflist(wish, subnets, view.names, overlay)
            _require_valid(document)
            files.write(path, document)
    except FileExistsError as err:
        raise Failed(f"{path} exists, and is of another network") from err
    except OSError as err:
        raise Failed(f"{err.filename or place.conf_dir}: {err.strerror}") from err
    return Created(wish.name, tuple(map(str, subnets)), path)


def shared(wish: Wish, place: Place) -> Created:
    """Add a network to the store, and let this host do at once what its keeper would.

    :raises Failed: as `locally`, and when the store fails.
    """
    _require_shareable(wish)
    try:
        found = _read(place)
        _require_free(wish, found)
        view = _look(wish)
        with place.store() as (store, registry):

            def make(others: Sequence[SharedNetwork]) -> SharedNetwork:
                return _shared(
                    wish, others, (*_used(wish, view, found), *_of_store(others)), registry.backend
                )

            try:
                network = SharedNetworks(store).create(wish.name, make)
            except AlreadyThere as err:
                raise Failed(f"the store has a network {wish.name} already") from err
            except Contended as err:
                raise Failed("other hosts keep creating networks; try again") from err
            done = keeper.round_on(store, registry, place.conf_dir, place.cache_dirs)
            here = _read(place).find(wish.name)  # another process may have written it
    except OSError as err:
        raise Failed(f"{err.filename or place.conf_dir}: {err.strerror}") from err
    return Created(
        name=wish.name,
        subnets=network.subnets,
        file=here.path if here is not None and here.follows == network.number else None,
        is_shared=True,
        vni=network.vni,
        told=done.told,
    )


# ------------------------------------------------------------------------------------------- what is in use


def _read(place: Place) -> Directory:
    return files.read(place.conf_dir)


def _look(wish: Wish) -> HostView:
    return taken.look((bridge_of(wish),) if wish.driver == "bridge" else ())


def _require_free(wish: Wish, found: Directory) -> None:
    """:raises Failed: when another network of this host has the name or the bridge."""
    if wish.name in RESERVED:
        raise Failed(f"network name {wish.name} is reserved")
    other = found.find(wish.name)
    if other is not None:
        raise Failed(f"{other.path} has a network {wish.name} already")
    if wish.driver != "bridge":
        return
    for file in found.files:
        if any(plugin.get("bridge") == bridge_of(wish) for plugin in file.plugins):
            raise Failed(f"network {file.name} ({file.path}) has bridge {bridge_of(wish)} already")


def _used(wish: Wish, view: HostView, found: Directory) -> tuple[Taken, ...]:
    """Return the addresses that the network cannot have; those of a macvlan are on the host's own wire."""
    listed = taken.of_files(found.files)
    if wish.driver == "macvlan":
        return listed
    named = (str(wish.options["bridge"]),) if "bridge" in wish.options else ()
    return (*(one for one in view.taken if not one.link or one.link not in named), *listed)


def _of_store(others: Sequence[SharedNetwork]) -> tuple[Taken, ...]:
    found: list[Taken] = []
    for other in others:
        for text in other.subnets:
            try:
                found.append(
                    Taken(parse_cidr(text).network, f"network {other.name} of the store, which has {text}")
                )
            except ValueError:
                continue
    return tuple(found)


def _subnets(wish: Wish, used: Sequence[Taken]) -> tuple[IPNetwork, ...]:
    length = 64
    chosen: pools.Pools = pools.ONE_HOST
    if wish.driver == "vxlan":
        is_routed = wish.mode == "l3"
        chosen = pools.ROUTED_OVERLAY if is_routed else pools.STRETCHED_OVERLAY
        length = _ULA_OVERLAY if is_routed else length
    return pools.settle(wish.subnets, wish.versions, used, chosen, secrets.randbits, length)


def _require_valid(document: dict[str, Any]) -> None:
    try:
        validate.require_valid(document)
    except CniError as err:
        raise Failed(validate.told(err)) from err


# ------------------------------------------------------------------------------------------------- overlays


def _backend(wish: Wish) -> dict[str, Any]:
    """Return the keys of an overlay without a store.

    :raises Failed: when nothing says who its hosts are, or which subnets they have.
    """
    options = wish.options
    if "peers" not in options and "group" not in options:
        raise Failed(
            "driver vxlan needs to know the hosts: --registry FILE, -o peers=FILE or -o group=ADDRESS"
        )
    if not wish.subnets:
        raise Failed("driver vxlan without a store needs --subnet, the same on all hosts")
    vni = {"vni": options["vni"]} if "vni" in options else {}
    return {**vni, "backend": {"type": "static", "peersFile": options["peers"]}}


def _require_shareable(wish: Wish) -> None:
    if wish.driver == "macvlan" and any(count > 1 for count in _ranges_by_family(wish)):
        raise Failed("driver macvlan with a store: hosts divide one --ip-range of each family, not several")
    if "peers" in wish.options:
        raise Failed("-o peers and a store: the hosts are found in the store")


def _ranges_by_family(wish: Wish) -> list[int]:
    return [sum(part.version == version for part in wish.ranges) for version in (4, 6)]


def _shared(
    wish: Wish,
    others: Sequence[SharedNetwork],
    used: Sequence[Taken],
    backend: Mapping[str, Any],
) -> SharedNetwork:
    subnets = _subnets(wish, used)
    vni, overlay = 0, {}
    if wish.driver == "vxlan":
        vni = _vni(wish, others)
        overlay = {"vni": vni, "backend": {"type": backend["type"]}}
    # A VLAN is named as such: whether there is a link of that name differs between hosts.
    document = conflist(wish, subnets, (), overlay, {"type": backend["type"]})
    try:
        validate.from_store(document, wish.name, backend)
    except CniError as err:
        raise Failed(validate.told(err)) from err
    port = int(wish.options.get("port", DEFAULT_PORT)) if vni else 0
    return SharedNetwork(wish.name, "", document, tuple(map(str, subnets)), vni, port)


def _vni(wish: Wish, others: Sequence[SharedNetwork]) -> int:
    """Return the VNI: the one given, or that which the name leads to, or the next free one."""
    users = {other.vni: other.name for other in others if other.vni}
    given = wish.options.get("vni")
    if given is not None:
        if given in users:
            raise Failed(f"-o vni={given}: network {users[given]} of the store has it")
        return int(given)
    first = default_vni(wish.name)
    return next(vni for vni in chain(range(first, LARGEST_VNI + 1), range(1, first)) if vni not in users)
