"""Records the code that modules compile during import: `rehearse.py FILE MODULE...`, run by suite.spec.

dataclasses and namedtuple generate source text and compile it, for every class and at every start: a fifth of
the time to import pydantic, and our steps are dataclasses too. The text depends only on the classes, so it is
compiled here once. importer.py looks each text up in the table, and compiles it as usual if it is missing.
"""

import builtins
import collections
import dataclasses
import importlib
import marshal
import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType

table: dict[tuple[str, str], CodeType] = {}


def record(mode: str) -> Callable[..., object]:
    genuine = getattr(builtins, mode)

    def recording(text: str, *spaces: dict[str, object]) -> object:
        code = table[mode, text] = compile(text, "<rehearsed>", mode, dont_inherit=True, optimize=2)
        result: object = genuine(code, *spaces)
        return result

    return recording


# A module's global names exec and eval take precedence over the builtins.
dataclasses.exec = record("exec")  # type: ignore[attr-defined]
collections.eval = record("eval")  # type: ignore[attr-defined]
target, *names = sys.argv[1:]
for name in names:
    importlib.import_module(name)
Path(target).write_bytes(marshal.dumps(table))
