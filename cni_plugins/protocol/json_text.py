"""Reads JSON from bytes that others wrote: stdin, files, the output of other plugins."""

import json
import re
from typing import Any, NoReturn

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def load(data: bytes) -> Any:  # noqa: ANN401 (JSON is anything)
    """Parse a JSON text in UTF-8; a byte order mark before it is skipped (RFC 8259, section 8.1).

    Other encodings are refused, not guessed. A lone surrogate becomes U+FFFD, as in Go, because it could not
    be written again. NaN, infinities and numbers that a double cannot hold are refused.

    :raises ValueError: when it is anything else; the message says what.
    """
    try:
        value = json.loads(
            data.removeprefix(BYTE_ORDER_MARK).decode(), parse_constant=_no_constant, parse_float=_finite
        )
        if b"\\u" in data:
            value = json.loads(_LONE_SURROGATE.sub("\ufffd", json.dumps(value, ensure_ascii=False)))
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value


def load_pairs(data: bytes) -> Any:  # noqa: ANN401 (as above)
    """Parse a JSON text that `load` accepts; objects are tuples of pairs, also of those with equal keys."""
    return json.loads(data.decode(), object_pairs_hook=tuple)


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"{text} is too large for a number")
    return number
