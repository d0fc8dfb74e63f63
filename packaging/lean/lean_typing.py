"""What our own modules use of typing while they run, in place of the genuine one: see rewrite.py.

Most of what typing's classes cost at start is for type checkers, which are not there. Nothing is checked
here. Of an annotation only what it consists of is remembered, for lean_pydantic.
"""

TYPE_CHECKING = False


class _Form:
    """`Literal`, `Any` and their like, and one of them with arguments. As a base of a class it is none."""

    def __init__(self, origin, args=()):
        self.__origin__, self.__args__ = origin, args

    def __getitem__(self, args):
        return _Form(self, args if type(args) is tuple else (args,))

    def __or__(self, other):
        return _Form(Union, (self, other))

    def __ror__(self, other):
        return _Form(Union, (other, self))

    def __call__(self, *_args, **_keys):
        return self

    def __mro_entries__(self, _bases):
        return ()


Annotated = _Form("Annotated")
Any = _Form("Any")
BinaryIO = _Form("BinaryIO")
ClassVar = _Form("ClassVar")
Final = _Form("Final")
Generic = Protocol = _Form("Generic")
Literal = _Form("Literal")
NamedTuple = None  # each class of it is written out by rewrite.py
NoReturn = _Form("NoReturn")
Self = _Form("Self")
Union = _Form("Union")

_BAR, _ALIAS = type(int | str), type(list[int])


def is_form(value):
    return type(value) in (_Form, _BAR, _ALIAS)


def genuine(kind):
    """Return an annotation as typing has it."""
    import typing

    if not is_form(kind):
        return kind
    if type(kind) is _Form and type(kind.__origin__) is str:
        return getattr(typing, kind.__origin__)
    args = tuple(map(genuine, kind.__args__))
    return typing.Union[args] if type(kind) is _BAR else genuine(kind.__origin__)[args]


def get_origin(kind):
    return Union if type(kind) is _BAR else getattr(kind, "__origin__", None)


def get_args(kind):
    return getattr(kind, "__args__", ())


def cast(_kind, value):
    return value


def TypeVar(_name, *_kinds, **_keys):
    return Any


def dataclass_transform(**_keys):
    return lambda marked: marked
