"""Defines what a regular expression consists of."""

from typing import NamedTuple

Ranges = tuple[tuple[int, int], ...]  # of code points, both ends included
_NEWLINE = "\n"


class CharGroup(NamedTuple):
    """Characters in these ranges, or all others."""

    ranges: Ranges
    inverted: bool = False


class Chars(NamedTuple):
    """One character of any of the groups, or of none if inverted.

    :param folded: upper and lower case are the same.
    """

    groups: tuple[CharGroup, ...]
    inverted: bool = False
    folded: bool = False

    def has(self, char: str) -> bool:
        lower, upper = char.lower(), char.upper()
        forms = {char, lower, upper, lower.upper(), upper.lower()} if self.folded else {char}
        codes = [ord(form) for form in forms if len(form) == 1]
        return self.inverted != any(_is_in(group, codes) for group in self.groups)


def _is_in(group: CharGroup, codes: list[int]) -> bool:
    return group.inverted != any(first <= code <= last for first, last in group.ranges for code in codes)


class Assertion(NamedTuple):
    r"""A place in the text: `^`, `$`, both also of lines with `(?m)`, `\b` and `\B`."""

    kind: str

    def holds(self, text: str, at: int) -> bool:
        match self.kind:
            case "begin":
                return at == 0
            case "end":
                return at == len(text)
            case "begin of line":
                return at == 0 or text[at - 1] == _NEWLINE
            case "end of line":
                return at == len(text) or text[at] == _NEWLINE
            case kind:
                is_border = _is_word(text[max(at - 1, 0) : at]) != _is_word(text[at : at + 1])
                return is_border == (kind == "border")


def _is_word(char: str) -> bool:
    return char.isascii() and (char.isalnum() or char == "_")


class Sequence(NamedTuple):
    """One part after the other; no parts match the empty text."""

    parts: "tuple[Node, ...]"


class Choice(NamedTuple):
    """Any of the parts."""

    parts: "tuple[Node, ...]"


class Repeat(NamedTuple):
    """A part several times; `most` is None without a limit."""

    part: "Node"
    least: int
    most: int | None


Node = Chars | Assertion | Sequence | Choice | Repeat
