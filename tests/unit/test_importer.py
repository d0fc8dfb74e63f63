"""The importer of the executables: what it loads is what the executable contains."""

import importlib
import importlib.util
import marshal
import os
import sys
from pathlib import Path
from typing import Any

import pytest

IMPORTER = Path(__file__).parents[2] / "packaging" / "importer.py"
CONTENT = b"\x7fELF of ours"


def _importer() -> Any:
    spec = importlib.util.spec_from_file_location("importer_of_the_executables", IMPORTER)
    assert spec is not None
    assert spec.loader is not None
    importer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(importer)
    return importer


@pytest.fixture
def archive(tmp_path: Path) -> Any:
    index = marshal.dumps({"pkg.ext": ("extension", 0, len(CONTENT))})
    program = tmp_path / "program"
    program.write_bytes(len(index).to_bytes(8, "little") + index + CONTENT)
    home = tmp_path / "home"
    home.mkdir()
    return _importer().Archive(str(program), 0, str(home))


def test_an_extension_is_unpacked_once(archive: Any, tmp_path: Path) -> None:
    paths = {archive.load("pkg.ext", str) for _ in range(2)}
    assert paths == {str(tmp_path / "home" / "pkg.ext.so")}
    assert Path(*paths).read_bytes() == CONTENT


@pytest.mark.parametrize("kind", ["file", "link", "directory"])
def test_a_file_that_was_there_already_is_not_loaded(archive: Any, tmp_path: Path, kind: str) -> None:
    planted, other = tmp_path / "home" / "pkg.ext.so", tmp_path / "other"
    other.write_bytes(b"planted")
    match kind:
        case "file":
            planted.write_bytes(b"planted")
        case "link":
            planted.symlink_to(other)
        case "directory":
            planted.mkdir()
    path, content = archive.load("pkg.ext", lambda path: (path, Path(path).read_bytes()))
    assert not path.startswith(str(tmp_path))
    assert content == CONTENT
    assert other.read_bytes() == b"planted"


def test_what_is_refused_in_one_place_is_loaded_from_another(archive: Any, tmp_path: Path) -> None:
    tried = []

    def load(path: str) -> bytes:
        tried.append(path)
        if path.startswith(str(tmp_path)):
            raise ImportError(path)
        return Path(path).read_bytes()

    assert archive.load("pkg.ext", load) == CONTENT
    assert [path.startswith("/proc/self/fd/") for path in tried] == [False, True]


def test_copies_in_memory_have_paths_of_their_own_and_leave_no_descriptor(archive: Any) -> None:
    """The dynamic loader takes the same path for the same file, whatever is there by now."""
    before = set(os.listdir("/proc/self/fd"))
    paths = []
    for _ in range(3):
        path, memory = archive._in_memory("pkg.ext", archive._index["pkg.ext"])
        paths.append(archive._load_once((path, memory), str))
    assert len(set(paths)) == 3
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_a_lean_module_gives_way_to_the_genuine_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = {"cnie_lean": "kind = 'lean'", "genuine cnie_lean": "kind = 'genuine'", "cnie_plain": "kind = 1"}
    index, blobs = {}, b""
    for name, text in codes.items():
        blob = marshal.dumps(compile(text, name, "exec"))
        index[name] = ("module", len(blobs), len(blob))
        blobs += blob
    head = marshal.dumps(index)
    program = tmp_path / "program"
    program.write_bytes(len(head).to_bytes(8, "little") + head + blobs)
    archive = _importer().Archive(str(program), 0, str(tmp_path))
    monkeypatch.setattr(sys, "meta_path", [archive, *sys.meta_path])
    try:
        assert importlib.import_module("cnie_lean").kind == "lean"
        assert archive.genuine("cnie_lean").kind == "genuine"
        assert importlib.import_module("cnie_lean").kind == "genuine"
        assert importlib.import_module("cnie_plain").kind == 1
    finally:
        for name in codes:
            sys.modules.pop(name, None)
