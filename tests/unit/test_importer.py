"""The importer of the executables: what it loads is what the executable contains."""

import importlib.util
import marshal
from pathlib import Path
from typing import Any

import pytest

IMPORTER = Path(__file__).parents[2] / "packaging" / "importer.py"
CONTENT = b"\x7fELF of ours"


@pytest.fixture
def archive(tmp_path: Path) -> Any:
    spec = importlib.util.spec_from_file_location("importer_of_the_executables", IMPORTER)
    assert spec is not None
    assert spec.loader is not None
    importer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(importer)
    index = marshal.dumps({"pkg.ext": ("extension", 0, len(CONTENT))})
    program = tmp_path / "program"
    program.write_bytes(len(index).to_bytes(8, "little") + index + CONTENT)
    home = tmp_path / "home"
    home.mkdir()
    return importer.Archive(str(program), 0, str(home))


def test_an_extension_is_unpacked_once(archive: Any, tmp_path: Path) -> None:
    origins = {archive.find_spec("pkg.ext").origin for _ in range(2)}
    assert origins == {str(tmp_path / "home" / "pkg.ext.so")}
    assert Path(*origins).read_bytes() == CONTENT


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
    origin = archive.find_spec("pkg.ext").origin
    assert not origin.startswith(str(tmp_path))
    assert Path(origin).read_bytes() == CONTENT
    assert other.read_bytes() == b"planted"
