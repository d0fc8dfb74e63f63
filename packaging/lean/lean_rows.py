"""What all NamedTuples of our own modules have in common; rewrite.py writes the rest of each class out.

collections.namedtuple() composes source text and evaluates it, for each of seventy classes.
"""

from _collections import _tuplegetter as column  # noqa: F401 - for the classes

new = tuple.__new__


class Row(tuple):
    __slots__ = ()
    _fields = ()
    _field_defaults = {}

    def __class_getitem__(cls, _kind):
        return cls

    @classmethod
    def _make(cls, values):
        row = new(cls, values)
        if len(row) != len(cls._fields):
            raise TypeError(f"Expected {len(cls._fields)} arguments, got {len(row)}")
        return row

    def _replace(self, **changes):
        row = self._make(map(changes.pop, self._fields, self))
        if changes:
            raise ValueError(f"Got unexpected field names: {list(changes)!r}")
        return row

    def _asdict(self):
        return dict(zip(self._fields, self, strict=True))

    def __repr__(self):
        fields = (f"{name}={value!r}" for name, value in zip(self._fields, self, strict=True))
        return f"{type(self).__name__}({', '.join(fields)})"

    def __getnewargs__(self):
        return tuple(self)
