"""Selects the overlay networks that a command is about."""

from collections.abc import Sequence
from pathlib import Path

from cni_plugins.cli.failure import Failed
from cni_plugins.protocol.fields import shown
from cni_plugins.upkeep import overlay_configs
from cni_plugins.upkeep.overlay_configs import PLUGIN, FoundConfigs


def in_directory(directory: Path, *, may_be_absent: bool = False) -> FoundConfigs:
    """Return the networks configured on a node.

    :param may_be_absent: whether a node without the directory has no networks, and nothing is wrong.
    :raises Failed: when the directory cannot be read.
    """
    try:
        return overlay_configs.in_directory(directory)
    except OSError as err:
        if may_be_absent and isinstance(err, FileNotFoundError):
            return FoundConfigs()
        raise Failed(f"{directory}: {err.strerror}") from err


def select(
    found: FoundConfigs, names: Sequence[str], place: str, *, is_asked_for: bool = False
) -> FoundConfigs:
    """Return the networks with these names, or all of them with the faults of all files.

    That there is none is no failure: a timer may run on a node that is in no overlay.

    :param is_asked_for: whether at least one is expected, as in a file that was named.
    :raises Failed: when one is expected and none is found, or one of the names is unknown.
    """
    known = {one.network: one for one in found.networks}
    unknown = next((name for name in names if name not in known), None)
    if not known and (is_asked_for or names):
        why = "; ".join(found.faults) or f"no file there has a plugin of type {PLUGIN}"
        raise Failed(f"no overlay network in {place}: {why}")
    if unknown is not None:
        broken = f" ({'; '.join(found.faults)})" if found.faults else ""
        raise Failed(f"no overlay network {shown(unknown)} in {place}, only {', '.join(known)}{broken}")
    if not names:
        return found._replace(place=place)
    return FoundConfigs(tuple(known[name] for name in dict.fromkeys(names)), place=place)
