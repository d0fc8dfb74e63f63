"""A host's own subnets or blocks, where they stand in its own config instead of a record."""

from collections.abc import Sequence
from ipaddress import ip_address

from cni_plugins.errors import InvalidNetworkConfig
from cni_plugins.protocol.fields import IPNetwork
from cni_plugins.vxlan.records import Extent, RecordModel, faults

_NOWHERE = ip_address(0)  # 0.0.0.0: of no host and in no overlay, for a record that has none yet


def require_parts(
    subnets: Sequence[IPNetwork], blocks: Sequence[IPNetwork], extent: Extent
) -> tuple[IPNetwork, ...]:
    """Return those of the mode.

    :raises InvalidNetworkConfig: when they do not fit the network, or are of the other mode.
    """
    model = RecordModel.model_construct(
        node="backend", vtep=_NOWHERE, subnet=list(subnets), subnets=[], block=list(blocks), blocks=[], port=0
    )
    found = list(faults([model], extent))
    if found:
        raise InvalidNetworkConfig(f"invalid network config: {found[0]}", "; ".join(found))
    return tuple(subnets if extent.mode == "l3" else blocks)
