"""HTTP sessions to stores: every call ends in time, and goes where the config says only.

requests has a limit for each read, not for the call, which a server that sends a byte a second could prolong
for ever. So the connections of a session are known, and a timer shuts them down.
"""

import contextlib
import os
import socket
import ssl
import threading
import weakref
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter

from cni_plugins.contract.registry_config import RegistrySection
from cni_plugins.registries.secrets import require_private, require_trusted
from cni_plugins.registries.store import Denied, StoreFailed, Unreachable, Unusable

CONNECT = 3.0  # seconds
READ = 5.0  # from one byte of the answer to the next
WHOLE = 8.0  # one call to one endpoint
CALL = 10.0  # to all of them
_SYSTEM_CAS = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)


class NotSent(Unreachable):
    """No connection was made, so nothing was asked of the store."""


class TooSlow(Exception):
    """A call has been ended because it took too long."""


class Endpoint(NamedTuple):
    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def endpoints_of(section: RegistrySection) -> list[Endpoint]:
    """Return the endpoints, whose form the config has checked."""
    parts = [urlsplit(text) for text in section.endpoints]
    return [Endpoint(part.scheme, part.hostname or "", part.port or 0) for part in parts]


class Tls(NamedTuple):
    """Files of a TLS connection; empty: none."""

    ca: str
    cert: str
    key: str


def tls_of(section: RegistrySection, *, is_used: bool) -> Tls:
    """Return the files that the config names, or the system's authorities.

    :raises Unusable: when others can write them, or read the key.
    """
    if not is_used:
        if section.ca_file or section.cert_file:
            raise Unusable("caFile and certFile are for endpoints with https")
        return Tls("", "", "")
    cert = require_trusted("certFile", section.cert_file) if section.cert_file else ""
    key = require_private("keyFile", section.key_file) if section.key_file else ""
    return Tls(_authorities(section.ca_file), cert, key)


def _authorities(path: str) -> str:
    if path:
        return require_trusted("caFile", path)
    found = next((each for each in _SYSTEM_CAS if os.path.exists(each)), None)
    if found is None:
        raise Unusable("caFile is missing, and this host has no file of certificate authorities")
    return found


class _Sockets:
    """The connections of a session."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: weakref.WeakSet[socket.socket] = weakref.WeakSet()

    def wait_for_ever(self) -> None:
        with self._lock:
            for known in list(self._known):
                with contextlib.suppress(OSError):
                    known.settimeout(None)

    def add(self, found: socket.socket | None) -> None:
        if found is not None:
            with self._lock:
                self._known.add(found)

    def shut(self) -> None:
        """End every read of another thread at once; of TLS without a farewell, for which we would wait."""
        with self._lock:
            for known in list(self._known):
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(known, socket.SHUT_RDWR)


class _Adapter(HTTPAdapter):
    def __init__(self, sockets: _Sockets) -> None:
        self._sockets = sockets
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 (as the overridden one)
        super().init_poolmanager(*args, **kwargs)
        sockets = self._sockets

        class Plain(urllib3.connection.HTTPConnection):
            def connect(self) -> None:
                super().connect()
                sockets.add(self.sock)

        class Encrypted(urllib3.connection.HTTPSConnection):
            def connect(self) -> None:
                super().connect()
                sockets.add(self.sock)

        class PlainPool(urllib3.HTTPConnectionPool):
            ConnectionCls = Plain  # type: ignore[mutable-override]

        class EncryptedPool(urllib3.HTTPSConnectionPool):
            ConnectionCls = Encrypted  # type: ignore[mutable-override]

        self.poolmanager.pool_classes_by_scheme = {"http": PlainPool, "https": EncryptedPool}


class BoundedSession(requests.Session):
    """A session that follows no redirect and reads no environment, and can be ended by another thread."""

    def __init__(self, tls: Tls) -> None:
        super().__init__()
        self._sockets = _Sockets()
        self.trust_env = False
        self.max_redirects = 0
        self.verify = tls.ca or True
        self.cert = (tls.cert, tls.key) if tls.cert else None
        for scheme in ("http://", "https://"):
            self.mount(scheme, _Adapter(self._sockets))

    def shut(self) -> None:
        """End every call and stream of this session."""
        self._sockets.shut()

    def wait_for_ever(self) -> None:
        """Let streams be silent; `shut` ends them."""
        self._sockets.wait_for_ever()

    @contextlib.contextmanager
    def limit(self, seconds: float) -> Iterator[None]:
        """Let what is called inside end after so long.

        :raises TooSlow: when it has not ended by itself.
        """
        is_late = threading.Event()

        def expire() -> None:
            is_late.set()
            self.shut()

        timer = threading.Timer(seconds, expire)
        timer.daemon = True
        timer.start()
        try:
            yield
        except Exception:
            if is_late.is_set():
                raise TooSlow from None
            raise
        finally:
            timer.cancel()


def failure_of(error: BaseException, endpoint: Endpoint) -> StoreFailed:
    """Return what an exception of requests, urllib3 or a library above them means."""
    chain = list(_chain(error))
    for each in chain:
        if isinstance(each, ssl.SSLCertVerificationError):
            return Unusable(f"{endpoint}: its certificate is not accepted: {each.verify_message}")
        if isinstance(each, ssl.SSLError):
            return _tls_failure(each, endpoint)
    for each in chain:
        if isinstance(each, urllib3.exceptions.NewConnectionError | urllib3.exceptions.ConnectTimeoutError):
            return NotSent(f"{endpoint}: {_words(chain)}")
    if any(isinstance(each, requests.TooManyRedirects) for each in chain):
        return Unusable(f"{endpoint} redirects to another place, and is not asked again")
    return Unreachable(f"{endpoint}: {_words(chain)}")


def _tls_failure(error: ssl.SSLError, endpoint: Endpoint) -> StoreFailed:
    reason = (error.reason or str(error)).lower().replace("_", " ")
    if "alert" in reason:
        return Denied(f"{endpoint} refuses this host's certificate, or its absence: {reason}")
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return Unreachable(f"{endpoint}: the connection was closed")
    return Unusable(f"{endpoint} does not speak TLS as we do: {reason}")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and what it was made of, the outermost first."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        each = waiting.pop(0)
        if not isinstance(each, BaseException) or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        waiting += [getattr(each, "reason", None), *each.args, each.__cause__, each.__context__]


def _words(chain: list[BaseException]) -> str:
    """Return the innermost reason."""
    for each in reversed(chain):
        if isinstance(each, OSError) and each.strerror and not isinstance(each, TimeoutError):
            return each.strerror
    if any(isinstance(each, TimeoutError | urllib3.exceptions.TimeoutError) for each in chain):
        return "no answer in time"
    return "the connection was closed"
