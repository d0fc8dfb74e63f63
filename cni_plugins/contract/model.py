"""The base of every config model: JSON as the reference reads it, one error that names every fault.

Keys match in any case, null means absent, unknown keys are somebody else's. Types are strict: a string is no
number, as in the reference.
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

_MOST_SHOWN = 100  # faults of one config

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
    """Make a default. pydantic reads the signature of a factory; that of list is text to be parsed: 4 ms."""
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
                cls._pass_over(key)
            elif item is not None:
                folded[alias] = item
        return folded

    @classmethod
    def _pass_over(cls, key: str) -> None:
        """Meet a key that is none of the model's."""


class ClosedModel(ConfigModel):
    """A model of an object that is ours alone, where an unknown key is a mistake."""

    @classmethod
    def _pass_over(cls, key: str) -> None:
        known = ", ".join(sorted(_spelling(cls).values()))
        raise ValueError(f"unknown key {shown(key)} (known are {known})")


@cache
def _spelling(model: type[ConfigModel]) -> dict[str, str]:
    """Return the keys of a model by their lower case."""
    return {field.alias.lower(): field.alias for field in model.model_fields.values() if field.alias}


Model = TypeVar("Model", bound=ConfigModel)


def load(
    model: type[Model], conf: Mapping[str, Any], what: str = "network config", at: tuple[str, ...] = ()
) -> Model:
    """Validate a whole config, or the part of one that stands under the keys `at`.

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
    """Validate a config for an IPAM plugin, whose `ipam` section must be there.

    :raises InvalidNetworkConfig: as `load`.
    """
    section = get(conf, "ipam")
    if not isinstance(section, dict):
        raise InvalidNetworkConfig("IPAM config missing 'ipam' key", f"ipam is {shown(section)}")
    return load(model, conf)


def _fault(path: tuple[int | str, ...], message: str, value: object) -> str:
    """Return `path: message, got value`, where the message does not name the value already."""
    message = message.removeprefix("Value error, ")
    if message.startswith(("Input ", "Field ")):  # pydantic's own sentences; ours may begin with a name
        message = message[0].lower() + message[1:]
    if " or instance of " in message:
        message = "expected an object"
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
    text = shown(value)
    whole = (isinstance(value, dict) and not path) or message.startswith("cannot ")
    said = message if whole or text in message else f"{message}, got {text}"
    return f"{where}: {said}" if where else said
