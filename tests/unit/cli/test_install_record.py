"""What is believed of the file that an install wrote."""

import os
from pathlib import Path

import pytest

from cni_plugins.cli.failure import Failed
from cni_plugins.cli.install import record
from cni_plugins.cli.install.record import InstallRecord, RecordedFile

DIGEST = "0" * 64
GOOD = InstallRecord(files={"/opt/cni/bin/bridge": RecordedFile(digests=(DIGEST,), kept="bridge.orig")})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "installed.json"
    path.write_bytes(GOOD.text())
    return path


def test_what_was_written_is_read(path: Path) -> None:
    assert record.read(path) == GOOD


def test_no_record_is_an_empty_one(tmp_path: Path) -> None:
    assert record.read(tmp_path / "nothing") == InstallRecord()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"version":2,"files":{}}',
        '{"version":1,"files":{},"run":"rm"}',
        '{"version":1,"files":{"/x":{"digests":[]}}}',
        '{"version":1,"files":{"/x":{"digests":["abc"]}}}',
        f'{{"version":1,"files":{{"/x":{{"digests":["{DIGEST}"],"kept":"../../etc/shadow"}}}}}}',
        f'{{"version":1,"files":{{"/x":{{"digests":["{DIGEST}"],"kept":"a/b.orig"}}}}}}',
        f'{{"version":1,"files":{{"/x":{{"digests":["{DIGEST}"],"kept":"bridge"}}}}}}',
        f'{{"version":1,"files":{{"/x":{{"digests":["{DIGEST}\\n"]}}}}}}',
        "[" * 5000,
    ],
)
def test_any_other_form_is_refused_in_one_line(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(Failed, match=r"is not a record that cnictl install wrote") as failure:
        record.read(path)
    assert "\n" not in str(failure.value)


def test_one_that_everybody_can_write_is_refused(path: Path) -> None:
    path.chmod(0o666)
    with pytest.raises(Failed, match="is not a record"):
        record.read(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="chown needs root")
def test_one_of_another_user_is_refused(path: Path) -> None:
    os.chown(path, 12345, 0)
    with pytest.raises(Failed, match="belongs to user 12345"):
        record.read(path)


def test_a_symbolic_link_a_pipe_or_a_large_file_is_refused(path: Path) -> None:
    link, pipe, large = (path.with_name(name) for name in ("link", "pipe", "large"))
    link.symlink_to(path)
    os.mkfifo(pipe, 0o644)
    large.write_bytes(b" " * 100_000)
    with pytest.raises(OSError, match="symbolic"):
        record.read(link)
    for other in (pipe, large):
        with pytest.raises(Failed, match="is not a record"):
            record.read(other)
