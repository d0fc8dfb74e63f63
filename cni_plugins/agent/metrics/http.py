"""Serves the metrics over HTTP, with limits on the number of scrapers and on their time."""

import os
import socket
import socketserver
import sys
import threading
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, MetricsHandler

from cni_plugins.agent.journal import Journal
from cni_plugins.agent.metrics.address import MetricsAddress

_SCRAPERS = 4  # at the same time; further connections are closed
_TIMEOUT = 10.0  # seconds that a scrape may take
_RETRY = 5.0  # seconds until the address is tried again
_NEVER = 3600.0  # seconds; by default serve_forever() polls for shutdown twice a second


class MetricsServer:
    """Listens for scrapers, as soon as the address is available."""

    def __init__(self, address: MetricsAddress, registry: CollectorRegistry) -> None:
        self._address = address
        self._registry = registry
        self._journal = Journal(2, prioritised="JOURNAL_STREAM" in os.environ)
        self._listener: socket.socket | None = None
        self._over = threading.Event()

    def serve(self) -> None:
        """Serve for ever; retry while the address is in use, as no CNI request depends on metrics."""
        reported = ""
        while self._listener is None and not self._over.is_set():
            try:
                self._listener = listener(self._address)
            except OSError as err:
                if str(err) != reported:
                    reported = str(err)
                    self._journal.warn(f"metrics: cannot listen: {reported}")
                self._over.wait(_RETRY)
        if self._listener:
            self._journal.note(f"metrics at {_shown(self._listener)}")
            _Server(self._listener, self._registry, self._journal).serve_forever(_NEVER)

    def close(self) -> None:
        """Remove the socket file, if this process has created it."""
        self._over.set()
        if self._listener and isinstance(self._address.at, str):
            Path(self._address.at).unlink(missing_ok=True)


def listener(address: MetricsAddress) -> socket.socket:
    """Return a socket that listens at the address.

    :raises OSError: when the address is in use, or the directory or port is not available.
    """
    made = socket.socket(address.family, socket.SOCK_STREAM)
    try:
        if isinstance(address.at, str):
            _prepare(Path(address.at))
        else:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        before = os.umask(0o177)
        try:
            made.bind(address.at)
        finally:
            os.umask(before)
        made.listen()
    except OSError:
        made.close()
        raise
    return made


def _prepare(path: Path) -> None:
    """Create the directory, as for the agent's own socket, and remove a socket that no process listens on."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    if not path.is_socket():
        return  # bind() fails if another kind of file is there
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)


def _shown(listening: socket.socket) -> str:
    """Return the address in the form of --metrics, with the actual port in place of port 0."""
    if listening.family == socket.AF_UNIX:
        return f"unix:{listening.getsockname()}"
    host, port, *_ = listening.getsockname()
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class _Server(socketserver.ThreadingMixIn, socketserver.BaseServer):
    """Serves each scraper in a thread, at most _SCRAPERS at a time."""

    daemon_threads = True

    def __init__(self, listening: socket.socket, registry: CollectorRegistry, journal: Journal) -> None:
        super().__init__(listening.getsockname(), _Handler.factory(registry))
        self._listener = listening
        self._journal = journal
        self._free = threading.BoundedSemaphore(_SCRAPERS)

    def fileno(self) -> int:
        return self._listener.fileno()

    def get_request(self) -> tuple[socket.socket, Any]:
        return self._listener.accept()

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 (as the base has it)
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            request.close()

    def process_request_thread(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 (as above)
        # A limit for the whole scrape: a socket timeout would start again with each byte.
        end = threading.Timer(_TIMEOUT, _hang_up, (request,))
        end.daemon = True
        end.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            end.cancel()
            request.close()
            self._free.release()

    def handle_error(self, _request: object, _client_address: object) -> None:
        """Log exceptions, except for the OSError of a scraper that has disconnected."""
        if not isinstance(sys.exc_info()[1], OSError):
            self._journal.warn(traceback.format_exc())


def _hang_up(connection: socket.socket) -> None:
    with suppress(OSError):  # already disconnected
        connection.shutdown(socket.SHUT_RDWR)


class _Handler(MetricsHandler):
    """Serves the library's exposition at /metrics; all other paths are 404."""

    def do_GET(self) -> None:  # noqa: N802 (http.server finds it by this name)
        if self.path.partition("?")[0] == "/metrics":
            super().do_GET()
        else:
            self.send_error(404)
