"""Validates the tuning plugin's config and merges its sources: every key of the reference, and one more."""

from typing import Annotated, NamedTuple

from pydantic import PlainValidator

from cni_plugins.contract.config_fields import ArgsSection, Mac, MacHolder, mac_in_effect
from cni_plugins.contract.model import ConfigModel, load
from cni_plugins.protocol.fields import shown
from cni_plugins.protocol.request import Request
from cni_plugins.steps.tuning import Key
from cni_plugins.tuning.data_dir import possible, validated
from cni_plugins.tuning.keys import resolve

_SMALLEST_MTU, _LARGEST_MTU = 68, 0x7FFFFFFF  # RFC 791; a signed number of 32 bits, as that of lo can be
_LONGEST_QUEUE = 0xFFFFFFFF


def _sysctls(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, got {shown(value)}")  # noqa: TRY004 (pydantic collects ValueErrors)
    given = {key: item for key, item in value.items() if item is not None}
    for key, item in given.items():
        if not isinstance(item, str):
            raise ValueError(f"{shown(key)}: expected a string, got {shown(item)}")  # noqa: TRY004 (as above)
        if "\0" in item:
            raise ValueError(f"{shown(key)}: {shown(item)} has a NUL character")
    return given


def _mtu(value: object) -> object:
    if type(value) is int and (value == 0 or _SMALLEST_MTU <= value <= _LARGEST_MTU):
        return value
    raise ValueError(f"invalid MTU {shown(value)} (must be 0, or {_SMALLEST_MTU} to {_LARGEST_MTU})")


def _queue_length(value: object) -> object:
    if type(value) is int and 0 <= value <= _LONGEST_QUEUE:
        return value
    raise ValueError(f"invalid queue length {shown(value)} (must be 0 to {_LONGEST_QUEUE})")


Sysctls = Annotated[dict[str, str], PlainValidator(_sysctls)]
AnyMtu = Annotated[int, PlainValidator(_mtu)]
QueueLength = Annotated[int, PlainValidator(_queue_length)]
DataDir = Annotated[str, PlainValidator(validated)]


class Settings(ConfigModel):
    """The keys that a network config and `args.cni` have in common."""

    sysctl: Sysctls | None = None
    mac: Mac | None = None
    promisc: bool | None = None
    mtu: AnyMtu | None = None
    allmulti: bool | None = None
    tx_q_len: QueueLength | None = None


class SettingsInArgs(ConfigModel):
    """The `args` section, in which a runtime passes on settings from its user."""

    cni: Settings = Settings()


class TuningConfig(Settings):
    """The network config."""

    data_dir: DataDir = ""
    mtu_both_ends: bool = False
    runtime_config: MacHolder = MacHolder()
    args: SettingsInArgs = SettingsInArgs()


class Tuning(NamedTuple):
    """What is to be set, whichever source says so.

    :param names: the sysctls as the sources spell them.
    """

    sysctls: tuple[tuple[Key, str], ...] = ()
    names: tuple[str, ...] = ()
    mac: str = ""
    promisc: bool = False
    mtu: int = 0
    mtu_both_ends: bool = False
    allmulti: bool | None = None
    tx_queue_len: int | None = None
    data_dir: str = ""


def parse(request: Request) -> Tuning:
    """Return what is to be set; `args.cni` comes before runtimeConfig, CNI_ARGS, and the config's own keys.

    :raises InvalidNetworkConfig: naming every fault.
    """
    config = load(TuningConfig, request.conf)
    extra = config.args.cni
    if config.sysctl or extra.sysctl:
        from cni_plugins.tuning.duplicates import refuse_duplicates

        refuse_duplicates(request.stdin or b"{}")
    own, theirs = config.sysctl or {}, extra.sysctl or {}
    mac = mac_in_effect(request, config.runtime_config, ArgsSection(), config.mac or "")
    return Tuning(
        sysctls=tuple((resolve(own, request.ifname) | resolve(theirs, request.ifname)).items()),
        names=tuple(own | theirs),
        mac=mac if extra.mac is None else extra.mac,
        promisc=bool(config.promisc if extra.promisc is None else extra.promisc),
        mtu=(config.mtu if extra.mtu is None else extra.mtu) or 0,
        mtu_both_ends=config.mtu_both_ends,
        allmulti=config.allmulti if extra.allmulti is None else extra.allmulti,
        tx_queue_len=config.tx_q_len if extra.tx_q_len is None else extra.tx_q_len,
        data_dir=possible(request.conf)[0],
    )
