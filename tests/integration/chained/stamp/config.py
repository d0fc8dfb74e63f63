"""The config of stamp: `mac`, `mtu` and `guard`."""

from cni_plugins.contract.config_fields import Mac, PlainMtu
from cni_plugins.contract.model import ConfigModel, load
from cni_plugins.protocol.request import Request


class StampConfig(ConfigModel):
    """Empty, zero and false leave things as they are."""

    mac: Mac = ""
    mtu: PlainMtu = 0
    guard: bool = False


def parse(request: Request) -> StampConfig:
    return load(StampConfig, request.conf)
