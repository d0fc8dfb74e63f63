"""Validates the ptp plugin's config: every key of the reference, and a few more (docs/ptp.md)."""

from typing import Self

from pydantic import model_validator

from cni_plugins.contract.config_fields import (
    ArgsSection,
    IpamSection,
    IpMasqBackend,
    Mac,
    MacHolder,
    MasqueradeOptions,
    OptionalAutoMtu,
    OptionalDns,
    mac_in_effect,
)
from cni_plugins.contract.model import load
from cni_plugins.protocol.request import Request


class PtpConfig(MasqueradeOptions, OptionalAutoMtu):
    """The network config; `parse` replaces `mac` by the one in effect."""

    ip_masq_backend: IpMasqBackend = ""
    routed: bool = False
    enabledad: bool = False
    ipam: IpamSection = IpamSection()
    dns: OptionalDns = None
    args: ArgsSection = ArgsSection()
    runtime_config: MacHolder = MacHolder()
    mac: Mac = ""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.ipam.type:
            raise ValueError("ipam.type is missing: a point-to-point link needs addresses")
        return self


def parse(request: Request) -> PtpConfig:
    """Return the config with the MAC address in effect.

    :raises InvalidNetworkConfig: naming every fault.
    """
    config = load(PtpConfig, request.conf)
    mac = mac_in_effect(request, config.runtime_config, config.args, config.mac)
    return config.model_copy(update={"mac": mac})
