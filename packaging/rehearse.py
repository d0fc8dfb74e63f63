"""Record what the program compiles while it imports: `rehearse.py FILE MODULE...`, run by suite.spec.

dataclasses and namedtuple write source text and compile it, for every class and at every start: a fifth of
what importing pydantic costs, and our steps are dataclasses too. What they compile depends on nothing but
the classes, so it is compiled here once. importer.py looks texts up in the table and compiles what is not
in it, as ever.
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


# A module looks for exec and eval among its own globals before it asks builtins.
dataclasses.exec = record("exec")  # type: ignore[attr-defined]
collections.eval = record("eval")  # type: ignore[attr-defined]
target, *names = sys.argv[1:]
for name in names:
    importlib.import_module(name)
Path(target).write_bytes(marshal.dumps(table))
