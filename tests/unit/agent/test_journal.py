"""The line for the journal is one line, whatever is in the values; a stuck reader stops nobody."""

import fcntl
import json
import os
import shlex
import threading
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni_plugins.agent import protocol
from cni_plugins.agent.journal import Journal, ServedRequest, record
from cni_plugins.agent.protocol import Call
from cni_plugins.engine.run import Outcome
from tests.unit.agent import calls

PLAIN = ServedRequest("bridge", "ADD", "net1", "c1", "eth0", 0, "", 0.0123)
_ENVIRONMENT = ("CNI_COMMAND=ADD", "CNI_CONTAINERID=c1", "CNI_IFNAME=eth0")


def test_a_success_is_one_line() -> None:
    assert PLAIN.line() == "network=net1 container=c1 ifname=eth0 plugin=bridge command=ADD ms=12.3 code=0"


def test_a_failure_has_its_message_too() -> None:
    line = PLAIN._replace(code=7, text='no "bridge" here').line()
    assert line.endswith(' code=7 msg="no \\"bridge\\" here"')


@pytest.mark.parametrize(
    ("network", "shown"),
    [
        ("a b", '"a b"'),
        ("a=b", '"a=b"'),
        ("x\ncontainer=forged", '"x\\ncontainer=forged"'),
        ("\x1b[31m", '"\\u001b[31m"'),
        ("\u2028", '"\\u2028"'),
        ("\u202e", '"\\u202e"'),
        ("\udcff", '"\\udcff"'),
        ('"', '"\\""'),
        ("\\", '"\\\\"'),
        ("n" * 200, "n" * 128),
        ("<0>", '"<0>"'),
    ],
)
def test_hostile_values_are_quoted_and_cut(network: str, shown: str) -> None:
    assert PLAIN._replace(network=network).line().startswith(f"network={shown} container=c1 ")


_texts = st.text(st.characters(), max_size=300)


@given(st.lists(_texts, min_size=6, max_size=6))
def test_any_values_make_one_line_of_ascii_with_the_keys_we_chose(texts: list[str]) -> None:
    line = ServedRequest(*texts[:5], code=7, text=texts[5], seconds=1).line()
    assert line.isascii()
    assert line.isprintable()
    allowed = {"network", "container", "ifname", "plugin", "command", "ms", "code", "msg"}
    assert {word.partition("=")[0] for word in shlex.split(line)} <= allowed


def _recorded(stdin: bytes, outcome: Outcome, *variables: str) -> ServedRequest:
    with calls.descriptors(stdin) as fds:
        call: Call = protocol.parse(calls.message(*variables), fds, calls.BUILD, calls.HERE)
        return record(call, outcome, 1.5)


def test_a_record_tells_who_and_what() -> None:
    found = _recorded(b'{"name": "net1"}', Outcome(b"{}", 0), *_ENVIRONMENT)
    assert found == ("bridge", "ADD", "net1", "c1", "eth0", 0, "", 1.5)


def test_a_failure_bears_the_code_of_its_document() -> None:
    document = json.dumps({"code": 7, "msg": "no", "details": "d"}).encode()
    found = _recorded(b'{"name": "net1"}', Outcome(document, 1), *_ENVIRONMENT)
    assert (found.code, found.text) == (7, "no")


@pytest.mark.parametrize(
    "stdin", [b"", b"{", b"[]", b"1", b'{"name": 1}', b"\xff\xfe", b"[" * 100_000, b'{"name": null}']
)
def test_a_config_that_is_none_has_no_network(stdin: bytes) -> None:
    assert _recorded(stdin, Outcome(b"", 0)).network == ""


@pytest.mark.parametrize("stdout", [b"", b"{", b"[]", b'{"code": "x", "msg": 3}', b"{}", b"[" * 100_000])
def test_a_failure_without_a_document_bears_the_exit_code(stdout: bytes) -> None:
    found = _recorded(b"{}", Outcome(stdout, 3))
    assert (found.code, found.text) == (3, "")


Pipe = tuple[int, int]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    ends = os.pipe()
    fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ, 8192)
    yield ends
    for fd in ends:
        os.close(fd)


def _fill(fd: int, room: int = 0) -> None:
    os.write(fd, b"." * (fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ) - room))


def _returns(body: Callable[[], None], pipe: Pipe) -> bool:
    thread = threading.Thread(target=body)
    thread.start()
    thread.join(2)
    stuck = thread.is_alive()
    while thread.is_alive():  # let it go, or the test would not end either
        os.read(pipe[0], 4096)
        thread.join(0.1)
    return not stuck


@pytest.mark.parametrize("text", ["one line", "a trace\n" * 2000])
@pytest.mark.parametrize("room", [0, 100, 4096])
def test_a_reader_that_has_stopped_reading_is_not_waited_for(pipe: Pipe, text: str, room: int) -> None:
    journal = Journal(pipe[1], prioritised=False)
    _fill(pipe[1], room)
    assert _returns(lambda: journal.warn(text), pipe)


def test_lines_bear_a_priority_only_for_the_journal(pipe: Pipe) -> None:
    Journal(pipe[1], prioritised=True).warn("one\ntwo")
    Journal(pipe[1], prioritised=False).note("three")
    assert os.read(pipe[0], 100) == b"<4>one\n<4>two\nthree\n"


def test_a_reader_that_has_gone_is_no_error() -> None:
    read, write = os.pipe()
    journal = Journal(write, prioritised=False)
    os.close(read)
    journal.note("to nobody")
    os.close(write)


def test_text_that_is_none_is_written_somehow(pipe: Pipe) -> None:
    Journal(pipe[1], prioritised=False).note("a \udcff")
    assert os.read(pipe[0], 100) == b"a \\udcff\n"
