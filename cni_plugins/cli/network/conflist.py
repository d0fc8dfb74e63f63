"""Builds the list of plugins for a network, with pure functions from what its creator wants."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from ipaddress import ip_address
from typing import Any

from cni_plugins.cli.network.wish import Wish, subnet_of
from cni_plugins.ownership import digest
from cni_plugins.protocol.fields import IPAddress, IPNetwork
from cni_plugins.protocol.result import NOTHING
from cni_plugins.upkeep.networks.files import OURS

VERSION = "1.0.0"  # podman 4 and containerd 1.6 refuse results of 1.1.0
_IPV4, _IPV6 = 4, 6
_DEFAULT = {_IPV4: "0.0.0.0/0", _IPV6: "::/0"}
_SUBNET_LEN, _BLOCK_LEN, _LONGEST = 24, 28, 30


def bridge_of(wish: Wish) -> str:
    """Return the bridge's name, of at most 15 bytes, also with a dot and a VLAN."""
    digits = 7 if "vlan" in wish.options else 12
    return str(wish.options.get("bridge") or f"br-{digest(wish.name, digits)}")


def conflist(
    wish: Wish,
    subnets: Sequence[IPNetwork],
    links: Collection[str] = (),
    overlay: Mapping[str, Any] = NOTHING,
    registry: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the document.

    :param links: names of the host's links, to tell a VLAN to be created from a link that is there.
    :param overlay: keys of the vxlan plugin that are not the creator's: backend, vni.
    :param registry: of a network of many hosts: the store in which they divide the addresses of a wire.
    """
    mark: dict[str, Any] = {"labels": dict(wish.labels)}
    if wish.internal:
        mark["internal"] = True
    return {
        "cniVersion": VERSION,
        "name": wish.name,
        OURS: mark,
        "plugins": [*_plugins(wish, subnets, links, overlay, registry)],
    }


def _plugins(
    wish: Wish,
    subnets: Sequence[IPNetwork],
    links: Collection[str],
    overlay: Mapping[str, Any],
    registry: Mapping[str, Any] | None,
) -> Iterator[dict[str, Any]]:
    match wish.driver:
        case "bridge":
            yield _bridge(wish, subnets)
        case "macvlan":
            yield _macvlan(wish, subnets, links, registry)
            return
        case "ptp":
            yield _ptp(wish, subnets)
        case _:
            yield _vxlan(wish, subnets, overlay)
    if wish.ipam == "none":  # nothing to publish, nothing to let through
        return
    if not wish.internal:
        yield {"type": "portmap", "capabilities": {"portMappings": True}}
    yield _firewall(wish)


def _firewall(wish: Wish) -> dict[str, Any]:
    """Return the plugin that lets packets through; Docker's bridges are kept apart from each other."""
    if wish.driver != "bridge":
        return {"type": "firewall"}
    apart = "same-bridge" if wish.options.get("icc", True) else "isolated"
    return {"type": "firewall", "ingressPolicy": apart}


def _bridge(wish: Wish, subnets: Sequence[IPNetwork]) -> dict[str, Any]:
    """Return the plugin's config; an internal bridge has no address, and no container a route through it."""
    routed = not wish.internal and wish.gives_out
    return {
        "type": "bridge",
        "bridge": bridge_of(wish),
        **({"isDefaultGateway": True, "ipMasq": wish.options.get("masquerade", True)} if routed else {}),
        **({"internal": True} if wish.internal else {}),
        "hairpinMode": True,
        "removeIdleBridge": True,
        **_mtu(wish, automatic=True),
        **({"vlan": wish.options["vlan"]} if "vlan" in wish.options else {}),
        "capabilities": _CAPABILITIES,
        **_ipam(wish, subnets),
    }


_CAPABILITIES = {"ips": True, "mac": True, "ipRanges": True}


def _ptp(wish: Wish, subnets: Sequence[IPNetwork]) -> dict[str, Any]:
    return {
        "type": "ptp",
        "ipMasq": wish.options.get("masquerade", not wish.internal),
        **_mtu(wish, automatic=True),
        "capabilities": _CAPABILITIES,
        **_ipam(wish, subnets, routes=not wish.internal),
    }


def _macvlan(
    wish: Wish,
    subnets: Sequence[IPNetwork],
    links: Collection[str],
    registry: Mapping[str, Any] | None,
) -> dict[str, Any]:
    return {
        "type": "macvlan",
        **_master(str(wish.options.get("parent", "")), links),
        "mode": wish.options.get("mode", "bridge"),
        **_mtu(wish),
        "capabilities": _CAPABILITIES,
        **(_ipam(wish, subnets, routes=True) if registry is None else _divided(wish, subnets, registry)),
    }


def _master(parent: str, links: Collection[str]) -> dict[str, Any]:
    """Return link and VLAN: `eth0.10` is a VLAN of eth0, unless there is a link of that name."""
    base, _, vlan = parent.rpartition(".")
    if parent in links or not base or not vlan.isascii() or not vlan.isdigit():
        return {"master": parent} if parent else {}
    return {"master": base, "vlan": int(vlan)}


def _vxlan(wish: Wish, subnets: Sequence[IPNetwork], overlay: Mapping[str, Any]) -> dict[str, Any]:
    options = wish.options
    return {
        "type": "vxlan",
        "mode": wish.mode,
        **overlay,
        **({"port": options["port"]} if "port" in options else {}),
        **(_routed if wish.mode == "l3" else _stretched)(wish, subnets),
        **({"isDefaultGateway": False} if wish.internal else {}),
        "ipMasq": options.get("masquerade", not wish.internal),
        **_mtu(wish),
        "capabilities": _CAPABILITIES,
    }


def _routed(wish: Wish, subnets: Sequence[IPNetwork]) -> dict[str, Any]:
    """Return the keys of mode l3: a network, and the length of the hosts' parts of it."""
    first = next((net for net in subnets if net.version == _IPV4), None)
    found: dict[str, Any] = {"network": [*map(str, subnets)]}
    if first is not None:
        found["subnetLen"] = wish.options.get("subnet_len", part_length(first.prefixlen, _SUBNET_LEN))
    if wish.internal:  # the way to containers of other hosts
        found["ipam"] = {"routes": [{"dst": str(net)} for net in subnets]}
    return found


def _stretched(wish: Wish, subnets: Sequence[IPNetwork]) -> dict[str, Any]:
    first = min(subnets, key=lambda net: net.version)
    longest = _BLOCK_LEN if first.version == _IPV4 else 124
    gateways = {"gateway": [*map(str, wish.gateways)]} if wish.gateways else {}
    length = wish.options.get("block_len", part_length(first.prefixlen, longest))
    return {"subnet": [*map(str, subnets)], "blockLen": length, **gateways}


def part_length(network: int, usual: int) -> int:
    """Return the prefix length of a host's part: the usual one, if there are at least sixteen of it."""
    return usual if network + 4 <= usual else max(usual, min(network + 4, max(_LONGEST, usual)))


def _mtu(wish: Wish, *, automatic: bool = False) -> dict[str, Any]:
    if "mtu" in wish.options:
        return {"mtu": wish.options["mtu"]}
    return {"mtuAuto": True} if automatic else {}


# ------------------------------------------------------------------------------------------------ addresses


def _ipam(wish: Wish, subnets: Sequence[IPNetwork], *, routes: bool = False) -> dict[str, Any]:
    if wish.ipam == "none":
        return {}
    if wish.ipam == "dhcp":
        return {"ipam": {"type": "dhcp"}}
    versions = sorted({subnet.version for subnet in subnets})
    ipam: dict[str, Any] = {
        "type": "host-local",
        "ranges": [[*_ranges(wish, subnet, subnets)] for subnet in subnets],
    }
    if routes:
        ipam["routes"] = [{"dst": _DEFAULT[version]} for version in versions]
    return {"ipam": ipam}


def _divided(wish: Wish, subnets: Sequence[IPNetwork], registry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the IPAM of a wire that many hosts are on: each gives out blocks that it has claimed."""
    if not wish.gives_out:
        return _ipam(wish, subnets)
    versions = sorted({subnet.version for subnet in subnets})
    return {
        "ipam": {
            "type": "cluster",
            "ranges": [[_divided_range(wish, subnet, subnets)] for subnet in subnets],
            "routes": [{"dst": _DEFAULT[version]} for version in versions],
            "registry": dict(registry),
        }
    }


def _divided_range(wish: Wish, subnet: IPNetwork, subnets: Sequence[IPNetwork]) -> dict[str, Any]:
    """Return the part of a subnet that hosts divide: from the first to the last of its --ip-range."""
    ranges = [part for part in wish.ranges if subnet_of(part, subnets) == subnet]
    gateways = [one for one in wish.gateways if subnet_of(one, subnets) == subnet]
    aux = sorted(one for one in wish.aux.values() if subnet_of(one, subnets) == subnet)
    found: dict[str, Any] = {"subnet": str(subnet)}
    if gateways:
        found["gateway"] = str(gateways[0])
    if ranges:
        bounds = [_usable(subnet, part) for part in ranges]
        first, last = min(low for low, _ in bounds), max(high for _, high in bounds)
        found |= {"rangeStart": str(_address(subnet, first)), "rangeEnd": str(_address(subnet, last))}
    if aux:
        found["exclude"] = [*map(str, aux)]
    return found


def _ranges(wish: Wish, subnet: IPNetwork, subnets: Sequence[IPNetwork]) -> Iterator[dict[str, str]]:
    """Yield the ranges of a subnet: what --ip-range leaves of it, without the auxiliary addresses."""

    def within(parts: Sequence[Any]) -> list[Any]:
        return [part for part in parts if subnet_of(part, subnets) == subnet]

    gateways = within(wish.gateways)
    gateway = {"gateway": str(gateways[0])} if gateways else {}
    aux = within([*wish.aux.values()])
    chosen = within(wish.ranges)
    if not chosen and not aux:
        yield {"subnet": str(subnet), **gateway}
        return
    for part in chosen or [subnet]:
        for first, last in _without(*_usable(subnet, part), sorted(map(int, aux))):
            start, end = (str(_address(subnet, number)) for number in (first, last))
            yield {"subnet": str(subnet), "rangeStart": start, "rangeEnd": end, **gateway}


def _usable(subnet: IPNetwork, part: IPNetwork) -> tuple[int, int]:
    """Return the first and last address of a part that a container can have."""
    highest = int(subnet.broadcast_address) - (1 if subnet.version == _IPV4 else 0)
    return max(int(part[0]), int(subnet[0]) + 1), min(int(part[-1]), highest)


def _without(first: int, last: int, excluded: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield what is left of a range."""
    for number in excluded:
        if first <= number <= last:
            if first < number:
                yield first, number - 1
            first = number + 1
    if first <= last:
        yield first, last


def _address(subnet: IPNetwork, number: int) -> IPAddress:
    packed = number.to_bytes(subnet.max_prefixlen // 8, "big")
    return ip_address(packed)
