"""Encodes a result for any of the seven protocol versions.

Formats follow SPEC.md of each version; key order and indentation follow the reference, because people compare
the two.
"""

import json
from typing import Any

from cni_plugins.errors import InvalidNetworkConfig
from cni_plugins.protocol.result import DNS, Interface, IPConfig, Result, Route
from cni_plugins.protocol.versions import GC_AND_STATUS, LISTS, SORTED_KEYS, at_least


def encode(result: Result, version: str) -> bytes:
    """Return the result as one JSON document in the format of `version`."""
    document = _lists(result, version) if at_least(version, LISTS) else _families(result, version)
    ordered = at_least(version, SORTED_KEYS)
    return json.dumps(document, indent=4, sort_keys=ordered, ensure_ascii=False, allow_nan=False).encode()


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
    """Return the format of 0.1.0 and 0.2.0, which holds one address of each family."""
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
            f"a result of CNI version {version} must have an IP address",
            f"cniVersion {version}, no ips",
        )
    return {**document, "dns": _dns(result.dns), **result.extra}


def _given(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value}
