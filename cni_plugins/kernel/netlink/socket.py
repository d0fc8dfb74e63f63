"""Sends encoded netlink messages in one datagram, and receives acknowledgements and answers.

Uses one blocking socket per namespace and protocol, many messages per system call, and no event loop:
pyroute2's own sockets need asyncio. For the content of the messages see rtnetlink and nf_tables.
"""

import errno
import os
import socket
import struct
import sys
from _thread import start_new_thread
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple, cast

from cni_plugins.kernel.netlink.attributes import attributes, read_text

# linux/netlink.h
NLM_F_REQUEST, NLM_F_ACK, NLM_F_ECHO, NLM_F_DUMP = 0x1, 0x4, 0x8, 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE, NLM_F_APPEND = 0x100, 0x200, 0x400, 0x800
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_DUMP_INTR, _NLM_F_ACK_TLVS, _NLM_F_CAPPED = 0x10, 0x200, 0x100
_SOL_NETLINK, _EXT_ACK, _CAP_ACK, _STRICT_CHECK = 270, 11, 10, 12
_NLMSGERR_ATTR_MSG = 1
_HEADER = struct.Struct("=IHHII")
_RECEIVE = 1 << 17  # bytes; the kernel never fills more than 32 KiB per datagram of a dump
_DUMP_TRIES = 5
_SO_SNDBUFFORCE, _SO_NETNS_COOKIE = 32, 71  # asm-generic/socket.h
_ASIDE_TICK = struct.pack("@ll", 0, 100_000)  # struct timeval


class Refused(OSError):
    """The kernel answered a message with an error; `hint` is its extended acknowledgement text, if any.

    :param position: which message of the batch was refused.
    """

    def __init__(self, number: int, hint: str, position: int) -> None:
        super().__init__(number, os.strerror(number))
        self.hint = hint
        self.position = position


class Answer(NamedTuple):
    """One message from the kernel, header included."""

    kind: int
    data: bytes


class _Error(NamedTuple):
    number: int
    hint: str
    sequence: int


class Socket:
    """A netlink socket in the network namespace in which it was opened."""

    def __init__(self, protocol: int, groups: int = 0) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        for option in (_EXT_ACK, _CAP_ACK, _STRICT_CHECK):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)
        self._socket.bind((0, groups))
        self._sequence = 0
        self._transacted = False

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        """Close the socket without waiting until the kernel has freed the objects a transaction removed.

        It frees them after the next RCU grace period, and close() of an nf_tables socket waits for that,
        10 ms and more (nft_rcv_nl_event, net/netfilter/nf_tables_api.c).
        """
        if self._transacted:
            with suppress(RuntimeError):  # no more threads
                start_new_thread(self._socket.close, ())
                return
        self._socket.close()

    def namespace_cookie(self) -> int:
        """Return the network namespace's number, which no other has in this boot; 0 before Linux 5.14."""
        try:
            cookie = self._socket.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
        except OSError:
            return 0
        return int.from_bytes(cookie, sys.byteorder)

    def ask(self, message: bytearray) -> Answer:
        """Send a request that has one answer and does not request an acknowledgement as well.

        :raises Refused: if the kernel answers with an error.
        """
        first = self._number([message])
        self._socket.sendto(message, (0, 0))
        while True:
            for item in self._receive(first):
                if isinstance(item, Answer):
                    return item
                raise Refused(item.number, item.hint, 0)

    def call(self, *messages: bytearray) -> list[Answer]:
        """Send messages, wait for the acknowledgements they request, and return all other answers.

        :raises Refused: for the first message that the kernel refused; later ones may have been carried out.
        """
        first = self._number(messages)
        self._socket.sendto(b"".join(messages), (0, 0))
        waiting = {first + n for n, message in enumerate(messages) if _flags(message) & NLM_F_ACK}
        answers: list[Answer] = []
        failed: Refused | None = None
        while waiting:
            for item in self._receive(first):
                if not isinstance(item, _Error):
                    answers.append(item)
                    continue
                waiting.discard(item.sequence)
                if item.number and failed is None:
                    failed = Refused(item.number, item.hint, item.sequence - first)
        if failed is not None:
            raise failed
        return answers

    def ask_each(self, messages: list[bytearray]) -> list[Answer | Refused]:
        """Send requests that have one answer each, in one datagram; an error takes the place of an answer.

        An acknowledgement is an answer too, without content.
        """
        first = self._number(messages)
        self._socket.sendto(b"".join(messages), (0, 0))
        found: dict[int, Answer | Refused] = {}
        while len(found) < len(messages):
            for item in self._receive(first):
                if isinstance(item, Answer):
                    (sequence,) = struct.unpack_from("=I", item.data, 8)
                    found[sequence] = item
                elif item.number:
                    found[item.sequence] = Refused(item.number, item.hint, item.sequence - first)
                else:
                    found[item.sequence] = Answer(_NLMSG_ERROR, b"")
        return [found[first + number] for number in range(len(messages))]

    def transact(self, messages: list[bytearray]) -> None:
        """Send an nf_tables batch, which takes effect as a whole or not at all.

        The kernel acknowledges only messages that request it, and may refuse the whole batch with an error
        for its first message.
        """
        self._transacted = True
        first = self._number(messages)
        self._send_whole(b"".join(messages))
        last = first + max(n for n, message in enumerate(messages) if _flags(message) & NLM_F_ACK)
        while True:
            for item in self._receive(first):
                if isinstance(item, _Error) and item.number:
                    self._drain()
                    raise Refused(item.number, item.hint, item.sequence - first)
                if isinstance(item, _Error) and item.sequence == last:
                    return

    def _send_whole(self, datagram: bytes) -> None:
        """Send a transaction, which must be a single datagram, whatever its size."""
        try:
            self._socket.sendto(datagram, (0, 0))
        except OSError as err:
            if err.errno != errno.EMSGSIZE:
                raise
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, 2 * len(datagram))
            self._socket.sendto(datagram, (0, 0))

    def call_aside(self, message: bytearray, is_done: Callable[[Answer], bool]) -> None:
        """Send a message from a separate thread; return on the notification of its effect, or the answer.

        For changes that take effect long before the system call returns. Notification and answer may both be
        lost among many notifications of other changes, so the caller must check the result. The socket must
        not be used for anything else, and may be closed afterwards.

        :raises Refused: if the kernel refused the message.
        """
        self._number([message])
        ended: list[OSError | None] = []
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _ASIDE_TICK)
        try:
            start_new_thread(self._send_aside, (message, ended))
        except RuntimeError:  # no more threads
            self._send_aside(message, ended)
        while not self._is_finished(is_done, [*ended]):
            pass

    def _send_aside(self, message: bytearray, ended: list[OSError | None]) -> None:
        try:
            self._socket.sendto(message, (0, 0))
        except OSError as err:
            ended.append(err)
        else:
            ended.append(None)

    def _is_finished(self, is_done: Callable[[Answer], bool], ended: list[OSError | None]) -> bool:
        """Receive until the socket's timeout; say whether the wait is over.

        :param ended: the result of the send, if it had returned before: the kernel answers before it returns.
        """
        try:
            for item in self._receive(0):
                if isinstance(item, _Error):
                    _require_success(item)
                    return True
                if is_done(item):
                    return True
        except BlockingIOError:
            if ended and ended[0]:
                raise ended[0] from None
            return bool(ended)
        except OSError as err:
            if err.errno != errno.ENOBUFS:
                raise
        return False

    def dump(self, message: bytearray) -> list[Answer]:
        """Return every answer to a dump request, which is repeated if the tables changed meanwhile."""
        for attempt in range(_DUMP_TRIES):
            answers, consistent = self._dump_once(message)
            if consistent or attempt == _DUMP_TRIES - 1:
                return answers
        raise AssertionError("unreachable")

    def _dump_once(
        self, message: bytearray, is_past: Callable[[Answer], bool] | None = None
    ) -> tuple[list[Answer], bool]:
        """Return the answers, up to the first that the predicate selects, and whether they are consistent."""
        first = self._number([message])
        self._socket.sendto(message, (0, 0))
        answers: list[Answer] = []
        consistent = True
        while True:
            for item in self._receive(first):
                if isinstance(item, _Error):
                    if item.number:
                        raise Refused(item.number, item.hint, 0)
                    return answers, consistent
                consistent &= not _flags(item.data) & _NLM_F_DUMP_INTR
                if item.kind == _NLMSG_DONE:
                    _require_done(item)
                    return answers, consistent
                if is_past and is_past(item):
                    return answers, consistent
                answers.append(item)

    def dump_until(self, message: bytearray, is_past: Callable[[Answer], bool]) -> list[Answer]:
        """Return the answers to a dump before the first that a predicate selects, without reading the others.

        The socket must not be used for anything else.
        """
        return self._dump_once(message, is_past)[0]

    def arrived(self) -> list[Answer]:
        """Return the notifications of one datagram, without waiting; an empty list if none has arrived.

        :raises OSError: ENOBUFS when some were lost
        """
        try:
            data = self._socket.recv(_RECEIVE, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return []
        return [Answer(kind, message) for kind, _, _, message in _messages(data)]

    def _number(self, messages: tuple[bytearray, ...] | list[bytearray]) -> int:
        first = self._sequence + 1
        for number, message in enumerate(messages, first):
            struct.pack_into("=I", message, 8, number)
        self._sequence += len(messages)
        return first

    def _receive(self, first: int) -> Iterator[Answer | _Error]:
        """Yield the messages of one datagram that belong to requests from number `first` on."""
        for kind, flags, sequence, message in _messages(self._socket.recv(_RECEIVE)):
            if sequence < first:
                continue  # left over from an earlier call that ended in an error
            if kind == _NLMSG_ERROR:
                yield _error(message, flags, sequence)
            else:
                yield Answer(kind, message)

    def _drain(self) -> None:
        """Discard the remaining answers to a batch that was refused."""
        self._socket.settimeout(0)
        try:
            while True:
                self._socket.recv(_RECEIVE)
        except BlockingIOError:
            pass
        finally:
            self._socket.settimeout(None)


def _messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield kind, flags, sequence number and the whole of each message in a datagram."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
        yield kind, flags, sequence, data[offset : offset + length]
        offset += max(_HEADER.size, (length + 3) & ~3)


def _require_done(answer: Answer) -> None:
    """:raises Refused: if the last message says that the dump ended early.

    ENOENT is not an early end: a routing table does not exist before its first route.
    """
    if len(answer.data) >= _HEADER.size + 4:
        number = cast("int", struct.unpack_from("=i", answer.data, _HEADER.size)[0])
        if number not in (0, -errno.ENOENT):
            raise Refused(-number, "", 0)


def _require_success(answer: _Error) -> None:
    if answer.number:
        raise Refused(answer.number, answer.hint, 0)


def _flags(message: bytes | bytearray) -> int:
    return cast("int", struct.unpack_from("=H", message, 6)[0])


def _error(message: bytes, flags: int, sequence: int) -> _Error:
    number = -cast("int", struct.unpack_from("=i", message, _HEADER.size)[0])
    if not flags & _NLM_F_ACK_TLVS:
        return _Error(number, "", sequence)
    offset = _HEADER.size + 4 + _HEADER.size
    if not flags & _NLM_F_CAPPED:
        (original,) = struct.unpack_from("=I", message, _HEADER.size + 4)
        offset = _HEADER.size + 4 + ((original + 3) & ~3)
    texts = [value for kind, value in attributes(message, offset) if kind == _NLMSGERR_ATTR_MSG]
    return _Error(number, read_text(texts[0]) if texts else "", sequence)


def is_absent(err: OSError) -> bool:
    """Say whether the kernel refused because the object does not exist."""
    return err.errno in (errno.ENOENT, errno.ENODEV, errno.ESRCH, errno.EADDRNOTAVAIL)
