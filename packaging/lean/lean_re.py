"""re for patterns that were compiled when the program was frozen; for all else it becomes the genuine one.

The genuine re imports enum and its own parser and compiler, and compiles each pattern at every start.
"""

import _sre
import sys

ASCII = A = 256
IGNORECASE = I = 2
LOCALE = L = 4
UNICODE = U = 32
MULTILINE = M = 8
DOTALL = S = 16
VERBOSE = X = 64

_table = None


def compile(pattern, flags=0):
    global _table
    if _table is None:
        _table = sys.meta_path[-1].patterns()
    known = _table.get((pattern, int(flags))) if type(pattern) in (str, bytes) else None
    return _sre.compile(*known) if known else _genuine().compile(pattern, flags)


def _genuine():
    return sys.meta_path[-1].genuine(__name__)


Pattern = type(_sre.compile("", UNICODE, [1], 0, {}, (None,)))
Match = type(_sre.compile("", UNICODE, [1], 0, {}, (None,)).match(""))


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return getattr(_genuine(), name)
