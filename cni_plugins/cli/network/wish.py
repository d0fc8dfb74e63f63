"""Reads the words of `cnictl network create`, which are those of `docker network create`.

Pure functions; every refusal names the option and its value.
"""

from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_network
from typing import Any, NamedTuple

from cni_plugins.cli.failure import Failed
from cni_plugins.protocol.fields import IPAddress, IPNetwork, parse_address, parse_cidr
from cni_plugins.upkeep.networks.validate import name_fault

DRIVERS = ("bridge", "macvlan", "ptp", "vxlan")
_SYNONYMS = {"overlay": "vxlan"}  # Docker's word
IPAM_DRIVERS = ("host-local", "dhcp", "none")
_WORDS = {"true": True, "1": True, "false": False, "0": False}


def _text(value: str) -> str:
    if not value:
        raise ValueError("it needs a value")
    return value


def _boolean(value: str) -> bool:
    if value.lower() not in _WORDS:
        raise ValueError("it must be true or false")
    return _WORDS[value.lower()]


def _number(value: str) -> int:
    if not value.isascii() or not value.isdigit():
        raise ValueError("it must be a number")
    return int(value)


def _one_of(*words: str) -> Callable[[str], str]:
    def read(value: str) -> str:
        if value not in words:
            raise ValueError(f"it must be one of {', '.join(words)}")
        return value

    return read


class _Option(NamedTuple):
    """A key of -o: the field it sets, how its value is read, and the drivers that have it."""

    field: str
    read: Callable[[str], Any]
    drivers: tuple[str, ...]


_ROUTED = ("bridge", "ptp", "vxlan")
_OPTIONS: Mapping[str, _Option] = {
    "com.docker.network.bridge.enable_icc": _Option("icc", _boolean, ("bridge",)),
    "com.docker.network.bridge.enable_ip_masquerade": _Option("masquerade", _boolean, _ROUTED),
    "com.docker.network.bridge.name": _Option("bridge", _text, ("bridge",)),
    "com.docker.network.driver.mtu": _Option("mtu", _number, DRIVERS),
    "com.docker.network.driver.overlay.vxlanid_list": _Option("vni", _number, ("vxlan",)),
    "block_len": _Option("block_len", _number, ("vxlan",)),
    "macvlan_mode": _Option("mode", _one_of("bridge", "vepa", "private", "passthru"), ("macvlan",)),
    "mode": _Option("mode", _one_of("l2", "l3"), ("vxlan",)),
    "mtu": _Option("mtu", _number, DRIVERS),
    "parent": _Option("parent", _text, ("macvlan",)),
    "peers": _Option("peers", _text, ("vxlan",)),
    "port": _Option("port", _number, ("vxlan",)),
    "subnet_len": _Option("subnet_len", _number, ("vxlan",)),
    "vlan": _Option("vlan", _number, ("bridge",)),
    "vni": _Option("vni", _number, ("vxlan",)),
}


class Wish(NamedTuple):
    """A network as its creator wants it.

    :param options: values of -o by field.
    :param aux: addresses that are not given out, by the names of their owners.
    :param ipam: empty: as the driver needs it.
    """

    name: str
    driver: str = "bridge"
    subnets: tuple[IPNetwork, ...] = ()
    gateways: tuple[IPAddress, ...] = ()
    ranges: tuple[IPNetwork, ...] = ()
    aux: Mapping[str, IPAddress] = {}
    ipv4: bool = True
    ipv6: bool = False
    internal: bool = False
    options: Mapping[str, Any] = {}
    labels: Mapping[str, str] = {}
    ipam: str = ""

    @property
    def mode(self) -> str:
        """The mode of an overlay."""
        return str(self.options.get("mode", "l3"))

    @property
    def versions(self) -> tuple[int, ...]:
        """The IP versions that need a subnet; on a wire, the addresses are those of the wire."""
        if not self.gives_out or self.driver == "macvlan":
            return ()
        return tuple(version for version, on in ((4, self.ipv4), (6, self.ipv6)) if on)

    @property
    def gives_out(self) -> bool:
        """Say whether host-local gives out addresses of subnets that the config names."""
        return self.ipam in ("", "host-local")


class Words(NamedTuple):
    """The words as they were typed."""

    name: str
    driver: str = "bridge"
    subnets: Sequence[str] = ()
    gateways: Sequence[str] = ()
    ranges: Sequence[str] = ()
    aux: Sequence[str] = ()
    ipv4: bool = True
    ipv6: bool = False
    internal: bool = False
    options: Sequence[str] = ()
    labels: Sequence[str] = ()
    ipam: str = ""


def read(words: Words) -> Wish:
    """:raises Failed: for the first word that cannot be understood, or contradicts another."""
    if name_fault(words.name):
        raise Failed(f"network name {words.name!r} {name_fault(words.name)}")
    driver = _SYNONYMS.get(words.driver, words.driver)
    if driver not in DRIVERS:
        raise Failed(f"there is no driver {words.driver!r}, only {', '.join(DRIVERS)}")
    if words.ipam and words.ipam not in IPAM_DRIVERS:
        raise Failed(f"there is no IPAM driver {words.ipam!r}, only {', '.join(IPAM_DRIVERS)}")
    wish = Wish(
        name=words.name,
        driver=driver,
        subnets=tuple(_network("--subnet", text) for text in words.subnets),
        gateways=tuple(_address("--gateway", text) for text in words.gateways),
        ranges=tuple(_network("--ip-range", text) for text in words.ranges),
        aux={
            name: _address("--aux-address", text) for name, text in _pairs("--aux-address", words.aux).items()
        },
        ipv4=words.ipv4,
        ipv6=words.ipv6,
        internal=words.internal,
        options=_options(driver, words.options),
        labels=_labels(words.labels),
        ipam=words.ipam,
    )
    _require_consistent(wish)
    return wish


def _network(option: str, text: str) -> IPNetwork:
    try:
        found = parse_cidr(text)
    except ValueError as err:
        raise Failed(f"{option} {text!r} is not a network such as 10.1.0.0/24") from err
    if found.ip != found.network.network_address:
        raise Failed(f"{option} {text} has host bits set; the network is {found.network}")
    return ip_network(found.network)


def _address(option: str, text: str) -> IPAddress:
    try:
        return parse_address(text)
    except ValueError as err:
        raise Failed(f"{option} {text!r} is not an IP address") from err


def _pairs(option: str, texts: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not key or not separator:
            raise Failed(f"{option} {text!r} must have the form name=value")
        if key in found:
            raise Failed(f"{option} {key} is given twice")
        found[key] = value
    return found


def _labels(texts: Sequence[str]) -> dict[str, str]:
    """Return the labels; one without a value is empty, as Docker's."""
    return _pairs("--label", [text if "=" in text else f"{text}=" for text in texts])


def _options(driver: str, texts: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for text in texts:
        key, _, value = text.partition("=")
        option = _option(driver, key)
        if option.field in found:
            raise Failed(f"-o {key} is given twice, maybe by another name")
        try:
            found[option.field] = option.read(value)
        except ValueError as err:
            raise Failed(f"-o {text}: {err}") from err
    return found


def _option(driver: str, key: str) -> _Option:
    """:raises Failed: naming the options that the driver has."""
    if key == "encrypted":
        raise Failed(
            "-o encrypted: no release can encrypt an overlay by itself; put it on a WireGuard underlay"
        )
    option = _OPTIONS.get(key)
    if option is None or driver not in option.drivers:
        known = ", ".join(sorted(name for name, item in _OPTIONS.items() if driver in item.drivers))
        raise Failed(f"-o {key}: driver {driver} has no such option, only {known}")
    return option


def _require_consistent(wish: Wish) -> None:
    """:raises Failed: when words contradict each other, whatever subnets are chosen later."""
    bounds = [
        *(("--gateway", gateway) for gateway in wish.gateways),
        *(("--ip-range", part) for part in wish.ranges),
        *((f"--aux-address {name}", address) for name, address in wish.aux.items()),
    ]
    if bounds and not wish.subnets:
        raise Failed(f"{bounds[0][0]} {bounds[0][1]} needs a --subnet that it is in")
    for option, part in bounds:
        if subnet_of(part, wish.subnets) is None:
            listed = ", ".join(map(str, wish.subnets))
            raise Failed(f"{option} {part} is in no --subnet ({listed})")
    for first, second in _overlapping(wish.subnets):
        raise Failed(f"--subnet {first} overlaps --subnet {second}")
    twice = next((net for net in wish.subnets if _inside(wish.gateways, net) > 1), None)
    if twice is not None:
        raise Failed(f"--gateway: subnet {twice} can have one only")
    if not wish.gives_out and wish.subnets:
        raise Failed(f"--ipam-driver {wish.ipam} gives out no addresses of a --subnet")
    _DRIVER_CHECKS[wish.driver](wish)


def _inside(addresses: Sequence[IPAddress], network: IPNetwork) -> int:
    return sum(address in network for address in addresses)


def _overlapping(subnets: Sequence[IPNetwork]) -> list[tuple[IPNetwork, IPNetwork]]:
    return [
        (one, two)
        for at, one in enumerate(subnets)
        for two in subnets[at + 1 :]
        if one.version == two.version and one.overlaps(two)
    ]


def subnet_of(part: IPAddress | IPNetwork, subnets: Sequence[IPNetwork]) -> IPNetwork | None:
    """Return the subnet that contains an address or a network."""
    inner = part if hasattr(part, "prefixlen") else ip_network(part)
    return next(
        (net for net in subnets if net.version == inner.version and inner.subnet_of(net)),  # type: ignore[arg-type,union-attr]
        None,
    )


def _check_bridge(wish: Wish) -> None:
    if not wish.versions and not wish.subnets and wish.gives_out:
        raise Failed("--no-ipv4 without --ipv6 leaves no addresses")
    if wish.internal and wish.options.get("masquerade"):
        raise Failed("--internal and -o com.docker.network.bridge.enable_ip_masquerade=true contradict")


def _check_ptp(wish: Wish) -> None:
    _check_bridge(wish)
    if wish.ipam == "none":
        raise Failed("driver ptp needs addresses: --ipam-driver none cannot be")


def _check_macvlan(wish: Wish) -> None:
    if wish.internal:
        raise Failed(
            "--internal: driver macvlan puts containers on the wire of its parent, which leads elsewhere"
        )
    if wish.gives_out and not wish.subnets:
        raise Failed("driver macvlan needs the wire's --subnet, or --ipam-driver dhcp")


def _check_vxlan(wish: Wish) -> None:
    _check_bridge(wish)
    if wish.ranges or wish.aux:
        raise Failed("--ip-range and --aux-address: hosts of an overlay have a part of the subnet each")
    if wish.ipam:
        raise Failed(f"--ipam-driver {wish.ipam}: an overlay knows the addresses of its hosts")
    if wish.gateways and wish.mode == "l3":
        raise Failed("--gateway: in mode l3 each host has a gateway of its own; -o mode=l2 has one for all")
    foreign = {"l3": "block_len", "l2": "subnet_len"}[wish.mode]
    if foreign in wish.options:
        raise Failed(f"-o {foreign} is an option of the other mode, and mode is {wish.mode}")
    if len({net.version for net in wish.subnets}) < len(wish.subnets):
        raise Failed("driver vxlan takes one --subnet of each IP version")


_DRIVER_CHECKS: Mapping[str, Callable[[Wish], None]] = {
    "bridge": _check_bridge,
    "macvlan": _check_macvlan,
    "ptp": _check_ptp,
    "vxlan": _check_vxlan,
}
