"""Removes what the last container of a network may have left in the host, as DEL of its plugins does."""

from collections.abc import Iterator

from cni_plugins.kernel import apply
from cni_plugins.kernel.session.session import Session
from cni_plugins.protocol.fields import Conf, get
from cni_plugins.steps.links import DelIdleBridge
from cni_plugins.steps.macvlan import DelIdleVlans
from cni_plugins.steps.overlay import DelIdleOverlay
from cni_plugins.steps.step import Step
from cni_plugins.upkeep.networks.files import NetworkFile


def steps(file: NetworkFile) -> tuple[Step, ...]:
    """Return the steps, each of which leaves alone what is in use, or was made by another program."""
    return tuple(step for plugin in file.plugins for step in _of_plugin(file.name, plugin))


def _of_plugin(network: str, plugin: Conf) -> Iterator[Step]:
    bridge = get(plugin, "bridge")
    match get(plugin, "type"):
        case "bridge" if isinstance(bridge, str) and get(plugin, "removeIdleBridge") is True:
            yield DelIdleBridge(bridge)
        case "vxlan":
            yield DelIdleOverlay(network)
        case "macvlan" if get(plugin, "vlan") is not None:
            yield DelIdleVlans()


def remove(file: NetworkFile) -> tuple[str, ...]:
    """Remove what is idle; return a sentence for each step that the kernel refused."""
    plan = steps(file)
    if not plan:
        return ()
    with Session(None) as session:
        errors = apply.remove(session, plan).errors
    return tuple(f"{err.msg} ({err.full_details()})" for err in errors)
