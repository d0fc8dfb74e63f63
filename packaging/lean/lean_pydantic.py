"""What our config models use of pydantic, for a process that answers one call.

To import pydantic and have it build the models of one call takes longer than all the rest of that call. Here
the annotations of a model become plain functions, when it is first used. They take what pydantic would take,
and refuse nothing: at the first thing that they do not like or do not know they raise `Unsure`, and the call
starts over with the genuine pydantic, which decides and words every error (cni_plugins/engine/run.py). So
this file can only be too strict, which costs time and nothing else. A test compares the two.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from cni_plugins.errors import Unsure

ABSENT: Any = object()
_LISTS = (0, 1 << 62)  # any length
_BAR = type(int | str)
_SCALARS = (str, int, bool)  # and their like are matched exactly, as pydantic's strict mode does

Check = Callable[[Any], Any]


class ValidationError(ValueError):
    """Never raised here, but caught."""


class PlainValidator:
    """In an annotation: this function instead of the type."""

    def __init__(self, func: Check) -> None:
        self.func = func


class BeforeValidator:
    """In an annotation: this function before the type."""

    def __init__(self, func: Check) -> None:
        self.func = func


class _Field:
    def __init__(
        self,
        default: Any = ABSENT,
        *,
        default_factory: Any = None,
        alias: str | None = None,
        ge: int | None = None,
        le: int | None = None,
        min_length: int = _LISTS[0],
        max_length: int = _LISTS[1],
        **others: Any,
    ) -> None:
        self.default, self.default_factory, self.alias = default, default_factory, alias
        self.least, self.most, self.lengths = ge, le, (min_length, max_length)
        self.is_known = not others


def Field(*args: Any, **keys: Any) -> Any:
    return _Field(*args, **keys)


def ConfigDict(**keys: Any) -> Any:
    return keys


def model_validator(*, mode: str) -> Any:
    def mark(function: Any) -> Any:
        getattr(function, "__func__", function).validates = mode
        return function

    return mark


def _checker(kind: Any) -> Check:
    """Return the function that takes a value of this annotation, or raises.

    :raises Unsure: for an annotation that is not known here.
    """
    if kind in _SCALARS:
        return _exactly(kind)
    if kind is Any:
        return _anything
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind.taken
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _annotated(*args)
    if origin in (Union, _BAR) and len(args) == 2 and args[1] in (None, type(None)):
        return _optional(_checker(args[0]))
    if origin is Literal and all(type(arg) is str for arg in args):
        return _one_of(args)
    if origin is list:
        return _each(_checker(args[0]))
    if origin is dict and args[0] is str and args[1] is Any:
        return _exactly(dict)
    raise Unsure(f"annotation {kind}")


def _annotated(kind: Any, *metadata: Any) -> Check:
    """The functions of what an annotation lists, of which each surrounds those before it."""
    plain = max((n for n, item in enumerate(metadata) if type(item) is PlainValidator), default=-1)
    check = metadata[plain].func if plain >= 0 else _checker(kind)
    for item in metadata[plain + 1 :]:
        if type(item) is BeforeValidator:
            check = _after(item.func, check)
        elif type(item) is _Field:
            check = _limited(item, check)
        else:
            raise Unsure(f"{item} in an annotation")
    return check


def _exactly(kind: type) -> Check:
    def check(value: Any) -> Any:
        if type(value) is not kind:
            raise Unsure(value)
        return value

    return check


def _anything(value: Any) -> Any:
    return value


def _optional(inner: Check) -> Check:
    return lambda value: None if value is None else inner(value)


def _one_of(texts: tuple[str, ...]) -> Check:
    def check(value: Any) -> Any:
        if type(value) is not str or value not in texts:
            raise Unsure(value)
        return value

    return check


def _each(inner: Check) -> Check:
    def check(value: Any) -> Any:
        if type(value) is not list:
            raise Unsure(value)
        return [inner(item) for item in value]

    return check


def _after(first: Check, then: Check) -> Check:
    return lambda value: then(first(value))


def _limited(field: _Field, inner: Check) -> Check:
    if not field.is_known:
        raise Unsure("a constraint")
    least, most, (shortest, longest) = field.least, field.most, field.lengths
    if least is None and most is None and field.lengths == _LISTS:
        return inner

    def check(value: Any) -> Any:
        value = inner(value)
        if (least is not None and value < least) or (most is not None and value > most):
            raise Unsure(value)
        if field.lengths != _LISTS and not shortest <= len(value) <= longest:
            raise Unsure(value)
        return value

    return check


class BaseModel:
    """A model: `model_fields` by name; `checks`, made at first use, has each key with its function."""

    model_config: Any = {}
    model_fields: Any = {}
    checks: Any = None
    validators: Any = ((), ())  # names of methods: before the fields, and after them

    def __init_subclass__(cls) -> None:
        # As for pydantic, the fields of all bases in reverse order of resolution, then our own.
        fields: dict[str, _Field] = {}
        before: dict[str, None] = {}
        after: dict[str, None] = {}
        for base in reversed(cls.__mro__[1:]):
            if issubclass(base, BaseModel):
                fields |= base.model_fields
                before |= dict.fromkeys(base.validators[0])
                after |= dict.fromkeys(base.validators[1])
        to_alias = cls.model_config.get("alias_generator", _anything)
        for name in cls.__annotations__:
            given = cls.__dict__.get(name, ABSENT)
            field = given if type(given) is _Field else _Field(given)
            field.alias = field.alias or to_alias(name)
            fields[name] = field
            if given is not ABSENT:
                delattr(cls, name)
        for name, item in cls.__dict__.items():
            mode = getattr(getattr(item, "__func__", item), "validates", "")
            if mode:
                (before if mode == "before" else after)[name] = None
        cls.model_fields, cls.validators, cls.checks = fields, (tuple(before), tuple(after)), None

    def __init__(self, **values: Any) -> None:
        self.__dict__.update(type(self).model_validate(values).__dict__)

    @classmethod
    def model_validate(cls, value: Any) -> Any:
        """:raises Unsure: for whatever pydantic would refuse, or may."""
        try:
            return cls.taken(value)
        except (ValueError, AssertionError) as err:  # what validators raise
            raise Unsure(str(err)) from err

    @classmethod
    def taken(cls, value: Any) -> Any:
        if isinstance(value, cls):
            return value
        for name in cls.validators[0]:
            value = getattr(cls, name)(value)
        if type(value) is not dict:
            raise Unsure(value)
        found: dict[str, Any] = {}
        given = set()
        for name, alias, check, field in cls.checks or cls._prepared():
            item = value.get(alias, ABSENT)
            if item is not ABSENT:
                found[name] = check(item)
                given.add(name)
            elif field.default_factory:
                found[name] = field.default_factory()
            elif field.default is ABSENT:
                raise Unsure(f"{alias} is missing")
            else:
                found[name] = field.default[:] if type(field.default) is list else field.default
        model = cls._made(found, given)
        for name in cls.validators[1]:
            model = getattr(model, name)()
        return model

    @classmethod
    def _prepared(cls) -> Any:
        kinds: dict[str, Any] = {}
        for base in reversed(cls.__mro__):
            kinds |= getattr(base, "__annotations__", {})
        fields = cls.model_fields.items()
        cls.checks = [
            (name, field.alias, _limited(field, _checker(kinds[name])), field) for name, field in fields
        ]
        return cls.checks

    @classmethod
    def _made(cls, values: dict[str, Any], given: set[str]) -> Any:
        model = cls.__new__(cls)
        model.__dict__.update(values, model_fields_set=given)
        return model

    @classmethod
    def model_construct(cls, **values: Any) -> Any:
        whole = {
            name: field.default_factory() if field.default_factory else field.default
            for name, field in cls.model_fields.items()
            if name not in values and (field.default_factory or field.default is not ABSENT)
        }
        return cls._made({**whole, **values}, set(values))

    def model_copy(self, *, update: dict[str, Any]) -> Any:
        given = self.__dict__["model_fields_set"]
        return self._made({**self.__dict__, **update}, given | update.keys())

    def __getattr__(self, name: str) -> Any:
        """:raises Unsure: for what pydantic's models can do beside this."""
        if name.startswith("model_"):
            raise Unsure(name)
        raise AttributeError(f"{type(self).__name__} has no attribute {name}")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self._values() == other._values()  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        return hash(tuple(self._values().values()))

    def _values(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in self.model_fields}
