"""VERSION imports nothing of ours, so its list of versions is another; it must be the same."""

import json
import subprocess
import sys
from typing import Any

import pytest

from cni_plugins.front import main
from cni_plugins.protocol import versions


def test_version_says_what_is_spoken() -> None:
    assert main.VERSIONS == versions.SUPPORTED
    assert main.VERSIONS[-1] == versions.LATEST


def _asked(stdin: bytes | None) -> Any:
    command = [sys.executable, "-m", "cni_plugins.front.main"]
    environment = {"CNI_COMMAND": "VERSION", "PYTHONPATH": ":".join(sys.path)}
    if stdin is None:
        command = ["sh", "-c", 'exec "$@" <&-', "sh", *command]
    return json.loads(
        subprocess.run(command, input=stdin, env=environment, capture_output=True, check=True).stdout
    )


@pytest.mark.parametrize(
    ("stdin", "answered"),
    [
        (b'{"cniVersion":"0.4.0"}', "0.4.0"),
        (b'{"cniVersion": "0.4.0"}', "0.4.0"),
        (b'\xef\xbb\xbf{"cniVersion": "0.4.0"}', "0.4.0"),
        (b"0.4.0", "1.1.0"),
        (b'{"name": "n", "cniVersion": "1.0.0", "type": "bridge"}', "1.0.0"),
        (b'{"cniVersion": "9.9.9"}', "1.1.0"),
        (b'{"cniVersion": ["1.0.0"]}', "1.1.0"),
        (b'{"cniVersion": 1}', "1.1.0"),
        (b"{}", "1.1.0"),
        (b"[]", "1.1.0"),
        (b"rubbish", "1.1.0"),
        (b"\xff\xfe", "1.1.0"),
        (b"[" * 100_000, "1.1.0"),
        (b"", "1.1.0"),
        (None, "1.1.0"),
    ],
)
def test_version_is_answered_in_the_version_asked_for(stdin: bytes | None, answered: str) -> None:
    document = _asked(stdin)
    assert (document["cniVersion"], document["supportedVersions"]) == (answered, list(versions.SUPPORTED))
