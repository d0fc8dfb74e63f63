"""Checks a host's own subnets or blocks when they are set in its config instead of a record."""

from collections.abc import Sequence
from ipaddress import ip_address

from cni_plugins.errors import InvalidNetworkConfig
from cni_plugins.protocol.fields import IPNetwork
from cni_plugins.vxlan.records import Extent, RecordModel, faults

_NOWHERE = ip_address(0)  # 0.0.0.0, which no host has and no overlay contains: placeholder for the VTEP


def require_parts(
    subnets: Sequence[IPNetwork], blocks: Sequence[IPNetwork], extent: Extent
) -> tuple[IPNetwork, ...]:
    """Return the subnets in mode l3, the blocks in mode l2.

    :raises InvalidNetworkConfig: when they do not fit the network, or belong to the other mode.
    """
    model = RecordModel.model_construct(
        node="backend", vtep=_NOWHERE, subnet=list(subnets), subnets=[], block=list(blocks), blocks=[], port=0
    )
    found = list(faults([model], extent))
    if found:
        raise InvalidNetworkConfig(f"invalid network config: {found[0]}", "; ".join(found))
    return tuple(subnets if extent.mode == "l3" else blocks)
