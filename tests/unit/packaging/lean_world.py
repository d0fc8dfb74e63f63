"""The suite a second time, as it is in the frozen plugins: our modules rewritten, on a lean pydantic."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

REPOSITORY = Path(__file__).parents[3]
PACKAGING = REPOSITORY / "packaging"
LEAN = {
    "pydantic": "lean_pydantic",
    "pydantic.alias_generators": "lean_alias_generators",
    "lean_rows": "lean_rows",
    "lean_typing": "lean_typing",
}


def _rewritten(text: str) -> Any:
    sys.path.insert(0, str(PACKAGING))
    try:
        return importlib.import_module("rewrite").rewritten(text)
    finally:
        sys.path.remove(str(PACKAGING))


class _Finder(MetaPathFinder, Loader):
    def find_spec(self, name: str, _path: object = None, _target: object = None) -> ModuleSpec | None:
        if name in LEAN:
            return ModuleSpec(
                name, self, origin=str(PACKAGING / "lean" / f"{LEAN[name]}.py"), is_package=name == "pydantic"
            )
        if name.split(".", maxsplit=1)[0] != "cni_plugins":
            return None
        place = REPOSITORY.joinpath(*name.split("."))
        is_package = place.is_dir()
        file = place / "__init__.py" if is_package else place.with_suffix(".py")
        return ModuleSpec(name, self, origin=str(file), is_package=is_package)

    def create_module(self, _spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        assert module.__spec__.origin is not None
        text = Path(module.__spec__.origin).read_text()
        exec(
            compile(_rewritten(text), module.__spec__.origin, "exec", dont_inherit=True, optimize=2),
            module.__dict__,
        )


class LeanWorld:
    def __init__(self) -> None:
        self._finder = _Finder()
        self._modules: dict[str, ModuleType] = {}

    @contextmanager
    def entered(self) -> Iterator[None]:
        """While inside, imports yield the lean modules."""

        def ours(name: str) -> bool:
            return name.split(".", maxsplit=1)[0] in ("cni_plugins", "pydantic", "lean_rows", "lean_typing")

        before = {name: module for name, module in sys.modules.items() if ours(name)}
        for name in before:
            del sys.modules[name]
        sys.modules.update(self._modules)
        sys.meta_path.insert(0, self._finder)
        try:
            yield
        finally:
            sys.meta_path.remove(self._finder)
            self._modules = {name: module for name, module in sys.modules.items() if ours(name)}
            for name in self._modules:
                del sys.modules[name]
            sys.modules.update(before)

    def get(self, module: str, name: str) -> Any:
        with self.entered():
            return getattr(importlib.import_module(module), name)


def plain(value: Any) -> Any:
    """A value without its classes, of which there are two: names and contents remain."""
    fields = getattr(type(value), "model_fields", None)
    if fields is not None:
        return (
            type(value).__name__,
            {name: plain(getattr(value, name)) for name in fields},
            sorted(value.model_fields_set),
        )
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value).__name__, {name: plain(getattr(value, name)) for name in value._fields}
    if isinstance(value, (list, tuple)):
        return type(value).__name__, [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return type(value).__name__, value
