"""Defines the keys by which a config names a store, for every plugin and command that has one.

Plugins only validate them: the keeper reads the store, and leaves what it found in a file (snapshot.py).
"""

import os
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PlainValidator, model_validator

from cni_plugins.contract.model import ClosedModel, empty
from cni_plugins.protocol.fields import get, shown

PREFIX = "/cni-plugins"
FLANNEL_PREFIX = "/coreos.com/network"  # flanneld's -etcd-prefix
KINDS = ("etcd", "consul", "zookeeper")
_LONGEST_NODE = 253  # RFC 1035, 2.3.4
_LARGEST_PORT = 65535


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected a string, got {shown(value)}")  # noqa: TRY004 (pydantic collects ValueErrors)
    return value


def _file(value: object) -> str:
    path = _text(value)
    if not os.path.isabs(path) or "\0" in path:
        raise ValueError(f"{shown(path)} must be an absolute path")
    return path


def _prefix(value: object) -> str:
    text = _text(value)
    parts = text.strip("/").split("/")
    plain = all(part and part not in (".", "..") and part.isprintable() for part in parts)
    if not text.startswith("/") or not plain or " " in text:
        raise ValueError(f"prefix {shown(text)} must be a path such as {PREFIX}")
    return "/" + "/".join(parts)


def _node(value: object) -> str:
    text = _text(value)
    if not text.isprintable() or "/" in text or " " in text or len(text) > _LONGEST_NODE:
        raise ValueError(f"node {shown(text)} is no host name")
    return text


File = Annotated[str, PlainValidator(_file)]


class RegistrySection(ClosedModel):
    """The store that a section names.

    Files are absolute paths, empty for none.

    :param endpoints: etcd and consul: URLs; zookeeper: host:port.
    :param prefix: where the keys begin; by default where this layout has them.
    :param node: name of this host in the store; empty: its host name.
    :param reclaim_after: seconds after which others may take what belongs to a host that is away; 0: never.
    """

    type: Literal["etcd", "consul", "zookeeper"]
    endpoints: list[str] = Field(default_factory=empty)
    prefix: Annotated[str, PlainValidator(_prefix)] = PREFIX
    node: Annotated[str, PlainValidator(_node)] = ""
    layout: Literal["cni-plugins", "flannel"] = "cni-plugins"
    ca_file: File = ""
    cert_file: File = ""
    key_file: File = ""
    username: str = ""
    password_file: File = ""
    token_file: File = ""
    datacenter: str = ""
    reclaim_after: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="before")
    @classmethod
    def _prefix_of_layout(cls, value: Any) -> Any:  # noqa: ANN401 (not yet validated)
        if isinstance(value, dict) and get(value, "layout") == "flannel" and get(value, "prefix") is None:
            return {**value, "prefix": FLANNEL_PREFIX}
        return value

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.endpoints:
            raise ValueError("endpoints is missing")
        for endpoint in self.endpoints:
            _require_endpoint(endpoint, self.type)
        if bool(self.cert_file) != bool(self.key_file):
            raise ValueError("certFile and keyFile go together")
        if bool(self.username) != bool(self.password_file):
            raise ValueError("username and passwordFile go together")
        for key, given, kinds in self._keys_of_some():
            if given and self.type not in kinds:
                raise ValueError(f"{key} is a key of {' and '.join(kinds)}, and type is {self.type}")
        return self

    def _keys_of_some(self) -> tuple[tuple[str, bool, tuple[str, ...]], ...]:
        return (
            ("tokenFile", bool(self.token_file), ("consul",)),
            ("datacenter", bool(self.datacenter), ("consul",)),
            ("username", bool(self.username), ("etcd", "zookeeper")),
            ("layout flannel", self.layout == "flannel", ("etcd",)),
        )


def _require_endpoint(text: str, kind: str) -> None:
    """:raises ValueError: for what is neither a URL, or, of ZooKeeper, host:port."""
    scheme, separator, rest = text.partition("://")
    if kind == "zookeeper":
        rest = text if not separator else ""
    elif scheme not in ("http", "https"):
        rest = ""
    host, _, port = rest.removesuffix("/").rpartition(":")
    number = int(port) if port.isascii() and port.isdigit() else 0
    plain = host and "@" not in host and "/" not in host and host.isprintable() and " " not in host
    if not plain or not 0 < number <= _LARGEST_PORT:
        example = "192.0.2.1:2181" if kind == "zookeeper" else "https://192.0.2.1:2379"
        raise ValueError(f"endpoint {shown(text)} must have the form {example}, without user or path")
