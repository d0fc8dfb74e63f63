"""Three hosts of an overlay, as config, facts and requests."""

from collections.abc import Mapping
from ipaddress import ip_address, ip_interface
from typing import Any

from cni_plugins.contract.facts import Facts, LinkFacts
from cni_plugins.protocol.request import Request
from cni_plugins.vxlan.config import Overlay, parse
from cni_plugins.vxlan.local_host import LocalHost, find

PEERS: list[dict[str, Any]] = [
    {"node": f"h{n}", "vtep": f"10.99.0.{n}", "subnet": f"10.244.{n}.0/24"} for n in (1, 2, 3)
]
DUAL_PEERS: list[dict[str, Any]] = [
    {"node": f"h{n}", "vtep": f"10.99.0.{n}", "subnets": [f"10.244.{n}.0/24", f"fd00:{n}::/64"]}
    for n in (1, 2, 3)
]
BLOCKS: list[dict[str, Any]] = [
    {"node": f"h{n}", "vtep": f"10.99.0.{n}", "block": f"192.168.100.{16 * (n - 1)}/28"} for n in (1, 2, 3)
]
BARE = [f"10.99.0.{n}" for n in (1, 2, 3)]
STRETCHED: dict[str, Any] = {"mode": "l2", "subnet": "192.168.100.0/24", "backend": {"peers": BLOCKS}}
DUAL_STRETCHED = {**STRETCHED, "subnet": ["192.168.100.0/24", "fd64::/64"]}
GROUP = {"type": "multicast", "group": "239.7.7.7", "subnet": "10.244.1.0/24"}


def conf(peers: Any = None, **keys: Any) -> dict[str, Any]:
    """Return a config of mode l3 with three peers, unless the keys say otherwise."""
    backend = {"type": "static", **({"peers": PEERS} if peers is None else {"peers": peers})}
    within = {} if keys.get("mode") == "l2" else {"network": "10.244.0.0/16"}
    chosen = keys.pop("backend", {})
    if chosen.get("type") == "multicast" or "peersFile" in chosen:
        backend = {"type": "static", **chosen}
    else:
        backend |= chosen
    return {"name": "net1", "type": "vxlan", "vni": 77, **within, **keys, "backend": backend}


def request(command: Any = "ADD", *, keys: Mapping[str, Any] | None = None, **more: Any) -> Request:
    values = {"container_id": "c1", "netns": "/ns", "ifname": "eth0", "conf": conf(**(keys or {}))}
    return Request(command, "net1", **{**values, **more})


def parsed(**keys: Any) -> Overlay:
    return parse(request(keys=keys))


def link(name: str, *addresses: str, mtu: int = 1500, index: int = 2, **more: Any) -> LinkFacts:
    has = tuple(map(ip_interface, addresses))
    values = {"kind": "veth", "mac": "02:00:00:00:00:99", "up": True, **more}
    return LinkFacts(name, index, mtu=mtu, **{"addresses": has, "main_addresses": has, **values})


def facts(*links: LinkFacts, **more: Any) -> Facts:
    """Return what the kernel of host h1 says, or one with these links."""
    return Facts(addressed=links or (link("eth0", "10.99.0.1/24"),), has_sandbox=True, **more)


def local_host(overlay: Overlay, last: int = 1) -> LocalHost:
    """Return the place of the host whose address ends so."""
    return find(overlay, facts(link("eth0", f"10.99.0.{last}/24")))


def addresses(*texts: str) -> list[Any]:
    return [ip_address(text) for text in texts]
