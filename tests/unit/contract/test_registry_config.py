from typing import Any

import pytest

from cni_plugins.contract.model import load
from cni_plugins.contract.registry_config import RegistrySection
from cni_plugins.errors import InvalidNetworkConfig

ETCD = {"type": "etcd", "endpoints": ["http://192.0.2.1:2379"]}


def section(**keys: Any) -> RegistrySection:
    return load(RegistrySection, {**ETCD, **keys})


def test_the_defaults() -> None:
    found = section()
    assert (found.prefix, found.node, found.layout, found.reclaim_after) == (
        "/cni-plugins",
        "",
        "cni-plugins",
        0,
    )


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"endpoints": []}, "endpoints is missing"),
        ({"endpoints": ["192.0.2.1:2379"]}, "must have the form https://192.0.2.1:2379"),
        ({"endpoints": ["http://user:secret@192.0.2.1:2379"]}, "without user or path"),
        ({"endpoints": ["http://192.0.2.1"]}, "must have the form"),
        ({"endpoints": ["http://192.0.2.1:0"]}, "must have the form"),
        ({"endpoints": ["http://192.0.2.1:2379/v3"]}, "must have the form"),
        ({"type": "zookeeper"}, "must have the form 192.0.2.1:2181"),
        ({"prefix": "cni"}, "must be a path such as /cni-plugins"),
        ({"prefix": "/a/../b"}, "must be a path such as"),
        ({"prefix": "/"}, "must be a path such as"),
        ({"node": "a/b"}, "is no host name"),
        ({"caFile": "ca.pem"}, "must be an absolute path"),
        ({"certFile": "/c.pem"}, "certFile and keyFile go together"),
        ({"username": "root"}, "username and passwordFile go together"),
        ({"tokenFile": "/t"}, "tokenFile is a key of consul, and type is etcd"),
        ({"datacenter": "dc1"}, "datacenter is a key of consul, and type is etcd"),
        ({"type": "consul", "layout": "flannel"}, "layout flannel is a key of etcd, and type is consul"),
        ({"reclaimAfter": -1}, "greater than or equal to 0"),
        ({"password": "secret"}, "unknown key"),
        ({"type": "redis"}, "'etcd', 'consul' or 'zookeeper'"),
    ],
)
def test_what_is_refused(keys: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidNetworkConfig) as refused:
        section(**keys)
    assert text in refused.value.msg + refused.value.details


def test_zookeeper_has_hosts_and_ports() -> None:
    found = section(type="zookeeper", endpoints=["192.0.2.1:2181", "[fd00::1]:2181"])
    assert len(found.endpoints) == 2
