"""Parses a result of any of the seven protocol versions (SPEC.md); unknown keys are kept."""

from cni_plugins.errors import DecodingFailed
from cni_plugins.protocol.fields import Conf, get, parse_address, parse_cidr, rest, shown, typed
from cni_plugins.protocol.result import DNS, Interface, IPConfig, Result, Route
from cni_plugins.protocol.versions import GC_AND_STATUS, LISTS, at_least

_LARGEST_SCOPE = 255  # rtm_scope is one octet (linux/rtnetlink.h)
_UNSIGNED_LIMIT = 0xFFFFFFFF  # attributes of routes are 32 bits wide


def parse_dns(value: Conf, where: str = "dns.") -> DNS:
    """:raises ValueError: naming path and value."""
    lists = {}
    for key in ("nameservers", "search", "options"):
        items = typed(value, key, list, where)
        if not all(isinstance(item, str) for item in items):
            raise ValueError(f"{where}{key}: expected a list of strings, got {shown(items)}")
        lists[key] = tuple(items)
    return DNS(domain=typed(value, "domain", str, where), **lists)


def parse_route(value: object, where: str) -> Route:
    """:raises ValueError: naming path and value."""
    conf = _object(value, where)
    dst = parse_cidr(get(conf, "dst"), f"{where}.dst")
    gateway = parse_address(get(conf, "gw"), f"{where}.gw") if get(conf, "gw") else None
    if gateway is not None and gateway.version != dst.version:
        raise ValueError(f"{where}.gw: {gateway} is not of the same family as {dst}")
    return Route(
        dst=dst,
        gw=gateway,
        mtu=_unsigned(conf, "mtu", where) or 0,
        advmss=_unsigned(conf, "advmss", where) or 0,
        priority=_unsigned(conf, "priority", where) or 0,
        table=_unsigned(conf, "table", where),
        scope=_unsigned(conf, "scope", where, _LARGEST_SCOPE),
        extra=rest(conf, ("dst", "gw", "mtu", "advmss", "priority", "table", "scope")),
    )


def parse_result(raw: object, version: str, where: str = "prevResult") -> Result:
    """Parse a result of one protocol version.

    :raises DecodingFailed: when it does not have that version's format.
    """
    try:
        conf = _object(raw, where)
        if at_least(version, LISTS):
            return _parse_lists(conf, where, with_mtu=at_least(version, GC_AND_STATUS))
        return _parse_families(conf, where)
    except ValueError as err:
        raise DecodingFailed("could not parse the result", str(err)) from err


def _parse_lists(conf: Conf, where: str, *, with_mtu: bool) -> Result:
    return Result(
        interfaces=tuple(
            _parse_interface(
                _object(item, f"{where}.interfaces[{n}]"), f"{where}.interfaces[{n}].", with_mtu=with_mtu
            )
            for n, item in enumerate(typed(conf, "interfaces", list, f"{where}."))
        ),
        ips=tuple(
            _parse_ip(_object(item, f"{where}.ips[{n}]"), f"{where}.ips[{n}].")
            for n, item in enumerate(typed(conf, "ips", list, f"{where}."))
        ),
        routes=tuple(
            parse_route(item, f"{where}.routes[{n}]")
            for n, item in enumerate(typed(conf, "routes", list, f"{where}."))
        ),
        dns=parse_dns(typed(conf, "dns", dict, f"{where}."), f"{where}.dns."),
        extra=rest(conf, ("cniVersion", "interfaces", "ips", "routes", "dns")),
    )


def _parse_interface(conf: Conf, where: str, *, with_mtu: bool) -> Interface:
    known = ("name", "mac", "sandbox") + (("mtu", "socketPath", "pciID") if with_mtu else ())
    return Interface(
        name=typed(conf, "name", str, where),
        mac=typed(conf, "mac", str, where),
        sandbox=typed(conf, "sandbox", str, where),
        mtu=typed(conf, "mtu", int, where) if with_mtu else 0,
        socket_path=typed(conf, "socketPath", str, where) if with_mtu else "",
        pci_id=typed(conf, "pciID", str, where) if with_mtu else "",
        extra=rest(conf, known),
    )


def _parse_ip(conf: Conf, where: str) -> IPConfig:
    gateway, interface = get(conf, "gateway"), get(conf, "interface")
    if interface is not None and type(interface) is not int:
        raise ValueError(f"{where}interface: expected a whole number, got {shown(interface)}")
    return IPConfig(
        address=parse_cidr(get(conf, "address"), f"{where}address"),
        gateway=parse_address(gateway, f"{where}gateway") if gateway else None,
        interface=interface,
        extra=rest(conf, ("version", "address", "gateway", "interface")),
    )


def _parse_families(conf: Conf, where: str) -> Result:
    """Parse the format of 0.1.0 and 0.2.0: `ip4` and `ip6`, each with one address and its routes."""
    ips: list[IPConfig] = []
    routes: list[Route] = []
    for key in ("ip4", "ip6"):
        family = typed(conf, key, dict, f"{where}.")
        if not family:
            continue
        gateway = get(family, "gateway")
        address = parse_cidr(get(family, "ip"), f"{where}.{key}.ip")
        ips.append(IPConfig(address, parse_address(gateway, f"{where}.{key}.gateway") if gateway else None))
        listed = typed(family, "routes", list, f"{where}.{key}.")
        routes += [parse_route(item, f"{where}.{key}.routes[{n}]") for n, item in enumerate(listed)]
    return Result(
        ips=tuple(ips),
        routes=tuple(routes),
        dns=parse_dns(typed(conf, "dns", dict, f"{where}."), f"{where}.dns."),
        extra=rest(conf, ("cniVersion", "ip4", "ip6", "dns")),
    )


def _object(value: object, where: str) -> Conf:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected an object, got {shown(value)}")  # noqa: TRY004 (all faults alike)
    return value


def _unsigned(conf: Conf, key: str, where: str, limit: int = _UNSIGNED_LIMIT) -> int | None:
    value = get(conf, key)
    if value is None:
        return None
    if type(value) is not int or not 0 <= value <= limit:
        raise ValueError(f"{where}.{key}: expected a whole number up to {limit}, got {shown(value)}")
    return value
