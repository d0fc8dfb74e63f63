"""Parses Go's regular expressions: package regexp/syntax with its Perl flags, and the words of its errors."""

from cni_plugins.tuning.regexp_tree import Assertion, CharGroup, Chars, Choice, Node, Ranges, Repeat, Sequence

_MOST_REPEATS = 1000
_DEEPEST = 50  # groups in groups
_LAST_CODE = 0x10FFFF
_DIGITS, _LOWER, _UPPER = ((48, 57),), ((97, 122),), ((65, 90),)
_WORD: Ranges = (*_DIGITS, *_UPPER, (95, 95), *_LOWER)
_PERL: dict[str, Ranges] = {"d": _DIGITS, "s": ((9, 10), (12, 13), (32, 32)), "w": _WORD}
_POSIX: dict[str, Ranges] = {
    "alnum": (*_DIGITS, *_UPPER, *_LOWER),
    "alpha": (*_UPPER, *_LOWER),
    "ascii": ((0, 127),),
    "blank": ((9, 9), (32, 32)),
    "cntrl": ((0, 31), (127, 127)),
    "digit": _DIGITS,
    "graph": ((33, 126),),
    "lower": _LOWER,
    "print": ((32, 126),),
    "punct": ((33, 47), (58, 64), (91, 96), (123, 126)),
    "space": ((9, 13), (32, 32)),
    "upper": _UPPER,
    "word": _WORD,
    "xdigit": (*_DIGITS, (65, 70), (97, 102)),
}
_CONTROLS = {"a": 7, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11}
_OCTAL, _HEX = frozenset("01234567"), frozenset("0123456789abcdefABCDEF")
_NOT_NEWLINE = Chars((CharGroup(((10, 10),)),), inverted=True)
_ANY = Chars((), inverted=True)


class BadPattern(ValueError):
    """A text that is no regular expression of Go."""


class Parser:
    """Parses one expression by recursive descent."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._flags: frozenset[str] = frozenset()
        self._depth = 0

    def whole(self) -> Node:
        """:raises BadPattern: when the text is not an expression."""
        node = self._choice()
        if self._at < len(self._text):
            raise BadPattern(f"unexpected ): `{self._text}`")
        return node

    # ------------------------------------------------------------------------------------------ reading

    def _next(self) -> str:
        return self._text[self._at : self._at + 1]

    def _take(self, expected: str) -> bool:
        """Skip a text if it comes next."""
        found = self._text.startswith(expected, self._at)
        self._at += len(expected) if found else 0
        return found

    def _take_while(self, allowed: frozenset[str] | str, most: int = 1 << 30) -> str:
        start = self._at
        while self._next() and self._next() in allowed and self._at - start < most:
            self._at += 1
        return self._text[start : self._at]

    def _since(self, start: int) -> str:
        return self._text[start : self._at]

    # --------------------------------------------------------------------------------- above characters

    def _choice(self) -> Node:
        parts = [self._sequence()]
        while self._take("|"):
            parts.append(self._sequence())
        return parts[0] if len(parts) == 1 else Choice(tuple(parts))

    def _sequence(self) -> Node:
        parts: list[Node] = []
        while self._next() not in ("", "|", ")"):
            start = self._at
            if self._take(r"\Q"):
                parts += self._quoted()
            elif (atom := self._atom()) is not None:
                parts.append(atom)
            self._repeat(parts, start)
        return Sequence(tuple(parts))

    def _quoted(self) -> list[Node]:
        end = self._text.find(r"\E", self._at)
        literal = self._text[self._at :] if end < 0 else self._text[self._at : end]
        self._at = len(self._text) if end < 0 else end + 2
        return [self._literal(ord(char)) for char in literal]

    def _repeat(self, parts: list[Node], start: int) -> None:
        """Replace the last part by its repetition, if an operator follows."""
        first = self._at
        limits = self._limits()
        if limits is None:
            return
        self._take("?")  # as few as possible, which changes only what is matched
        again = self._at
        if self._limits() is not None:
            raise BadPattern(f"invalid nested repetition operator: `{self._since(first)}`")
        self._at = again
        if not parts:
            raise BadPattern(f"missing argument to repetition operator: `{self._since(start)}`")
        parts[-1] = Repeat(parts[-1], *limits)

    def _limits(self) -> tuple[int, int | None] | None:
        """Skip an operator of repetition, and return how often; None if there is none."""
        for operator, limits in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self._take(operator):
                return limits
        start = self._at
        counted = self._counted() if self._take("{") else None
        if counted is None:
            self._at = start
            return None
        least, most = counted
        if least > _MOST_REPEATS or (most is not None and not least <= most <= _MOST_REPEATS):
            raise BadPattern(f"invalid repeat count: `{self._since(start)}`")
        return least, most

    def _counted(self) -> tuple[int, int | None] | None:
        """Read `n}`, `n,}` or `n,m}`; anything else is not an operator."""
        least = self._number()
        if least is None:
            return None
        most: int | None = least
        if self._take(",") and not self._text.startswith("}", self._at):
            most = self._number()
            if most is None:
                return None
        elif self._text[self._at - 1] == ",":
            most = None
        return (least, most) if self._take("}") else None

    def _number(self) -> int | None:
        digits = self._take_while("0123456789")
        is_plain = digits and (len(digits) == 1 or not digits.startswith("0"))
        return int(digits[:9]) if is_plain else None

    # -------------------------------------------------------------------------------------------- atoms

    def _atom(self) -> Node | None:
        """Parse what an operator would repeat; None for flags, which match nothing."""
        start = self._at
        if self._limits() is not None:
            raise BadPattern(f"missing argument to repetition operator: `{self._since(start)}`")
        parsers = {"(": self._group, "[": self._class, "\\": self._escape}
        return parsers.get(self._next(), self._single)()

    def _single(self) -> Node:
        char = self._next()
        self._at += 1
        if char == ".":
            return _ANY if "s" in self._flags else _NOT_NEWLINE
        if char in "^$":
            side = "begin" if char == "^" else "end"
            return Assertion(f"{side} of line" if "m" in self._flags else side)
        return self._literal(ord(char))

    def _literal(self, code: int) -> Chars:
        if "i" in self._flags:  # of three equal characters, such as the Kelvin sign, the usual one
            usual = chr(code).upper().lower()
            code = ord(usual) if len(usual) == 1 else code
        return self._chars(CharGroup(((code, code),)))

    def _chars(self, *groups: CharGroup, inverted: bool = False) -> Chars:
        return Chars(groups, inverted, "i" in self._flags)

    def _group(self) -> Node | None:
        start, flags = self._at, self._flags
        self._at += 1
        if self._take("?") and not self._named(start):
            self._flags = self._changed_flags(start)
            if self._take(")"):
                return None  # the flags hold until the end of the group around
            self._at += 1  # the colon
        self._depth += 1
        if self._depth > _DEEPEST:
            raise BadPattern(f"expression nests too deeply: `{self._text}`")
        node = self._choice()
        self._depth -= 1
        if not self._take(")"):
            raise BadPattern(f"missing closing ): `{self._text}`")
        self._flags = flags
        return node

    def _named(self, start: int) -> bool:
        """Skip `P<name>` or `<name>`."""
        if not (self._take("P<") or self._take("<")):
            return False
        begin = self._at
        end = self._text.find(">", begin)
        name = self._text[begin:end] if end >= 0 else ""
        is_name = name.isascii() and name.replace("_", "a").isalnum()
        self._at = end + 1 if end >= 0 else len(self._text)
        if not is_name:
            raise BadPattern(f"invalid named capture: `{self._since(start)}`")
        return True

    def _changed_flags(self, start: int) -> frozenset[str]:
        """Skip flags up to the colon or parenthesis after them."""
        added = self._take_while("imsU")
        removed = self._take_while("imsU") if (has_minus := self._take("-")) else ""
        if self._next() not in (":", ")") or (has_minus and not removed):
            self._at += 1
            raise BadPattern(f"invalid or unsupported Perl syntax: `{self._since(start)}`")
        return (self._flags | set(added)) - set(removed)

    # ------------------------------------------------------------------------------- escapes and classes

    def _escape(self) -> Node:
        for letter, kind in (("A", "begin"), ("z", "end"), ("b", "border"), ("B", "no border")):
            if self._take(f"\\{letter}"):
                return Assertion(kind)
        group = self._perl_group()
        return self._chars(group) if group else self._literal(self._code())

    def _perl_group(self) -> CharGroup | None:
        r"""Skip \d, \s, \w or the opposite."""
        letter = self._text[self._at + 1 : self._at + 2]
        if self._next() != "\\" or letter.lower() not in _PERL:
            return None
        self._at += 2
        return CharGroup(_PERL[letter.lower()], letter.isupper())

    def _code(self) -> int:
        """Skip one character, which may be escaped, and return its number."""
        start = self._at
        if not self._take("\\"):
            self._at += 1
            return ord(self._text[start])
        char = self._next()
        self._at += 1
        if not char:
            raise BadPattern("trailing backslash at end of expression: ``")
        if char == "0" or (char in _OCTAL and self._next() in _OCTAL):  # otherwise it is a back-reference
            return int(char + self._take_while(_OCTAL, 2), 8)
        code = self._hexadecimal() if char == "x" else _CONTROLS.get(char)
        if code is None and char.isascii() and not char.isalnum():
            code = ord(char)
        if code is None:
            what = "classes of Unicode are not supported" if char in "pP" else "invalid escape sequence"
            raise BadPattern(f"{what}: `{self._since(start)}`")
        return code

    def _hexadecimal(self) -> int | None:
        is_long = self._take("{")
        digits = self._take_while(_HEX, 8 if is_long else 2)
        is_complete = self._take("}") if is_long else len(digits) == 2  # noqa: PLR2004 (digits)
        if not digits or not is_complete or int(digits, 16) > _LAST_CODE:
            return None
        return int(digits, 16)

    def _class(self) -> Node:
        start = self._at
        self._at += 1
        inverted = self._take("^")
        groups: list[CharGroup] = []
        while not groups or self._next() != "]":
            if not self._next():
                raise BadPattern(f"missing closing ]: `{self._text[start:]}`")
            groups.append(self._posix_group() or self._perl_group() or self._range(start))
        self._at += 1
        return self._chars(*groups, inverted=inverted)

    def _posix_group(self) -> CharGroup | None:
        """Skip `[:name:]` or `[:^name:]`."""
        end = self._text.find(":]", self._at + 2)
        if not self._text.startswith("[:", self._at) or end < 0:
            return None
        start, name = self._at, self._text[self._at + 2 : end]
        self._at = end + 2
        ranges = _POSIX.get(name.removeprefix("^"))
        if ranges is None:
            raise BadPattern(f"invalid character class range: `{self._since(start)}`")
        return CharGroup(ranges, name.startswith("^"))

    def _range(self, start: int) -> CharGroup:
        """Skip a character or two with a dash between; a dash at the end is one itself."""
        begin = self._at
        first = last = self._code()
        if self._next() == "-" and self._text[self._at + 1 : self._at + 2] not in ("", "]"):
            self._at += 1
            last = self._code()
        elif self._text[self._at :] == "-":
            raise BadPattern(f"missing closing ]: `{self._text[start:]}`")
        if last < first:
            raise BadPattern(f"invalid character class range: `{self._since(begin)}`")
        return CharGroup(((first, last),))
