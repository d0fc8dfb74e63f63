"""Records what modules compile during import: `rehearse.py CODE PATTERNS MODULE...`, run by suite.spec.

dataclasses and namedtuple generate source text and compile it, for every class and at every start: a fifth of
the time to import pydantic, and our steps are dataclasses too. The text depends only on the classes, so it is
compiled here once. importer.py looks each text up in the table, and compiles it as usual if it is missing.

The regular expressions that modules compile are recorded likewise, for lean_re.
"""

import _sre
import builtins
import collections
import dataclasses
import importlib
import marshal
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType
from typing import Any

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
found: list[re.Pattern[Any]] = []


def compile_and_keep(pattern: Any, flags: int = 0) -> re.Pattern[Any]:  # noqa: ANN401 - text, bytes or compiled
    found.append(genuine_compile(pattern, flags))
    return found[-1]


genuine_compile, re.compile = re.compile, compile_and_keep  # type: ignore[assignment]
target, patterns, *names = sys.argv[1:]
for name in names:
    importlib.import_module(name)
Path(target).write_bytes(marshal.dumps(table))


def arguments(pattern: re.Pattern[Any]) -> tuple[object, ...]:
    """What the compiler of regular expressions hands to the engine."""
    compiler = re._compiler  # type: ignore[attr-defined] # noqa: SLF001
    genuine = vars(compiler)["_sre"]
    vars(compiler)["_sre"] = Recorder()
    try:
        text, flags, code, *others = compiler.compile(pattern.pattern, flags_of(pattern))
    finally:
        vars(compiler)["_sre"] = genuine
    return text, int(flags), list(map(int, code)), *others


def flags_of(pattern: re.Pattern[Any]) -> int:
    """The flags as they were given: UNICODE is what the compiler sets by itself."""
    return int(pattern.flags & ~re.UNICODE)


class Recorder:
    """The engine of re, except that it returns the arguments of its `compile`."""

    def __getattr__(self, name: str) -> object:
        return getattr(_sre, name)

    def compile(self, *arguments: object) -> tuple[object, ...]:
        return arguments


# Those of modules that are imported by now, as this one has imported them.
found += [
    value
    for module in list(sys.modules.values())
    for value in vars(module).values()
    if isinstance(value, re.Pattern)
]
Path(patterns).write_bytes(marshal.dumps({(item.pattern, flags_of(item)): arguments(item) for item in found}))
