"""Calls the JSON gateway of an etcd cluster, through the library etcd3gw.

Tells what failed: the connection, what answers, or etcd.
"""

import json
import time
from collections.abc import Callable
from typing import Any, TypeVar

import requests
from etcd3gw.client import Etcd3Client
from etcd3gw.exceptions import Etcd3Exception

from cni_plugins.contract.registry_config import RegistrySection
from cni_plugins.registries.http import (
    CALL,
    CONNECT,
    READ,
    WHOLE,
    BoundedSession,
    Endpoint,
    NotSent,
    TooSlow,
    endpoints_of,
    failure_of,
    tls_of,
)
from cni_plugins.registries.secrets import Secret, redact
from cni_plugins.registries.store import Denied, StoreFailed, Unreachable, Unusable

_API = "/v3/"  # etcd 3.4 and newer
# Members without a leader answer at once then, instead of after 7 s.
_HEADERS = {"Grpc-Metadata-Hasleader": "true"}
_EXPIRED = ("invalid auth token", "revision of auth store is old")
_DENIED = (
    "permission denied",
    "user name is empty",
    "authentication failed",
    "invalid user",
    "user name not found",
)
_AWAY = (
    "no leader",
    "timed out",
    "leader changed",
    "not leader",
    "server stopped",
    "too many requests",
    "unhealthy cluster",
    "not capable",
    "deadline exceeded",
    "connection error",
    "transport is closing",
    "connection refused",
)


T = TypeVar("T")


class _Refusal(Exception):
    """The gateway's answer is an error of etcd's."""


class Gateway:
    """Calls to the JSON gateway of any endpoint, of one thread; another one may shut it."""

    def __init__(self, section: RegistrySection) -> None:
        self._section = section
        self._endpoints = endpoints_of(section)
        tls = tls_of(section, is_used=any(each.scheme == "https" for each in self._endpoints))
        self._session = BoundedSession(tls)
        self._session.headers.update(_HEADERS)
        self._clients = [_client(each, self._session) for each in self._endpoints]
        self._current = 0
        self._answered: set[int] = set()
        self._user = section.username
        self._password = Secret("passwordFile", section.password_file) if section.username else None
        self._token = ""

    @property
    def endpoint(self) -> Endpoint:
        return self._endpoints[self._current]

    def here(self) -> "Gateway":
        """Return another one of the same endpoint only, for another thread."""
        return Gateway(self._section.model_copy(update={"endpoints": [str(self.endpoint)]}))

    def call(self, path: str, body: dict[str, Any], *, is_read: bool = True) -> dict[str, Any]:
        """:param is_read: asking twice does no harm."""

        def post(client: Etcd3Client) -> dict[str, Any]:
            found = client.post(client.get_url(path), json=body)
            if not isinstance(found, dict):
                raise Unusable(f"{self.endpoint} does not answer as etcd's JSON gateway does")
            return found

        return self.use(post, is_read=is_read)

    def use(self, function: Callable[[Etcd3Client], T], *, is_read: bool = True) -> T:
        """Call a function with the client of an endpoint: the one that answered last, then the others."""
        end = time.monotonic() + CALL
        for left in reversed(range(len(self._clients))):
            try:
                return self._signed_in(function, end)
            except Denied:
                raise
            except StoreFailed as failure:
                self._current = (self._current + 1) % len(self._clients)
                may_repeat = is_read or isinstance(failure, NotSent | Unusable)
                if not may_repeat or not left or time.monotonic() > end - 1:
                    raise
        raise AssertionError("there is an endpoint")

    def stream(self, path: str, body: dict[str, Any]) -> requests.Response:
        """Begin a call whose answer does not end; `shut` ends it. Nothing is tried again."""

        def post(client: Etcd3Client) -> requests.Response:
            url = client.get_url(path)
            response = self._session.post(url, json=body, stream=True, timeout=(CONNECT, READ))
            if response.status_code != requests.codes["ok"]:
                raise Etcd3Exception(response.text, response.reason)
            return response

        response = self._signed_in(post, time.monotonic() + CALL)
        self._session.wait_for_ever()
        return response

    def shut(self) -> None:
        self._session.shut()

    def close(self) -> None:
        self._session.close()

    def _signed_in(self, function: Callable[[Etcd3Client], T], end: float) -> T:
        if self._password is not None and not self._token:
            self._sign_in(self._password, end)
        try:
            return self._once(function, end)
        except _Refusal as refusal:
            if not _has(str(refusal), _EXPIRED) or self._password is None:
                raise self.failure(str(refusal)) from None
        self._sign_in(self._password, end)  # etcd looks at the token before it does anything
        try:
            return self._once(function, end)
        except _Refusal as refusal:
            raise self.failure(str(refusal)) from None

    def _sign_in(self, password: Secret, end: float) -> None:
        self._session.headers.pop("Authorization", None)
        body = {"name": self._user, "password": password.text()}
        try:
            found = self._once(lambda c: c.post(c.get_url("auth/authenticate"), json=body), end)
        except _Refusal as refusal:
            if "authentication is not enabled" in str(refusal):
                self._token = "-"  # noqa: S105 (there is none: the server needs none)
                return
            raise self.failure(str(refusal)) from None
        self._token = str(found.get("token", "")) if isinstance(found, dict) else ""
        self._session.headers["Authorization"] = self._token

    def _once(self, function: Callable[[Etcd3Client], T], end: float) -> T:
        """:raises _Refusal: with etcd's own words."""
        number = self._current
        try:
            with self._session.limit(max(1.0, min(WHOLE, end - time.monotonic()))):
                found = function(self._clients[number])
        except TooSlow:
            raise Unreachable(f"{self.endpoint}: no answer in time") from None
        except Etcd3Exception as error:
            if error.__context__ is None or not isinstance(error.__context__, requests.RequestException):
                raise self._refusal(error) from None
            raise self._unanswered(error.__context__) from None
        except (requests.JSONDecodeError, KeyError, TypeError):
            raise Unusable(f"{self.endpoint} does not answer as etcd's JSON gateway does") from None
        except (requests.RequestException, OSError) as error:
            raise self._unanswered(error) from None
        self._answered.add(number)
        return found

    def _unanswered(self, error: BaseException) -> StoreFailed:
        failure = failure_of(error, self.endpoint)
        is_cut = type(failure) is Unreachable and not isinstance(error, requests.Timeout)
        if is_cut and self._current not in self._answered:
            # What a gRPC-only port does with HTTP/1.1.
            return Unusable(
                f"{self.endpoint} takes connections and answers no HTTP request: no JSON gateway of etcd "
                "(--enable-grpc-gateway; with --listen-client-http-urls, as in k3s, it is at that address)"
            )
        return failure

    def _refusal(self, error: Etcd3Exception) -> Exception:
        """Return what an answer with another status than 200 says."""
        text = error.detail_text or ""
        try:
            found = json.loads(text)
            inner = found["error"]
            words = str(inner["message"] if isinstance(inner, dict) else inner)
        except (ValueError, KeyError, TypeError, AttributeError):
            status = " ".join(str(each) for each in error.args)
            if status in ("Service Unavailable", "Bad Gateway", "Gateway Timeout"):
                return Unreachable(f"{self.endpoint}: {status}")
            return Unusable(
                f"{self.endpoint} has no JSON gateway of etcd 3.4 or newer: {status} "
                "(is --enable-grpc-gateway off, or is it another server?)"
            )
        self._answered.add(self._current)
        return _Refusal(words)

    def failure(self, words: str) -> StoreFailed:
        """Return what etcd's own words mean."""
        secrets = (self._password.known() if self._password else "", self._token)
        text = f"{self.endpoint}: {redact(words, secrets)}"
        if _has(words, _DENIED):
            return Denied(text)
        if "database space exceeded" in words:
            return StoreFailed(
                f"{text}: etcd is full (alarm NOSPACE) and takes no writes; compact, defragment, disarm"
            )
        if _has(words, _AWAY):
            return Unreachable(text)
        if _has(words, _EXPIRED):
            return Denied(f"{text}: the server wants a user, see username and passwordFile")
        return StoreFailed(text)


def _client(endpoint: Endpoint, session: BoundedSession) -> Etcd3Client:
    return Etcd3Client(
        host=endpoint.host,
        port=endpoint.port,
        protocol=endpoint.scheme,
        timeout=(CONNECT, READ),  # type: ignore[arg-type]  # (requests takes both)
        api_path=_API,
        session=session,
    )


def _has(text: str, words: tuple[str, ...]) -> bool:
    return any(word in text for word in words)
