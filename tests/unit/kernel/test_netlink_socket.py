"""What comes back over a socket: answers, refusals, and things nobody should send."""

import errno
import struct
from typing import Any

import pytest

from cni_plugins.kernel.netlink.attributes import packed
from cni_plugins.kernel.netlink.socket import Refused, Socket

HEADER = struct.Struct("=IHHII")
ACK, DUMP = 4, 0x300


class Scripted:
    """A socket whose other side says what it was told to say, and then nothing."""

    def __init__(self, *datagrams: bytes) -> None:
        self._datagrams = list(datagrams)

    def sendto(self, *_arguments: Any) -> None:
        pass

    def recv(self, _size: int) -> bytes:
        return self._datagrams.pop(0)


def opened(*datagrams: bytes) -> Socket:
    found = object.__new__(Socket)
    found._socket = Scripted(*datagrams)  # type: ignore[assignment]
    found._sequence = 0
    return found


def message(kind: int, sequence: int, body: bytes = b"", flags: int = 0) -> bytes:
    return HEADER.pack(HEADER.size + len(body), kind, flags, sequence, 0) + body


def error(number: int, sequence: int, tail: bytes = b"") -> bytes:
    """An error as the kernel sends it under NETLINK_CAP_ACK and NETLINK_EXT_ACK."""
    body = struct.pack("=i", -number) + bytes(HEADER.size) + tail
    return message(2, sequence, body, 0x300 if tail else 0x100)


def question(flags: int = 0) -> bytearray:
    return bytearray(message(18, 0, bytes(16), 1 | flags))


def test_an_answer_is_enough() -> None:
    assert opened(message(16, 1, b"body")).ask(question()).data[16:] == b"body"


def test_a_refusal_bears_the_kernels_words() -> None:
    with pytest.raises(Refused) as caught:
        opened(error(errno.EINVAL, 1, packed(1, b"no such thing\0"))).ask(question())
    assert (caught.value.errno, caught.value.hint) == (errno.EINVAL, "no such thing")


@pytest.mark.parametrize("tail", [b"\xff\xff\x01\x00", b"\0\0\0\0", b"\x01"])
def test_torn_words_are_none(tail: bytes) -> None:
    with pytest.raises(Refused) as caught:
        opened(error(errno.EPERM, 1, tail)).ask(question())
    assert caught.value.hint == ""


@pytest.mark.parametrize("junk", [bytes(64), bytes(7), b"", message(16, 0, b"tail of an earlier call")])
def test_what_is_no_answer_is_passed_over(junk: bytes) -> None:
    assert opened(junk, message(16, 1, b"body")).ask(question()).data[16:] == b"body"


def test_the_first_refusal_of_several_messages_is_told_with_its_place() -> None:
    socket = opened(error(0, 1) + error(errno.EEXIST, 2), message(16, 3, b"answer"), error(0, 3))
    with pytest.raises(Refused) as caught:
        socket.call(question(ACK), question(ACK), question(ACK))
    assert (caught.value.errno, caught.value.position) == (errno.EEXIST, 1)


def test_a_dump_is_asked_for_again_when_it_was_disturbed() -> None:
    disturbed = message(16, 1, b"old.", flags=0x10) + message(3, 1, bytes(4), flags=0x10)
    socket = opened(disturbed, message(16, 2, b"new."), message(3, 2, bytes(4)))
    assert [answer.data[16:] for answer in socket.dump(question(DUMP))] == [b"new."]
