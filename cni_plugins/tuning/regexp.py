r"""Matches Go's regular expressions (RE2) in time that is linear in pattern and text.

Python's `re` reads some of them differently ($, \d, [[:alpha:]], {,2}), does not know others (\z, \Q, flags
in the middle), accepts some that Go refuses, and takes exponential time for (a+)+. So this is RE2's method: a
program of a few instructions, and the set of all places in it at which the text can have arrived.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from cni_plugins.tuning.regexp_syntax import BadPattern, Parser
from cni_plugins.tuning.regexp_tree import Assertion, Chars, Choice, Node, Repeat, Sequence

_LARGEST_PROGRAM = 10_000  # instructions

__all__ = ["BadPattern", "Pattern", "compiled"]


class _Split(NamedTuple):
    """Go on at each of these places."""

    places: tuple[int, ...]


_Instruction = Chars | Assertion | _Split


class Pattern:
    """A compiled expression; the place behind the last instruction is where the text matches."""

    def __init__(self, program: list[_Instruction]) -> None:
        self._program = program
        self._begins_with_text = program[:1] == [Assertion("begin")]

    def is_in(self, text: str) -> bool:
        """Say whether any part of the text matches."""
        places: set[int] = {0}
        for at in range(len(text) + 1):
            reached = self._reached(places, text, at)
            if len(self._program) in reached:
                return True
            places = {place + 1 for place in reached if self._takes(place, text[at : at + 1])}
            if not self._begins_with_text:
                places.add(0)  # a match can begin anywhere
            elif not places:
                break
        return False

    def _reached(self, places: Iterable[int], text: str, at: int) -> set[int]:
        """Return the places that can be reached without a character."""
        reached, waiting = set(), list(places)
        while waiting:
            place = waiting.pop()
            if place in reached:
                continue
            reached.add(place)
            instruction = self._instruction(place)
            if isinstance(instruction, _Split):
                waiting += instruction.places
            elif isinstance(instruction, Assertion) and instruction.holds(text, at):
                waiting.append(place + 1)
        return reached

    def _takes(self, place: int, char: str) -> bool:
        instruction = self._instruction(place)
        return bool(char) and isinstance(instruction, Chars) and instruction.has(char)

    def _instruction(self, place: int) -> _Instruction | None:
        return self._program[place] if place < len(self._program) else None


def compiled(text: str) -> Pattern:
    """Return the pattern of an expression.

    :raises BadPattern: in Go's words, when it is not one.
    """
    program: list[_Instruction] = []
    _Compiler(program).add(Parser(text).whole())
    return Pattern(program)


class _Compiler:
    """Appends instructions; a place that is not known yet is filled in later."""

    def __init__(self, program: list[_Instruction]) -> None:
        self._program = program

    def add(self, node: Node) -> None:
        if len(self._program) > _LARGEST_PROGRAM:
            raise BadPattern("expression too large")
        match node:
            case Chars() | Assertion():
                self._program.append(node)
            case Sequence(parts):
                for part in parts:
                    self.add(part)
            case Choice(parts):
                self._add_choice(parts)
            case Repeat(part, least, most):
                self._add_repeat(part, least, most)

    def _add_choice(self, parts: tuple[Node, ...]) -> None:
        fill, ends = self._hold(), []
        starts = []
        for part in parts:
            starts.append(len(self._program))
            self.add(part)
            ends.append(self._hold())
        fill(*starts)
        for end in ends:
            end(len(self._program))

    def _add_repeat(self, part: Node, least: int, most: int | None) -> None:
        for _ in range(least):
            self.add(part)
        if most is None:
            start = len(self._program)
            fill = self._hold()
            self.add(part)
            self._hold()(start)
            fill(start + 1, len(self._program))
            return
        fills = []
        for _ in range(most - least):
            fills.append((self._hold(), len(self._program)))
            self.add(part)
        for fill, start in fills:
            fill(start, len(self._program))

    def _hold(self) -> Callable[..., None]:
        """Append an instruction, and return the function that says where it leads."""
        place = len(self._program)
        self._program.append(_Split(()))

        def fill(*places: int) -> None:
            self._program[place] = _Split(places)

        return fill
