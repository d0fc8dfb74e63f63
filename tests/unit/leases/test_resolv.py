import os
from pathlib import Path

import pytest

from cni_plugins.errors import IoFailed
from cni_plugins.leases import resolv
from cni_plugins.protocol.result import DNS

TEXT = """\
# nameserver 9.9.9.9
; nameserver 9.9.9.8
nameserver 10.0.0.1  # trailing words are not read
  nameserver fd00::1
nameserver
domain first.example
domain last.example
search a.example b.example
search c.example
options ndots:5 edns0
sortlist 10.0.0.0
"""


def test_every_kind_of_line_is_read_as_the_reference_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text(TEXT)
    assert resolv.read(str(path)) == DNS(
        ("10.0.0.1", "fd00::1"), "last.example", ("a.example", "b.example", "c.example"), ("ndots:5", "edns0")
    )


def test_no_path_means_no_settings() -> None:
    assert resolv.read("") == DNS()


@pytest.mark.parametrize("kind", ["missing", "directory", "fifo", "huge"])
def test_what_is_no_readable_file_is_refused_with_its_path(kind: str, tmp_path: Path) -> None:
    path = tmp_path / kind
    match kind:
        case "directory":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "huge":
            path.write_text("#" * 100_000)
    with pytest.raises(IoFailed, match=f"open {path}: "):
        resolv.read(str(path))


def test_a_path_with_a_nul_is_refused() -> None:
    with pytest.raises(IoFailed):
        resolv.read("/a\0b")
