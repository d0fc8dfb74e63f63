from __future__ import annotations

import os
from pathlib import Path

import pytest

from cni_plugins.contract.registry_config import RegistrySection
from cni_plugins.registries.http import Endpoint, endpoints_of, failure_of, tls_of
from cni_plugins.registries.secrets import Secret, redact, require_private, require_trusted
from cni_plugins.registries.store import Unusable


def file(path: Path, content: bytes, mode: int = 0o600) -> str:
    path.write_bytes(content)
    path.chmod(mode)
    return str(path)


def test_a_secret_is_read_without_its_line_end_and_again_when_it_has_changed(tmp_path: Path) -> None:
    path = file(tmp_path / "s", b"swordfish\n")
    secret = Secret("tokenFile", path)
    assert secret.known() == ""
    assert secret.text() == secret.known() == "swordfish"
    file(tmp_path / "new", b"other")
    os.replace(tmp_path / "new", path)
    assert secret.text() == "other"
    assert "other" not in repr(secret)


@pytest.mark.parametrize(
    ("content", "mode", "words"),
    [
        (b"s", 0o644, "has mode 0644; only root may read or write it"),
        (b"s", 0o620, "has mode 0620"),
        (b"", 0o600, "one line of printable ASCII"),
        (b"a\nb\n", 0o600, "one line of printable ASCII"),
        (b"\xff\xfe", 0o600, "is no text"),
        ("ä".encode(), 0o600, "printable ASCII"),
    ],
)
def test_a_secret_that_others_see_or_that_is_no_line_is_refused(
    tmp_path: Path, content: bytes, mode: int, words: str
) -> None:
    path = file(tmp_path / "s", content, mode)
    with pytest.raises(Unusable, match=words) as caught:
        Secret("passwordFile", path).text()
    assert f"passwordFile {path}" in str(caught.value)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    for path, words in (
        (tmp_path / "fifo", "no regular file"),
        (tmp_path, "no regular file"),
        (tmp_path / "x", "No such"),
    ):
        with pytest.raises(Unusable, match=words):
            Secret("tokenFile", str(path)).text()


def test_certificates_may_be_read_by_all_and_keys_may_not(tmp_path: Path) -> None:
    path = file(tmp_path / "pem", b"pem", 0o644)
    assert require_trusted("caFile", path) == path
    with pytest.raises(Unusable, match="keyFile .* has mode 0644"):
        require_private("keyFile", path)
    (tmp_path / "pem").chmod(0o666)
    with pytest.raises(Unusable, match="caFile .* has mode 0666; only root may write it"):
        require_trusted("caFile", path)


def test_redacted_texts_are_one_line_without_secrets() -> None:
    assert redact("token abc\n  refused: abc", ["abc", ""]) == "token … refused: …"


def test_files_of_tls_without_tls_are_a_mistake(tmp_path: Path) -> None:
    section = RegistrySection(type="etcd", endpoints=["http://127.0.0.1:1"], caFile="/nowhere")
    with pytest.raises(Unusable, match="are for endpoints with https"):
        tls_of(section, is_used=False)
    with pytest.raises(Unusable, match="caFile /nowhere: No such file"):
        tls_of(section, is_used=True)


def test_endpoints_have_scheme_host_and_port() -> None:
    section = RegistrySection(type="etcd", endpoints=["https://[fd00::1]:2379", "http://etcd.example:80/"])
    assert endpoints_of(section) == [Endpoint("https", "fd00::1", 2379), Endpoint("http", "etcd.example", 80)]
    assert [str(each) for each in endpoints_of(section)] == [
        "https://[fd00::1]:2379",
        "http://etcd.example:80",
    ]


def test_a_failure_without_words_has_a_reason() -> None:
    assert str(failure_of(OSError(), Endpoint("http", "h", 1))) == "http://h:1: the connection was closed"
    refused = ConnectionRefusedError(111, "Connection refused")
    assert str(failure_of(refused, Endpoint("http", "h", 1))) == "http://h:1: Connection refused"
