"""Names the build: freezing replaces the constant by a digest of its inputs, as in the executables."""

BUILD = "unfrozen"

_MARK = b"@build-id:"  # in packaging/handoff.c, which is part of every executable
_DIGITS, _HEXADECIMAL = 16, frozenset(b"0123456789abcdef")
_MARK_WITHIN = 1 << 20  # bytes from the start of a program


def build_of(program: str) -> str:
    """Return the build id that freezing wrote into a program; an empty text for any other file.

    :raises OSError: when the file cannot be read.
    """
    with open(program, "rb") as file:
        _, _, found = file.read(_MARK_WITHIN).partition(_MARK)
    digits = found[:_DIGITS]
    return digits.decode() if len(digits) == _DIGITS and set(digits) <= _HEXADECIMAL else ""
