"""hostPort and bandwidth through containerd's CRI, with the lists that Kubernetes distributions write."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.lab import containerd, network
from tests.e2e.lab.agent import wait_for
from tests.e2e.lab.chain import (
    K3S,
    KIND,
    KUBERNETES,
    OVERLAY,
    Chain,
    Json,
    look,
    netns_of_host,
    published,
)
from tests.e2e.lab.host import Host, raise_host
from tests.e2e.lab.lives import agent_if, cri_client
from tests.e2e.lab.ports import NOBODY, Servers, ask, serving
from tests.e2e.lab.state import State, differences, settled

if TYPE_CHECKING:
    from tests.e2e.lab.cri import Cri, Pod

pytestmark = pytest.mark.needs("containerd", "ctr", "runc", "busybox", "nft", "tc", "python:grpc")

HOST, OUTSIDE, HOST6, OUTSIDE6 = "192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"
PORTS = [published(port) for port in ("8080:80/tcp", "8053:53/udp", f"{HOST}:8081:81/tcp")]
BANDWIDTH = {"kubernetes.io/ingress-bandwidth": "10M", "kubernetes.io/egress-bandwidth": "5M"}
NETWORKS = {"kind": KIND, "k3s": K3S, "overlay": OVERLAY, "kubernetes": KUBERNETES}


class Node:
    """A node with containerd, where its pods answer."""

    def __init__(self, host: Host, cri: Cri, servers: Servers) -> None:
        self.host, self.cri, self.servers = host, cri, servers
        self.here, self.outside = netns_of_host(host), host.path("/run/netns/outside")

    def use(self, conf: Json) -> None:
        """Have containerd take a list for its network."""
        Chain(self.host, conf).install()
        wait_for("the network", lambda: conf["name"] in self.cri.networks())

    @contextmanager
    def pod(self, name: str, **asked: Any) -> Iterator[Pod]:
        """A pod that serves; it is stopped twice and removed, so DEL is called with and without its netns."""
        pod = self.cri.run_pod(name, **asked)
        try:
            addresses = tuple(pod.addresses)
            self.servers.add(
                self.host.path(pod.netns), name, "80/tcp", "53/udp", "81/tcp", addresses=addresses
            )
            yield pod
        finally:
            self.servers.remove(name)
            self.cri.stop_pod(pod)
            self.cri.stop_pod(pod)
            self.cri.remove_pod(pod)

    def asks_from(self, pod: Pod, address: str, port: int, protocol: str = "tcp") -> str:
        """Who answers the pod. It binds its address, as sbr leaves it no other route."""
        own = next(item for item in pod.addresses if (":" in item) == (":" in address))
        return ask(self.host.path(pod.netns), address, port, protocol, source=own)


@pytest.fixture(scope="module", params=[False, True], ids=["cold", "warm"])
def node(
    request: pytest.FixtureRequest, dist: Path, busybox: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Node]:
    log = tmp_path_factory.mktemp("containerd") / "log"
    with raise_host(dist, runtimes=True) as host, serving() as servers:
        network.serve_outside(host)
        with (
            containerd.running(host, busybox, log),
            agent_if(host, log.with_name("agent"), warm=request.param),
            cri_client(host) as cri,
        ):
            yield Node(host, cri, servers)


@pytest.fixture(params=NETWORKS)
def conf(request: pytest.FixtureRequest, node: Node) -> Json:
    conf: Json = NETWORKS[request.param]
    node.use(conf)
    return conf


@pytest.fixture
def idle(node: Node, conf: Json) -> State:
    """The state to come back to: after a first pod of the network, as its bridge stays."""
    with node.pod("first", ports=PORTS, annotations=BANDWIDTH):
        pass
    return look(node.host)


def is_capable(conf: Json, capability: str) -> bool:
    return any(plugin.get("capabilities", {}).get(capability) for plugin in conf["plugins"])


def test_a_host_port_is_reached_from_everywhere(node: Node, conf: Json, idle: State) -> None:
    """From another host with its source kept, from the host itself, from another pod and from the pod."""
    with node.pod("web", ports=PORTS, annotations=BANDWIDTH) as web, node.pod("other") as other:
        for port, protocol in ((8080, "tcp"), (8053, "udp")):
            assert ask(node.outside, HOST, port, protocol) == f"web {OUTSIDE}"
            for address in ("127.0.0.1", HOST):
                assert ask(node.here, address, port, protocol).startswith("web ")
            for pod in (other, web):
                assert node.asks_from(pod, HOST, port, protocol).startswith("web ")
            if len(web.addresses) > 1:
                assert ask(node.outside, HOST6, port, protocol) == f"web {OUTSIDE6}"
                assert node.asks_from(other, HOST6, port, protocol).startswith("web ")
        assert ask(node.outside, HOST, 8081) == f"web {OUTSIDE}"
        assert ask(node.here, "127.0.0.1", 8081, patience=0.5) == NOBODY
        assert_limited(node.host, limited=is_capable(conf, "bandwidth"))
    assert ask(node.outside, HOST, 8080, patience=0.5) == NOBODY
    changes = differences(idle, settled(lambda: look(node.host), idle))
    assert not changes, "\n".join(changes)


def assert_limited(host: Host, *, limited: bool) -> None:
    """One pod of two has the annotations: 10 Mbit/s towards it, 5 Mbit/s from it."""
    buckets = [line for line in look(host)["qdiscs"] if line.startswith("qdisc tbf")]
    rates = sorted(line.partition(" rate ")[2].split()[0] for line in buckets)
    assert rates == (["10Mbit", "5Mbit"] if limited else [])


def test_a_host_port_of_a_living_pod_is_not_given_twice(node: Node, conf: Json, idle: State) -> None:
    """The pod that is refused leaves nothing, and the other one keeps what it has."""
    import grpc  # type: ignore[import-untyped]

    assert is_capable(conf, "portMappings")
    with node.pod("web", ports=PORTS):
        alone = look(node.host)
        with pytest.raises(grpc.RpcError, match="host port 8080/tcp is published by another container"):
            node.cri.run_pod("twin", ports=PORTS[:1])
        changes = differences(alone, settled(lambda: look(node.host), alone))
        assert not changes, "\n".join(changes)
        assert ask(node.outside, HOST, 8080) == f"web {OUTSIDE}"
    changes = differences(idle, settled(lambda: look(node.host), idle))
    assert not changes, "\n".join(changes)
