"""Programs that answer on ports of any network namespace, and questions to them, all from this process."""

from __future__ import annotations

import selectors
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.namespaces import entered

NOBODY = "nobody"
_KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
_REST = 0.1


class Servers:
    """Sockets in namespaces, served by one thread: each answers with its name and the source that it sees."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def add(self, netns: str | Path, name: str, *ports: str, addresses: tuple[str, ...] = ("", "::")) -> None:
        """
        Serve ports such as `80/tcp` in a namespace, until `remove` or `close`.

        :param addresses: to bind to; an answer has none but that as its source, whatever the routes are
        """
        with entered(netns):
            made = [_bound(address, port) for port in ports for address in addresses]
        for bound in made:
            self._selector.register(bound, selectors.EVENT_READ, name)

    def remove(self, *names: str) -> None:
        """Close the sockets of these names: an open one keeps its namespace."""
        for key in list(self._selector.get_map().values()):
            if key.data in names:
                self._close(key)

    def close(self) -> None:
        """End all of them."""
        self._is_over.set()
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            self._close(key)
        self._selector.close()

    def _close(self, key: selectors.SelectorKey) -> None:
        self._selector.unregister(key.fileobj)
        assert isinstance(key.fileobj, socket.socket)
        key.fileobj.close()

    def _serve(self) -> None:
        while not self._is_over.is_set():
            for key, _ in self._selector.select(_REST):
                with suppress(OSError):
                    _answer(key)


def _bound(address: str, port: str) -> socket.socket:
    number, _, protocol = port.partition("/")
    made = socket.socket(_family(address), _KINDS[protocol])
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if made.family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    made.bind((address, int(number)))
    if protocol == "tcp":
        made.listen(64)
    made.setblocking(False)
    return made


def _answer(key: selectors.SelectorKey) -> None:
    bound = key.fileobj
    assert isinstance(bound, socket.socket)
    if bound.type == socket.SOCK_DGRAM:
        _, source = bound.recvfrom(100)
        bound.sendto(f"{key.data} {source[0]}".encode(), source)
        return
    talk, source = bound.accept()
    with talk:
        talk.sendall(f"{key.data} {source[0]}".encode())


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


@contextmanager
def serving() -> Iterator[Servers]:
    """Servers that end with the block."""
    servers = Servers()
    try:
        yield servers
    finally:
        servers.close()


def ask(
    netns: str | Path,
    address: str,
    port: int,
    protocol: str = "tcp",
    *,
    source: str = "",
    patience: float = 3,
) -> str:
    """
    Return who answers a caller in the namespace, and the source that it sees; NOBODY if nobody does.

    A datagram is sent again: the first one may be dropped while an address is resolved.
    """
    with entered(netns):
        made = socket.socket(_family(address), _KINDS[protocol])
    with made:
        made.settimeout(patience / 3 if protocol == "udp" else patience)
        try:
            if source:
                made.bind((source, 0))
            made.connect((address, port))
        except OSError:
            return NOBODY
        for _ in range(3 if protocol == "udp" else 1):
            with suppress(OSError):
                if protocol == "udp":
                    made.send(b"?")
                if answer := made.recv(100):
                    return answer.decode()
        return NOBODY
