"""Whatever arrives at the socket becomes a call or CallRefused, and no descriptor stays open."""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni_plugins.agent import protocol
from cni_plugins.agent.protocol import CALL, Call, CallRefused
from cni_plugins.protocol.request import STDIN_LIMIT
from tests.unit.agent import calls
from tests.unit.agent.calls import BUILD, HERE

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ends[0], ends[1]:
        yield ends


def parsed(data: bytes) -> Call:
    with calls.descriptors() as fds:
        return protocol.parse(data, fds, BUILD, HERE)


def refused(data: bytes, fds: tuple[int, ...]) -> str:
    with pytest.raises(CallRefused) as caught:
        protocol.parse(data, fds, BUILD, HERE)
    return caught.value.reason


def test_a_call_is_name_environment_and_descriptors() -> None:
    data = calls.message("CNI_COMMAND=ADD", "EMPTY=", "ODD=a=b")
    with calls.descriptors() as fds:
        call = protocol.parse(data, fds, BUILD, HERE)
        assert call == ("bridge", {"CNI_COMMAND": "ADD", "EMPTY": "", "ODD": "a=b"}, 0o22, fds)


def test_bytes_that_are_no_text_come_through() -> None:
    data = calls.message() + b"CNI_ARGS=\xff\0"
    assert os.fsencode(parsed(data).environment["CNI_ARGS"]) == b"\xff"


@pytest.mark.parametrize("limit", [0, 1, 5, 100, 1 << 20])
def test_stdin_is_read_up_to_a_limit_and_again(limit: int) -> None:
    with calls.descriptors(b"0123456789") as fds:
        call = protocol.parse(calls.message(), fds, BUILD, HERE)
        assert call.read(limit) == call.read(limit) == b"0123456789"[:limit]


@pytest.mark.parametrize("umask", ["", "8", "-1", "1000", "0o22", " 22", "\u0662"])
def test_a_umask_is_three_octal_digits(umask: str) -> None:
    with calls.descriptors() as fds:
        assert refused(calls.message(umask=umask), fds) == "message"


def test_of_a_variable_that_is_there_twice_the_first_counts() -> None:
    # As it does for getenv() in the caller, and for Python's os.environ on the cold road.
    assert parsed(calls.message("CNI_IFNAME=one", "CNI_IFNAME=two")).environment == {"CNI_IFNAME": "one"}


def test_every_variable_of_a_call_can_be_set() -> None:
    try:
        names = list(parsed(calls.message("=nameless", "CNI_COMMAND=ADD")).environment)
    except CallRefused:
        return  # the caller's own Python can live with it
    for name in names:
        os.putenv(f"{name}", "x")
        os.unsetenv(name)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "message"),
        (b"\0", "message"),
        (b"\0" * 6, "message"),
        (CALL, "message"),
        (CALL + b"\0", "message"),
        (CALL + b"\0a\0b\0", "message"),
        (calls.message()[:-1], "message"),
        (calls.message() + b"CNI_COMMAND=ADD", "message"),
        (calls.message(protocol=b"cni-handoff 2"), "message"),
        (calls.message(protocol=CALL + b" "), "message"),
        (calls.message(protocol=CALL[:-1]), "message"),
        (calls.message(build=""), "build"),
        (calls.message(build="0" * 16), "build"),
        (calls.message(build=BUILD + "0"), "build"),
        (calls.message(build=BUILD.upper()), "build"),
        (calls.message(here=""), "place"),
        (calls.message(here=HERE + " "), "place"),
        (calls.message(here="4:1 4:2 4:3 8:3"), "place"),
        (calls.message("CNI_NETNS=/proc/self/ns/net"), "place"),
        (calls.message("CNI_NETNS=/proc/self/fd/7"), "place"),
        (calls.message("CNI_NETNS=/proc/thread-self/ns/net"), "place"),
    ],
)
def test_what_is_no_call_for_us_is_left_to_the_caller(data: bytes, reason: str) -> None:
    with calls.descriptors() as fds:
        assert refused(data, fds) == reason


@pytest.mark.parametrize(
    "path",
    ["//proc/self/ns/net", "/proc/./self/ns/net", "/proc/../proc/self/ns/net", "/dev/fd/7", "/dev/stdin"],
)
def test_a_sandbox_that_only_the_caller_can_name_is_left_to_it(path: str) -> None:
    with calls.descriptors() as fds:
        assert refused(calls.message(f"CNI_NETNS={path}"), fds) == "place"


def test_a_relative_sandbox_is_left_to_the_caller() -> None:
    # `self/ns/net` from /proc would be the worker's own.
    with calls.descriptors() as fds:
        assert refused(calls.message("CNI_NETNS=self/ns/net"), fds) == "place"


def _unsealed() -> int:
    return calls.memfd(seals=0)


def _half_sealed() -> int:
    return calls.memfd(seals=1 << 2)


def _too_large() -> int:
    return calls.memfd(b" " * (STDIN_LIMIT + 2))


def _file() -> int:
    return os.open(__file__, os.O_RDONLY)


def _directory() -> int:
    return os.open("/", os.O_RDONLY)


def _pipe() -> int:
    read, write = os.pipe()
    os.close(write)
    return read


def _socket() -> int:
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM).detach()


def _device() -> int:
    return os.open("/dev/null", os.O_RDONLY)


_KINDS: tuple[Callable[[], int], ...] = (
    calls.memfd, _unsealed, _half_sealed, _too_large, _file, _directory, _pipe, _socket, _device,
)  # fmt: skip


@pytest.mark.parametrize(
    ("at", "kind"),
    [
        *((0, kind) for kind in _KINDS if kind is not calls.memfd),
        *((1, kind) for kind in (_directory, _pipe, _socket, _device)),
        *((2, kind) for kind in _KINDS if kind is not _directory),
    ],
)
def test_a_descriptor_of_the_wrong_kind_is_refused(at: int, kind: Callable[[], int]) -> None:
    wrong = kind()
    try:
        with calls.descriptors() as fds:
            mixed = (*fds[:at], wrong, *fds[at + 1 :])
            assert refused(calls.message(), mixed) == "descriptors"
    finally:
        os.close(wrong)


@pytest.mark.parametrize("number", [0, 1, 2, 5])
def test_there_are_three_descriptors(number: int) -> None:
    with calls.descriptors() as fds:
        assert refused(calls.message(), (fds * 2)[:number]) == "descriptors"


@pytest.mark.parametrize("size", [STDIN_LIMIT, STDIN_LIMIT + 1])
def test_a_stdin_that_may_be_too_large_is_still_read(size: int) -> None:
    with calls.descriptors(b" " * size) as fds:
        assert len(protocol.parse(calls.message(), fds, BUILD, HERE).read(STDIN_LIMIT + 1)) == size


def test_a_message_that_fills_the_limit_is_received(pair: Pair) -> None:
    data = calls.message("A=" + "x" * (protocol.LIMIT - len(calls.message()) - 3))
    assert len(data) == protocol.LIMIT
    pair[0].send(data)
    with ExitStack() as owned:
        assert protocol.receive(pair[1], owned) == (data, ())


def test_a_message_over_the_limit_is_refused(pair: Pair) -> None:
    pair[0].send(b"x" * (protocol.LIMIT + 1))
    with ExitStack() as owned, pytest.raises(CallRefused, match="message"):
        protocol.receive(pair[1], owned)


def test_a_caller_that_says_nothing_is_not_waited_for(pair: Pair) -> None:
    pair[1].settimeout(0.01)
    with ExitStack() as owned, pytest.raises(OSError):
        protocol.receive(pair[1], owned)


def test_descriptors_are_closed_with_the_stack_and_not_inherited(pair: Pair) -> None:
    with calls.descriptors() as fds:
        before = _open()
        socket.send_fds(pair[0], [b"x"], list(fds))
        with ExitStack() as owned:
            _, received = protocol.receive(pair[1], owned)
            assert len(received) == 3
            assert not any(map(os.get_inheritable, received))
        assert _open() == before


def test_too_many_descriptors_are_refused_and_closed(pair: Pair) -> None:
    with calls.descriptors() as fds:
        before = _open()
        socket.send_fds(pair[0], [calls.message()], list(fds * 10))
        with ExitStack() as owned, pytest.raises(CallRefused):
            protocol.receive(pair[1], owned)
        assert _open() == before


def test_an_answer_says_how_long_its_parts_are(pair: Pair) -> None:
    text = bytes(range(256)) * 300
    protocol.answer(pair[0], 1, text, b"trace")
    pair[0].close()
    head = pair[1].recv(1 << 16)
    assert head == b"".join(number.to_bytes(4, "little") for number in (1, len(text), 5))
    assert b"".join(iter(lambda: pair[1].recv(1 << 16), b"")) == text + b"trace"


def test_our_own_user_may_call(pair: Pair) -> None:
    protocol.require_own_user(pair[1])


def test_places_name_namespaces_and_root() -> None:
    assert len(protocol.places().split(" ")) == 4


def _open() -> int:
    return len(os.listdir("/proc/self/fd"))


_heads = st.sampled_from([CALL, protocol.STATUS, b"", b"cni-handoff 1 "])
_builds = st.sampled_from([f"@build-id:{BUILD}".encode(), b"@build-id:", b""])
_heres = st.sampled_from([HERE.encode(), b"", b"4:1"])
_texts = st.lists(
    st.binary(max_size=20) | st.sampled_from([b"CNI_NETNS=/proc/self", b"=", b"A=1"]), max_size=6
)
_alike = st.builds(
    lambda *parts: b"\0".join((*parts[:3], *parts[3])) + b"\0", _heads, _builds, _heres, _texts
)
_kinds = st.lists(st.sampled_from(_KINDS), max_size=20)
_fitting = st.just([calls.memfd, _file, _directory, _device])


@given(st.binary(max_size=200) | _alike, _kinds | _fitting)
def test_whatever_is_sent_is_a_call_or_unfit(data: bytes, kinds: list[Callable[[], int]]) -> None:
    before = _open()
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    fds = [kind() for kind in kinds]
    try:
        socket.send_fds(ends[0], [data], fds)
    finally:
        for fd in fds:
            os.close(fd)
    with ends[0], ends[1], ExitStack() as owned:
        try:
            received, passed = protocol.receive(ends[1], owned)
            call = protocol.parse(received, passed, BUILD, HERE)
        except CallRefused as err:
            assert err.reason in protocol.REASONS  # noqa: PT017 (either this or a call)
        else:
            assert len(call.descriptors) == 3
            assert isinstance(call.read(100), bytes)
    assert _open() == before
