"""Lists what a host forwards in an overlay, and what of it filters of other programs might drop."""

from collections.abc import Iterator

from cni_plugins.steps.forwarded import Flow
from cni_plugins.vxlan.config import Overlay


def flows(overlay: Overlay) -> tuple[Flow, ...]:
    """Return what must be forwarded: between containers of different hosts, and what is masqueraded."""
    versions = tuple(network.version for network in overlay.config.within)
    return tuple(_flows(overlay, versions))


def _flows(overlay: Overlay, versions: tuple[int, ...]) -> Iterator[Flow]:
    bridge, tunnel = overlay.bridge, overlay.vxlan
    if overlay.config.mode == "l2":
        yield Flow(bridge, bridge, versions, bridge, bridged=True)
    elif overlay.config.direct_routing == "off":
        yield Flow(bridge, tunnel, versions, bridge)
        yield Flow(tunnel, bridge, versions, bridge)
    else:  # by whatever link the peers are reached
        yield Flow(bridge, "", versions, bridge)
    masqueraded = tuple(version for version in versions if overlay.config.masquerade.covers(version))
    if masqueraded:
        yield Flow(bridge, "", masqueraded, bridge)
