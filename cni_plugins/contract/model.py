"""Defines the base of config models: reads JSON as the reference does, reports all faults in one error.

Keys are case-insensitive, null means absent, unknown keys are ignored. Types are strict as in the reference:
a string is not a number.
"""

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, PlainValidator, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from cni_plugins.errors import InvalidNetworkConfig
from cni_plugins.protocol.decode import parse_dns, parse_route
from cni_plugins.protocol.fields import IPAddress, IPInterface, get, parse_address, parse_cidr, shown
from cni_plugins.protocol.result import DNS, Route

_MOST_SHOWN = 100  # faults listed in one error

Address = Annotated[IPAddress, PlainValidator(parse_address)]
Cidr = Annotated[IPInterface, PlainValidator(parse_cidr)]
Gateway = Annotated[
    IPAddress | None, PlainValidator(lambda value: parse_address(value) if value != "" else None)
]


def _route(value: object) -> Route:
    return parse_route(value, "route")


def _dns(value: object) -> DNS:
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, got {shown(value)}")  # noqa: TRY004 (pydantic collects ValueErrors)
    return parse_dns(value, "")


RouteField = Annotated[Route, PlainValidator(_route)]
DnsField = Annotated[DNS, PlainValidator(_dns)]


def empty() -> list[Any]:
    """Return a default. For `list` as the factory, pydantic would parse its signature from text: 4 ms."""
    return []


class ConfigModel(BaseModel):
    """A frozen model whose fields are camelCase in JSON."""

    model_config = ConfigDict(
        frozen=True, strict=True, extra="ignore", alias_generator=to_camel, arbitrary_types_allowed=True
    )

    @model_validator(mode="before")
    @classmethod
    def _fold_keys(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        spelling = _spelling(cls)
        folded = {}
        for key, item in value.items():
            alias = spelling.get(key.lower())
            if alias is None:
                cls._unknown_key(key)
            elif item is not None:
                folded[alias] = item
        return folded

    @classmethod
    def _unknown_key(cls, key: str) -> None:
        """Handle an unknown key."""


class ClosedModel(ConfigModel):
    """A model of an object without keys of other programs: an unknown key is an error."""

    @classmethod
    def _unknown_key(cls, key: str) -> None:
        known = ", ".join(sorted(_spelling(cls).values()))
        raise ValueError(f"unknown key {shown(key)} (known are {known})")


@cache
def _spelling(model: type[ConfigModel]) -> dict[str, str]:
    """Return the keys of a model, indexed by their lower-case form."""
    return {field.alias.lower(): field.alias for field in model.model_fields.values() if field.alias}


Model = TypeVar("Model", bound=ConfigModel)


def load(
    model: type[Model], conf: Mapping[str, Any], what: str = "network config", at: tuple[str, ...] = ()
) -> Model:
    """Validate a whole config, or the part of it under the keys `at`.

    :raises InvalidNetworkConfig: naming every fault with its path and value, not only the first.
    """
    try:
        return model.model_validate(conf)
    except ValidationError as err:
        faults = [
            _fault((*at, *item["loc"]), item["msg"], item["input"]) for item in err.errors(include_url=False)
        ]
        more = [f"and {len(faults) - _MOST_SHOWN} more"] if len(faults) > _MOST_SHOWN else []
        raise InvalidNetworkConfig(
            f"invalid {what}: {faults[0]}", "; ".join([*faults[:_MOST_SHOWN], *more])
        ) from err


def load_ipam(model: type[Model], conf: Mapping[str, Any]) -> Model:
    """Validate the config of an IPAM plugin, which must have an `ipam` section.

    :raises InvalidNetworkConfig: as `load`.
    """
    section = get(conf, "ipam")
    if not isinstance(section, dict):
        raise InvalidNetworkConfig("IPAM config missing 'ipam' key", f"ipam is {shown(section)}")
    return load(model, conf)


def _fault(path: tuple[int | str, ...], message: str, value: object) -> str:
    """Return `path: message, got value`; the value is left out if the message contains it."""
    message = message.removeprefix("Value error, ")
    if message.startswith(("Input ", "Field ")):  # pydantic's own sentences; ours may begin with a name
        message = message[0].lower() + message[1:]
    if " or instance of " in message:
        message = "expected an object"
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
    text = shown(value)
    whole = (isinstance(value, dict) and not path) or message.startswith("cannot ")
    sentence = message if whole or text in message else f"{message}, got {text}"
    return f"{where}: {sentence}" if where else sentence
