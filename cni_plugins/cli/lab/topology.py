"""What a lab consists of: names, addresses, the config of each host. Decides all of it, looks at nothing.

All hosts of a lab share a bridge, so every two of them are neighbours on the underlay. Numbers are kept
readable: host 7 is h7, and 7 stands in each of its addresses.
"""

import re
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, ip_network
from typing import Any, Literal, NamedTuple

from cni_plugins.protocol.fields import IPAddress, IPNetwork

Mode = Literal["l2", "l3"]
Backend = Literal["static", "multicast"]
Bum = Literal["none", "head-end"]
DirectRouting = Literal["off", "same-subnet", "always"]

UPLINK = "eth0"  # of a host
MOST_HOSTS, MOST_CONTAINERS = 250, 100
OVERHEAD = {4: 50, 6: 70}

_NAME = re.compile(r"[a-z][a-z0-9]{0,14}")  # without the dash that parts of names are joined by
_UNDERLAY = {4: ip_network("10.99.0.0/16"), 6: ip_network("fd00:99::/64")}
_GROUP = {4: "239.7.7.7", 6: "ff05::7:7"}
_L3 = {4: ip_network("10.244.0.0/16"), 6: ip_network("fd00:244::/48")}
_L3_OWN = {4: 24, 6: 64}
_L2_FIRST, _L2_IPV6 = IPv4Address("10.245.0.0"), ip_network("fd00:245::/64")


class LabOptions(NamedTuple):
    """A lab as it was ordered.

    :param underlay: the version of IP.
    :param bum: for l2; empty: what suits the rest.
    :param zero_control: hosts know of each other no more than the addresses.
    :param mtu: of the overlay; 0: the plugin computes it.
    """

    name: str = "cnilab"
    hosts: int = 3
    containers: int = 1
    mode: Mode = "l3"
    backend: Backend = "static"
    underlay: int = 4
    dual_stack: bool = False
    bum: Bum | None = None
    direct_routing: DirectRouting | None = None
    zero_control: bool = False
    mtu: int = 0
    underlay_mtu: int = 1500


class Host(NamedTuple):
    """One host.

    :param own: its subnets (l3) or its block (l2).
    :param containers: names, each also that of a network namespace.
    """

    name: str
    netns: str
    vtep: IPAddress
    mac: str
    own: tuple[IPNetwork, ...]
    containers: tuple[str, ...]


class Lab(NamedTuple):
    """All of it.

    :param networks: of the overlay, IPv4 first.
    """

    options: LabOptions
    networks: tuple[IPNetwork, ...]
    hosts: tuple[Host, ...]

    @property
    def switch(self) -> str:
        return f"{self.options.name}-sw"

    @property
    def containers(self) -> tuple[tuple[Host, str], ...]:
        return tuple((host, container) for host in self.hosts for container in host.containers)


def plan(options: LabOptions) -> Lab:
    """:raises ValueError: when it cannot be had, with the reason"""
    fault = next(_faults(options), "")
    if fault:
        raise ValueError(fault)
    if options.mode == "l2" and options.zero_control:
        options = options._replace(bum="head-end")
    networks = _networks(options)
    return Lab(options, networks, tuple(_host(options, networks, n + 1) for n in range(options.hosts)))


def namespaces(lab: Lab) -> list[str]:
    return [lab.switch, *(name for host in lab.hosts for name in (host.netns, *host.containers))]


def is_part(netns: str, name: str) -> bool:
    """Say whether a network namespace is of the lab of this name, whatever its size."""
    return bool(re.fullmatch(rf"{re.escape(name)}-(sw|h\d+(-c\d+)?)", netns))


def peers(lab: Lab) -> list[Any]:
    """Return what one file tells all hosts of each other."""
    if lab.options.zero_control:
        return [str(host.vtep) for host in lab.hosts]
    key = "subnets" if lab.options.mode == "l3" else "blocks"
    return [
        {"node": host.name, "vtep": str(host.vtep), key: [str(own) for own in host.own]} for host in lab.hosts
    ]


def conf(lab: Lab, host: Host, peers_file: str, leases: str) -> dict[str, Any]:
    """Return the plugin's config on a host; of static hosts that know each other, only the leases differ."""
    options = lab.options
    chosen = {
        "mtu": options.mtu,
        "bum": options.bum,
        "directRouting": options.direct_routing,
        "underlay": {"interface": UPLINK} if options.backend == "multicast" else None,
    }
    return {
        "cniVersion": "1.1.0",
        "name": options.name,
        "type": "vxlan",
        "mode": options.mode,
        "network" if options.mode == "l3" else "subnet": _one_or_more(lab.networks),
        **{key: value for key, value in chosen.items() if value},
        "backend": _backend(options, host, peers_file),
        "ipam": {"type": "host-local", "dataDir": leases},
    }


def wires(lab: Lab) -> list[str]:
    """Return lines for `ip -batch`: the namespaces, and a link from each host to the switch."""
    pairs = [
        f"link add name {UPLINK} address {host.mac} mtu {lab.options.underlay_mtu} netns {host.netns}"
        f" type veth peer name {host.name} mtu {lab.options.underlay_mtu} netns {lab.switch}"
        for host in lab.hosts
    ]
    return [*(f"netns add {name}" for name in namespaces(lab)), *pairs]


def of_switch(lab: Lab) -> list[str]:
    """Return lines for `ip -batch` in the switch: a bridge, and every host a port of it."""
    ports = [f"link set {host.name} master br0 up" for host in lab.hosts]
    # Nobody asks here who listens to which group, so groups go to everybody.
    return ["link add br0 type bridge mcast_snooping 0", "link set br0 up", *ports]


def of_host(lab: Lab, host: Host) -> list[str]:
    """Return lines for `ip -batch` in a host: its address, and those of all others."""
    length = _UNDERLAY[lab.options.underlay].prefixlen
    nodad = " nodad" if host.vtep.version == 6 else ""  # noqa: PLR2004
    # The kernel counts the neighbours of all namespaces together, up to 1024 by default; not those that
    # are there for good. A hundred real hosts have a table each.
    others = [other for other in lab.hosts if other != host]
    return [
        "link set lo up",
        f"link set {UPLINK} up",
        f"address add {host.vtep}/{length} dev {UPLINK}{nodad}",
        *(f"neigh replace {other.vtep} lladdr {other.mac} dev {UPLINK} nud permanent" for other in others),
    ]


def _faults(options: LabOptions) -> Iterator[str]:
    multicast, l2 = options.backend == "multicast", options.mode == "l2"
    if not _NAME.fullmatch(options.name):
        yield f"a name has up to 15 small letters and digits, not {options.name!r}"
    if multicast and options.zero_control:
        yield "with multicast hosts know nothing of each other anyway: leave out --zero-control"
    if multicast and options.bum:
        yield "with multicast the group gets what is for all: leave out --bum"
    if options.bum and not l2:
        yield "--bum is for --mode l2"
    if options.zero_control and options.bum == "none":
        yield "with --zero-control somebody has to be asked for addresses: --bum head-end, not none"
    if options.direct_routing and l2:
        yield "--direct-routing is for --mode l3"


def _networks(options: LabOptions) -> tuple[IPNetwork, ...]:
    if options.mode == "l3":
        return (_L3[4], _L3[6]) if options.dual_stack else (_L3[4],)
    subnet = IPv4Network((int(_L2_FIRST), _block_length(options) - 8))
    return (subnet, _L2_IPV6) if options.dual_stack else (subnet,)


def _block_length(options: LabOptions) -> int:
    """Return that of blocks just large enough: every address of one is an entry on every other host."""
    return 32 - max(2, options.containers.bit_length())  # with one for the host


def _host(options: LabOptions, networks: tuple[IPNetwork, ...], number: int) -> Host:
    name = f"h{number}"
    netns = f"{options.name}-{name}"
    return Host(
        name,
        netns,
        _UNDERLAY[options.underlay].network_address + number,
        f"02:99:00:00:00:{number:02x}",
        tuple(_own(options, networks, number)),
        tuple(f"{netns}-c{n + 1}" for n in range(options.containers)),
    )


def _own(options: LabOptions, networks: tuple[IPNetwork, ...], number: int) -> Iterator[IPNetwork]:
    """Yield what host `number` gives its containers addresses from; number 0 has the gateway of l2."""
    if options.mode == "l3":
        yield from (_part(network, _L3_OWN[network.version], number) for network in networks)
    else:
        yield _part(networks[0], _block_length(options), number)


def _part(network: IPNetwork, length: int, number: int) -> IPNetwork:
    first = network.network_address + (number << network.max_prefixlen - length)
    return ip_network((first, length))


def _backend(options: LabOptions, host: Host, peers_file: str) -> dict[str, Any]:
    alone = options.backend == "multicast" or options.zero_control
    own = {"subnet" if options.mode == "l3" else "block": _one_or_more(host.own)} if alone else {}
    if options.backend == "multicast":
        return {"type": "multicast", "group": _GROUP[options.underlay], **own}
    return {"type": "static", "peersFile": peers_file, **own}


def _one_or_more(networks: tuple[IPNetwork, ...]) -> str | list[str]:
    return str(networks[0]) if len(networks) == 1 else [str(network) for network in networks]
