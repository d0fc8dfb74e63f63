"""What etcd's gateway may answer, and what an enemy may."""

from __future__ import annotations

from typing import Any

import pytest

from cni_plugins.contract.registry_config import RegistrySection
from cni_plugins.registries import etcd
from cni_plugins.registries.etcd_gateway import Gateway
from cni_plugins.registries.store import Denied, Item, StoreFailed, Unreachable, Unusable

GATEWAY = Gateway(RegistrySection(type="etcd", endpoints=["http://127.0.0.1:1"]))


@pytest.mark.parametrize(
    ("message", "kind", "words"),
    [
        ({"error": {"grpc_code": 14, "message": "etcdserver: no leader"}}, Unreachable, "no leader"),
        ({"error": "etcdserver: permission denied"}, Denied, "permission denied"),
        ({"result": {"canceled": True, "compact_revision": "17"}}, Unreachable, "compacted up to 17"),
        ({"result": {"canceled": True, "cancel_reason": "permission denied"}}, Denied, "permission denied"),
        ({"result": {"canceled": True}}, StoreFailed, "the watch was canceled"),
        ({"result": []}, Unusable, "sends no watch"),
        ({"result": {"compact_revision": "many"}}, Unusable, "no number"),
        ([], Unusable, "sends no watch"),
    ],
)  # fmt: skip
def test_a_watch_that_is_over_is_never_taken_for_a_quiet_one(
    message: Any, kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        etcd._result(message, GATEWAY)


def test_a_message_of_a_watch_has_a_result() -> None:
    assert etcd._result({"result": {"created": True}}, GATEWAY) == {"created": True}
    assert etcd._result({"result": {"events": [1], "header": {}}}, GATEWAY)["events"] == [1]


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("etcdserver: request timed out", Unreachable),
        ("etcdserver: leader changed", Unreachable),
        ("etcdserver: mvcc: database space exceeded", StoreFailed),
        ("etcdserver: user name is empty", Denied),
        ("etcdserver: authentication failed, invalid user ID or password", Denied),
        ("etcdserver: invalid auth token", Denied),
        ("etcdserver: something new", StoreFailed),
    ],
)
def test_words_of_etcd_have_a_kind(words: str, kind: type[Exception]) -> None:
    failure = GATEWAY.failure(words)
    assert type(failure) is kind
    assert words in str(failure)


@pytest.mark.parametrize(
    "kv",
    [
        {"key": "!", "mod_revision": "1"},
        {"key": "YQ==", "value": 7, "mod_revision": "1"},
        {"mod_revision": {}},
    ],
)
def test_a_key_that_cannot_be_read_is_no_traceback(kv: dict[str, Any]) -> None:
    with pytest.raises(Unusable):
        (etcd._item(kv), etcd._name(kv, "/"))


def test_keys_are_read_as_the_gateway_writes_them() -> None:
    kv = {"key": "L3AvYQ==", "value": "MQ==", "mod_revision": "7"}
    assert etcd._item(kv) == Item(b"1", 7)
    assert etcd._name(kv, "/p/") == "a"
    assert etcd._name(kv, "/") == ""
    with pytest.raises(Unusable):
        etcd._kvs({"kvs": [1]})
