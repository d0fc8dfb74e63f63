"""Does for `cnictl overlay` what the keeper does, once: a round with the store, or the release of a node."""

from collections.abc import Callable
from typing import NamedTuple

from cni_plugins.contract.registry_config import RegistrySection
from cni_plugins.keeper import identity
from cni_plugins.keeper.files import USUAL, Places
from cni_plugins.keeper.followed import Followed
from cni_plugins.keeper.follower import Follower, Surroundings, Timing
from cni_plugins.keeper.membership import Host
from cni_plugins.keeper.report import Silent
from cni_plugins.protocol.fields import shown
from cni_plugins.registries.layouts import registry_of
from cni_plugins.registries.network_registry import NetworkRegistry, Refused
from cni_plugins.registries.open import open_store
from cni_plugins.registries.store import Store, StoreFailed

Opener = Callable[[RegistrySection], Store]


class Released(NamedTuple):
    """What a node had in one network.

    :param error: why it was not released.
    """

    network: str
    parts: tuple[str, ...] = ()
    had_record: bool = False
    error: str = ""


def round_of(one: Followed, open_store: Opener = open_store, places: Places = USUAL) -> str:
    """List, claim, publish, and write the snapshot; return what is wrong, empty if nothing is."""
    section = one.section
    if section is None:
        return ""
    epoch = identity.boot_id()
    around = Surroundings(
        open_store=open_store,
        host=lambda found: Host(identity.member(found, places.kept), epoch),
        tell=Silent(),
        changed=lambda _network: None,
        places=places,
        timing=Timing(),
    )
    try:
        follower = Follower(one, section, around)
        follower.once()
    except StoreFailed as err:
        return f"{section.type}: {err}"
    except OSError as err:
        return f"{err.filename or one.network}: {err.strerror or err}"
    found = follower.files.state()
    state, trouble = str(found.get("state", "")), str(found.get("trouble", ""))
    return trouble if state == "following" else f"{state}: {trouble}"


def release(one: Followed, node: str, *, force: bool, open_store: Opener = open_store) -> Released:
    """Release what a node has in a network, unless it is live.

    :param force: also then.
    """
    if one.section is None:
        return Released(one.network, error="its peers are not in a store")
    try:
        store = open_store(one.section)
    except StoreFailed as err:
        return Released(one.network, error=f"{one.section.type}: {err}")
    try:
        registry = registry_of(store, one.section, one.network, one.of.conf)
        return _release(registry, one.network, node, force=force)
    except Refused as err:
        return Released(one.network, error=str(err))
    except StoreFailed as err:
        return Released(one.network, error=f"{one.section.type}: {err}")
    finally:
        store.close()


def no_node(node: str) -> str:
    return f"there is no node {shown(node)}"


def _release(registry: NetworkRegistry, network: str, node: str, *, force: bool) -> Released:
    if node in registry.live() and not force:
        return Released(network, error=f"node {shown(node)} is live: stop its agent first, or use --force")
    parts = tuple(sorted(part.cidr for part in registry.parts() if part.owner.node == node))
    had_record = node in registry.records()
    if not registry.release(node):
        return Released(network, error=no_node(node))
    return Released(network, parts, had_record)
