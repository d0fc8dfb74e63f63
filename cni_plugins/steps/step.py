"""Defines the base of every step: a value that describes one change to the kernel, and how it is undone.

A step knows nothing of the kernel. `cni_plugins/kernel` has a function that carries each one out and one that
compares it with what is there.
"""

from operator import itemgetter
from typing import Any, ClassVar, Final, Literal, Self, dataclass_transform

Place = Literal["host", "sandbox"]
HOST: Final = "host"
SANDBOX: Final = "sandbox"

# Why repair leaves a step alone; see Step.not_repaired_because.
IN_SANDBOX: Final = "it is in the sandbox, so the container must be recreated"
OF_CONTAINER: Final = "a container gets its interface once, so it must be recreated"
PASSING: Final = "to wait for it or to announce it repairs nothing"
REMOVING: Final = "it removes something"

# What `carry_out` returns about the state before it, if that is not an old value.
ABSENT: Final = ""
UNCHANGED: Final = "\0unchanged"
# The kernel's answer was lost, so that it is not known whether the step was carried out.
UNHEARD: Final = "\0unheard"


@dataclass_transform(frozen_default=True)
class Step(tuple[Any, ...]):
    """An immutable record of the fields that a subclass annotates, in their order.

    Like a NamedTuple, but with a common base, and twelve times faster to define: each process defines some
    fifty of them at start-up.

    :cvar kept_because: why there is nothing to undo; empty for a step that has an `inverse`.
    :cvar may_be_half_done: a refused step may have left something, which its inverse finds by the owner
        alone.
    """

    __slots__ = ()
    _fields: ClassVar[tuple[str, ...]] = ()
    _defaults: ClassVar[dict[str, object]] = {}
    kept_because: ClassVar[str] = ""
    may_be_half_done: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        names = tuple(cls.__annotations__)
        cls._fields = names
        setattr(cls, "__match_args__", names)  # noqa: B010 (mypy takes a plain assignment for a mistake)
        cls._defaults = {name: cls.__dict__[name] for name in names if name in cls.__dict__}
        for index, name in enumerate(names):
            setattr(cls, name, property(itemgetter(index)))

    def __new__(cls, *values: object, **named: object) -> Self:
        """:raises TypeError: for a field that is missing, or given twice, or unknown."""
        given = dict(zip(cls._fields, values, strict=False)) | named
        if len(given) != len(values) + len(named):
            raise TypeError(f"{cls.__name__}: too many values, or one given twice")
        whole = cls._defaults | given
        if whole.keys() != set(cls._fields):
            raise TypeError(f"{cls.__name__}: takes {cls._fields}, got {tuple(whole)}")
        return tuple.__new__(cls, [whole[name] for name in cls._fields])

    def __eq__(self, other: object) -> bool:
        """Compare the kind of step as well as the fields."""
        return type(self) is type(other) and tuple.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash((type(self), tuple(self)))

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in zip(self._fields, self, strict=True))
        return f"{type(self).__name__}({fields})"

    def replace(self, **changes: object) -> Self:
        """Return a copy with some fields changed."""
        return type(self)(**dict(zip(self._fields, self, strict=True)) | changes)

    def inverse(self, before: str) -> "Step | None":
        """Return the step that undoes this one, or None where there is nothing to undo.

        :param before: what `carry_out` returned; never UNCHANGED, of which there is nothing to undo.
        """
        return None

    def inverse_unheard(self) -> "Step | None":
        """Return the step that undoes this one if it was carried out, and harms nobody if it was not."""
        return None

    @property
    def is_shared(self) -> bool:
        """Whether other attachments may rely on what the step made, once they exist too."""
        return False

    @property
    def not_repaired_because(self) -> str:
        """Why `cnictl repair` does not carry the step out for a container that runs; empty: it does.

        A step whose effect is in the host comes back without anyone noticing, one in the sandbox might undo
        what the container itself has done since. A step with a place has its answer here; any other must
        say.
        """
        where = getattr(self, "where", None)
        if where is None:
            raise NotImplementedError
        return IN_SANDBOX if where == SANDBOX else ""

    def phrase(self) -> str:
        """The step in words, for an error: an infinitive with its objects."""
        raise NotImplementedError


class Shared(Step):
    """A step whose effect other attachments may rely on, once they exist too."""

    __slots__ = ()

    @property
    def is_shared(self) -> bool:
        return True

    @property
    def not_repaired_because(self) -> str:
        return ""


class Removal(Step):
    """A step that only removes something; it succeeds when that is absent already.

    :cvar ends_use: whether the attachment's addresses may still be in use if it fails.
    """

    __slots__ = ()
    ends_use = False
    kept_because = "only in plans that remove things, which are never undone"
    not_repaired_because = REMOVING


Plan = tuple[Step, ...]


def undo(step: Step, before: str) -> Step | None:
    """Return the step that undoes another, given what `carry_out` returned of it."""
    if before == UNHEARD:
        return step.inverse_unheard()
    return None if before == UNCHANGED else step.inverse(before)


def place(where: Place) -> str:
    """Return a place as the end of a phrase."""
    return f"in the {where}"
