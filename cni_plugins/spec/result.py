"""The success result in one form, and its seven shapes on the wire.

Unknown keys of a prevResult are kept in `extra` and written back, so a chain loses nothing that passes
through us. Shapes follow SPEC.md of each version; key order and indentation follow the reference, because
people compare the two.
"""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from cni_plugins.errors import DecodingFailed, InvalidNetworkConfig
from cni_plugins.spec.fields import (
    Conf,
    IPAddress,
    IPInterface,
    get,
    parse_address,
    parse_cidr,
    rest,
    shown,
    typed,
)
from cni_plugins.spec.versions import GC_AND_STATUS, LISTS, SORTED_KEYS, at_least

_UNSIGNED_LIMIT = 0xFFFFFFFF  # attributes of routes are 32 bits wide
NOTHING: Mapping[str, Any] = MappingProxyType({})


class Interface(NamedTuple):
    """One entry of `interfaces`; an empty sandbox means the host."""

    name: str
    mac: str = ""
    sandbox: str = ""
    mtu: int = 0
    socket_path: str = ""
    pci_id: str = ""
    extra: Mapping[str, Any] = NOTHING


class IPConfig(NamedTuple):
    """One entry of `ips`; `interface` is an index into `interfaces`."""

    address: IPInterface
    gateway: IPAddress | None = None
    interface: int | None = None
    extra: Mapping[str, Any] = NOTHING


class Route(NamedTuple):
    """One entry of `routes`; zero and None mean "not given", except that table and scope 0 are values."""

    dst: IPInterface
    gw: IPAddress | None = None
    mtu: int = 0
    advmss: int = 0
    priority: int = 0
    table: int | None = None
    scope: int | None = None
    extra: Mapping[str, Any] = NOTHING


class DNS(NamedTuple):
    """Resolver settings; empty when nothing is set."""

    nameservers: tuple[str, ...] = ()
    domain: str = ""
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


class Result(NamedTuple):
    """What ADD answers; an IPAM plugin's answer is one without interfaces."""

    interfaces: tuple[Interface, ...] = ()
    ips: tuple[IPConfig, ...] = ()
    routes: tuple[Route, ...] = ()
    dns: DNS = DNS()
    extra: Mapping[str, Any] = NOTHING


# ---------------------------------------------------------------------------------------------- reading


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
    gateway = get(conf, "gw") or None
    return Route(
        dst=parse_cidr(get(conf, "dst"), f"{where}.dst"),
        gw=None if gateway is None else parse_address(gateway, f"{where}.gw"),
        mtu=_unsigned(conf, "mtu", where) or 0,
        advmss=_unsigned(conf, "advmss", where) or 0,
        priority=_unsigned(conf, "priority", where) or 0,
        table=_unsigned(conf, "table", where),
        scope=_unsigned(conf, "scope", where),
        extra=rest(conf, ("dst", "gw", "mtu", "advmss", "priority", "table", "scope")),
    )


def parse_result(raw: object, version: str, where: str = "prevResult") -> Result:
    """Read a result of one protocol version.

    :raises DecodingFailed: when it does not have that version's shape.
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
    """Read the shape of 0.1.0 and 0.2.0: `ip4` and `ip6`, each with one address and its routes."""
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


def _unsigned(conf: Conf, key: str, where: str) -> int | None:
    value = get(conf, key)
    if value is None:
        return None
    if type(value) is not int or not 0 <= value <= _UNSIGNED_LIMIT:
        raise ValueError(f"{where}.{key}: expected a whole number of 32 bits, got {shown(value)}")
    return value


# ---------------------------------------------------------------------------------------------- writing


def encode(result: Result, version: str) -> bytes:
    """Return the result as one JSON document in the shape of `version`."""
    document = _lists(result, version) if at_least(version, LISTS) else _families(result, version)
    ordered = at_least(version, SORTED_KEYS)
    return json.dumps(document, indent=4, sort_keys=ordered, ensure_ascii=False).encode()


def _lists(result: Result, version: str) -> dict[str, Any]:
    modern = at_least(version, SORTED_KEYS)
    document: dict[str, Any] = {"cniVersion": version}
    if result.interfaces:
        with_mtu = at_least(version, GC_AND_STATUS)
        document["interfaces"] = [_interface(item, with_mtu=with_mtu) for item in result.interfaces]
    if result.ips:
        document["ips"] = [_ip(item, with_family=not modern) for item in result.ips]
    if result.routes:
        document["routes"] = [_route(item) for item in result.routes]
    dns = _dns(result.dns)
    if dns or not modern:
        document["dns"] = dns
    return {**document, **result.extra}


def _interface(item: Interface, *, with_mtu: bool) -> dict[str, Any]:
    fields: dict[str, Any] = {"mac": item.mac, "sandbox": item.sandbox}
    if with_mtu:
        fields |= {"mtu": item.mtu, "socketPath": item.socket_path, "pciID": item.pci_id}
    return {"name": item.name, **_given(fields), **item.extra}


def _ip(item: IPConfig, *, with_family: bool) -> dict[str, Any]:
    fields: dict[str, Any] = {"version": str(item.address.version)} if with_family else {}
    if item.interface is not None:
        fields["interface"] = item.interface
    fields["address"] = str(item.address)
    if item.gateway is not None:
        fields["gateway"] = str(item.gateway)
    return {**fields, **item.extra}


def _route(item: Route) -> dict[str, Any]:
    fields: dict[str, Any] = {"dst": str(item.dst)}
    if item.gw is not None:
        fields["gw"] = str(item.gw)
    fields |= _given({"mtu": item.mtu, "advmss": item.advmss, "priority": item.priority})
    if item.table is not None:
        fields["table"] = item.table
    if item.scope is not None:
        fields["scope"] = item.scope
    return {**fields, **item.extra}


def _dns(dns: DNS) -> dict[str, Any]:
    return _given(
        {
            "nameservers": list(dns.nameservers),
            "domain": dns.domain,
            "search": list(dns.search),
            "options": list(dns.options),
        }
    )


def _families(result: Result, version: str) -> dict[str, Any]:
    """Write the shape of 0.1.0 and 0.2.0, which has room for one address of each family."""
    document: dict[str, Any] = {"cniVersion": version}
    for family in (4, 6):
        found = next((ip for ip in result.ips if ip.address.version == family), None)
        if found is None:
            continue
        routes = [
            {"dst": str(route.dst)} | ({} if route.gw is None else {"gw": str(route.gw)})
            for route in result.routes
            if route.dst.version == family
        ]
        fields = {"gateway": str(found.gateway) if found.gateway else "", "routes": routes}
        document[f"ip{family}"] = {"ip": str(found.address), **_given(fields)}
    if len(document) == 1:
        raise InvalidNetworkConfig(
            f"a result of CNI version {version} cannot be without an IP address",
            f"cniVersion {version}, no ips",
        )
    return {**document, "dns": _dns(result.dns), **result.extra}


def _given(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value}


# ---------------------------------------------------------------------------------------------- choosing


def own_part(result: Result, ifname: str) -> Result:
    """Return the addresses and routes of one interface of a chain's result, as an IPAM plugin would answer.

    Routes do not name their interface: those through a gateway in somebody else's subnet are left out.
    """
    own = {n for n, item in enumerate(result.interfaces) if item.name == ifname and item.sandbox}
    ips = tuple(ip for ip in result.ips if ip.interface is None or ip.interface in own)
    foreign = [ip.address.network for ip in result.ips if ip not in ips]
    routes = tuple(
        route
        for route in result.routes
        if not any(
            route.gw is not None and net.version == route.gw.version and route.gw in net for net in foreign
        )
    )
    return Result(ips=ips, routes=routes, dns=result.dns)
