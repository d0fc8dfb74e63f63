"""Implements backend `multicast`: hosts find each other through a multicast group of the underlay."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from cni_plugins.contract.model import Address, ClosedModel, empty
from cni_plugins.errors import InvalidNetworkConfig
from cni_plugins.vxlan.backends.own_subnets import require_parts
from cni_plugins.vxlan.backends.roster import Roster
from cni_plugins.vxlan.records import Extent, Networks


class MulticastBackend(ClosedModel):
    """The `backend` section; `ttl` limits the hops of multicast packets, 0: the kernel's default."""

    type: Literal["multicast"]
    group: Address
    ttl: Annotated[int, Field(ge=0, le=255)] = 0
    subnet: Networks = Field(default_factory=empty)
    block: Networks = Field(default_factory=empty)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.group.is_multicast:
            raise ValueError(f"group {self.group} is not a multicast address")
        return self

    def roster(self, _network: str, extent: Extent) -> Roster:
        """:raises InvalidNetworkConfig: when this host's subnet is missing, or does not fit the network."""
        if extent.mode == "l3" and not self.subnet:
            raise InvalidNetworkConfig(
                "invalid network config: backend.subnet is missing",
                "a multicast group does not assign subnets to hosts",
            )
        parts = require_parts(self.subnet, self.block, extent)
        return Roster(parts=parts, group=self.group, ttl=self.ttl)

    def doubt(self, _network: str) -> str:
        return ""
