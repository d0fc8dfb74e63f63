"""Plans a lab: names, addresses and the config of each host, with pure functions.

All hosts of a lab share a bridge, so every two of them are neighbours on the underlay. Numbers are readable:
host 7 is h7, and each of its addresses contains 7.
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

_NAME = re.compile(r"[a-z][a-z0-9]{0,14}")  # without the dash that separates the parts of derived names
_UNDERLAY = {4: ip_network("10.99.0.0/16"), 6: ip_network("fd00:99::/64")}
_GROUP = {4: "239.7.7.7", 6: "ff05::7:7"}
_L3 = {4: ip_network("10.244.0.0/16"), 6: ip_network("fd00:244::/48")}
_L3_OWN = {4: 24, 6: 64}
_L2_FIRST, _L2_IPV6 = IPv4Address("10.245.0.0"), ip_network("fd00:245::/64")


class LabOptions(NamedTuple):
    """The options of a lab.

    :param underlay: the IP version.
    :param bum: for l2; None: chosen to suit the other options.
    :param zero_control: hosts are configured only with each other's addresses.
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
    """A host of the lab.

    :param own: its subnets (l3) or its block (l2).
    :param containers: names, which are also those of their network namespaces.
    """

    name: str
    netns: str
    vtep: IPAddress
    mac: str
    own: tuple[IPNetwork, ...]
    containers: tuple[str, ...]


class Lab(NamedTuple):
    """A planned lab.

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
    """:raises ValueError: when the options contradict each other, with the reason"""
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
    """Say whether a network namespace belongs to the lab of this name, whatever the size of the lab."""
    return bool(re.fullmatch(rf"{re.escape(name)}-(sw|h\d+(-c\d+)?)", netns))


def peers(lab: Lab) -> list[Any]:
    """Return the content of the peers file, which is the same for all hosts."""
    if lab.options.zero_control:
        return [str(host.vtep) for host in lab.hosts]
    key = "subnets" if lab.options.mode == "l3" else "blocks"
    return [
        {"node": host.name, "vtep": str(host.vtep), key: [str(own) for own in host.own]} for host in lab.hosts
    ]


def conf(lab: Lab, host: Host, peers_file: str, leases: str) -> dict[str, Any]:
    """Return the plugin's config for a host; with the static backend, only the lease directory may differ."""
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
    """Return lines for `ip -batch` that create the namespaces, and a link from each host to the switch."""
    pairs = [
        f"link add name {UPLINK} address {host.mac} mtu {lab.options.underlay_mtu} netns {host.netns}"
        f" type veth peer name {host.name} mtu {lab.options.underlay_mtu} netns {lab.switch}"
        for host in lab.hosts
    ]
    return [*(f"netns add {name}" for name in namespaces(lab)), *pairs]


def of_switch(lab: Lab) -> list[str]:
    """Return lines for `ip -batch` in the switch: a bridge with a port for every host."""
    ports = [f"link set {host.name} master br0 up" for host in lab.hosts]
    # The bridge has no multicast querier, so snooping must be off for groups to be flooded to all ports.
    return ["link add br0 type bridge mcast_snooping 0", "link set br0 up", *ports]


def of_host(lab: Lab, host: Host) -> list[str]:
    """Return lines for `ip -batch` in a host: its address, and neighbour entries for all others."""
    length = _UNDERLAY[lab.options.underlay].prefixlen
    nodad = " nodad" if host.vtep.version == 6 else ""  # noqa: PLR2004
    # Permanent neighbours do not count towards the kernel's limit, by default 1024 for all namespaces
    # together. A hundred real hosts would each have a table of their own.
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
        yield f"the name must have up to 15 lower-case letters and digits, not {options.name!r}"
    if multicast and options.zero_control:
        yield "with multicast hosts do not know each other anyway: leave out --zero-control"
    if multicast and options.bum:
        yield "with multicast broadcast frames are sent to the group: leave out --bum"
    if options.bum and not l2:
        yield "--bum is for --mode l2"
    if options.zero_control and options.bum == "none":
        yield "--zero-control needs --bum head-end, not none: addresses are resolved by broadcast"
    if options.direct_routing and l2:
        yield "--direct-routing is for --mode l3"


def _networks(options: LabOptions) -> tuple[IPNetwork, ...]:
    if options.mode == "l3":
        return (_L3[4], _L3[6]) if options.dual_stack else (_L3[4],)
    subnet = IPv4Network((int(_L2_FIRST), _block_length(options) - 8))
    return (subnet, _L2_IPV6) if options.dual_stack else (subnet,)


def _block_length(options: LabOptions) -> int:
    """Return the prefix length of the smallest block: each address in it is an entry on all other hosts."""
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
    """Yield the networks of host `number`, for its containers; in l2, number 0 contains the gateway."""
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
