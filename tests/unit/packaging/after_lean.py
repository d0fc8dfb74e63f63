"""
A process in which the suite began with lean modules and went on with the genuine ones, as a frozen one does.

Reads lines `[module, model, value]` as JSON and writes for each what the model made of it.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import marshal
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.unit.packaging.lean_world import LEAN, PACKAGING, REPOSITORY, plain

sys.path.insert(0, str(PACKAGING))
import importer
import rewrite


def archive() -> importer.Archive:
    """Write the archive that suite.spec would write, of our modules and of what is lean."""
    index: dict[str, Any] = {}
    blobs = b""

    def store(name: str, tree: Any, kind: str) -> None:
        nonlocal blobs
        blob = marshal.dumps(compile(tree, name, "exec", dont_inherit=True, optimize=2))
        index[name] = (kind, len(blobs), len(blob))
        blobs += blob

    for file in (REPOSITORY / "cni_plugins").rglob("*.py"):
        parts = file.relative_to(REPOSITORY).with_suffix("").parts
        kind = "package" if parts[-1] == "__init__" else "module"
        name, text = ".".join(parts).removesuffix(".__init__"), file.read_text()
        store(name, rewrite.rewritten(text), kind)
        if rewrite.defines_models(text):
            store(f"genuine {name}", text, kind)
    for name, file in LEAN.items():
        text = (PACKAGING / "lean" / f"{file}.py").read_text()
        store(name, rewrite.rewritten(text), "package" if name == "pydantic" else "module")
    spec = importlib.util.find_spec("pydantic")
    assert spec is not None
    assert spec.origin is not None
    store("genuine pydantic", Path(spec.origin).read_text(), "package")
    store(
        "genuine pydantic.alias_generators",
        Path(spec.origin).with_name("alias_generators.py").read_text(),
        "module",
    )
    head = marshal.dumps(index)
    with tempfile.NamedTemporaryFile() as file:
        file.write(len(head).to_bytes(8, "little") + head + blobs)
        file.flush()
        return importer.Archive(file.name, 0, str(Path(spec.origin).parents[1]))


def main() -> None:
    lines = [json.loads(line) for line in sys.stdin]
    found = archive()
    for name in [name for name in sys.modules if name.split(".")[0] in ("cni_plugins", "pydantic")]:
        del sys.modules[name]
    sys.meta_path.insert(0, found)
    unsure = importlib.import_module("cni_plugins.errors").Unsure
    for name in ("bridge", "macvlan", "ptp", "vxlan"):
        importlib.import_module("cni_plugins.engine.registry").plugin(name)
    importlib.import_module("cni_plugins.engine.lifecycle")
    try:
        importlib.import_module("cni_plugins.bridge.config").BridgeConfig.model_validate({"mtu": "x"})
    except unsure:
        found.forget_lean()
    assert importlib.import_module("cni_plugins.errors").Unsure is unsure
    refusal = importlib.import_module("pydantic").ValidationError
    for module, name, value in lines:
        model = getattr(importlib.import_module(module), name)
        try:
            print(repr(plain(model.model_validate(value))))
        except refusal:
            print("refused")


if __name__ == "__main__":
    main()
