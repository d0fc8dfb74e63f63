"""JSON that others wrote: one encoding, and nothing that could not be written again."""

import json

import pytest

from cni_plugins.protocol import json_text

MARK = b"\xef\xbb\xbf"


@pytest.mark.parametrize("text", ['{"a": "é"}', "[1, 2.5, null, true]", '"\\ud83d\\ude00"'])
def test_utf_8_with_and_without_a_byte_order_mark(text: str) -> None:
    assert json_text.load(text.encode()) == json.loads(text)
    assert json_text.load(MARK + text.encode()) == json.loads(text)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
def test_another_encoding_is_not_guessed(encoding: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        json_text.load('{"a": 1}'.encode(encoding))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        MARK,
        MARK + MARK + b"{}",
        b"\0{}",
        b'{"a": "\xff"}',
        b"NaN",
        b"-Infinity",
        b"1e999",
        b"[" * 100_000,
    ],
)
def test_what_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        json_text.load(data)


def test_a_lone_surrogate_can_be_written_again() -> None:
    found = json_text.load(b'{"\\ud800": "a\\udfffb"}')
    assert found == {"\ufffd": "a\ufffdb"}
    json.dumps(found, ensure_ascii=False).encode()
