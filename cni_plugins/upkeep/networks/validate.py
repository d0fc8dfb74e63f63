"""Validates a network's list of plugins: by the plugins themselves, and more strictly if a store has it.

Whoever may write to a store must not become root on every host. What comes from there has the keys that
`cnictl network create` writes and no others: none with a path, and no plugins but those of this suite. How
the store is reached is not taken from it either; each host has that in a file of its own.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from cni_plugins.engine import registry
from cni_plugins.errors import CniError, InvalidNetworkConfig, TryAgainLater, UnsupportedField
from cni_plugins.protocol import versions
from cni_plugins.protocol.fields import Conf, get, rest, shown
from cni_plugins.protocol.request import NAME, Request
from cni_plugins.upkeep.networks.files import LONGEST, OURS

STORES = ("etcd", "consul", "zookeeper")
_MOST_PLUGINS = 8
_HEAD = frozenset(("cniVersion", "name", "plugins", OURS))
_EVERY = ("type", "capabilities", "mtu", "ipMasq", "ipam")
_KEYS: Mapping[str, frozenset[str]] = {
    "bridge": frozenset(
        (
            *(*_EVERY, "bridge", "isGateway", "isDefaultGateway", "hairpinMode", "mtuAuto", "vlan"),
            *("removeIdleBridge", "portIsolation", "macspoofchk", "internal"),
        )
    ),
    "macvlan": frozenset((*_EVERY, "master", "mode", "vlan")),
    "ptp": frozenset((*_EVERY, "mtuAuto")),
    "vxlan": frozenset(
        (
            *(*_EVERY, "mode", "vni", "port", "network", "subnetLen", "subnet", "blockLen", "gateway"),
            *("isDefaultGateway", "backend", "directRouting", "keep"),
        )
    ),
    "portmap": frozenset(("type", "capabilities")),
    "firewall": frozenset(("type", "ingressPolicy")),
}
_IPAM_KEYS = frozenset(("type", "ranges", "routes"))
_CLUSTER = "cluster"
_IPAMS = ("host-local", "dhcp", _CLUSTER)


def name_fault(name: str) -> str:
    """Return what is wrong with a network's name, as the rest of a sentence; empty when nothing is."""
    if not NAME.match(name):
        return "must begin with a letter or digit, and have letters, digits and _.- only"
    return f"is longer than {LONGEST} characters" if len(name) > LONGEST else ""


def require_valid(document: Conf) -> None:
    """Let each plugin, and the IPAM plugin, read its config as in an ADD.

    :raises CniError: when one of ours refuses it. Plugins of others are not asked.
    """
    head = {key: document[key] for key in ("cniVersion", "name")}
    versions.require_supported(head["cniVersion"])
    for plugin in document["plugins"]:
        conf = {**rest(plugin, tuple(head)), **head}
        request = Request("STATUS", head["name"], cni_version=head["cniVersion"], conf=conf)
        kind = get(conf, "type")
        if kind in registry.PLUGINS:
            _parse(request, kind)


def _parse(request: Request, kind: str) -> None:
    plugin = registry.plugin(kind)
    try:
        plugin.parse(request)
    except TryAgainLater:
        # The peers of an overlay are not known before its file is there; its keys have been read by then.
        if kind != "vxlan":
            raise
    if request.ipam_type == "host-local" and get(get(request.conf, "ipam"), "ranges") is not None:
        from cni_plugins.ipam_hostlocal.config import parse

        parse(request)
    if request.ipam_type == _CLUSTER:
        from cni_plugins.ipam_cluster.config import parse as parse_cluster

        parse_cluster(request)
    if request.ipam_type == "static":
        from cni_plugins.ipam_static.config import parse as parse_static

        parse_static(request)


# ------------------------------------------------------------------------------------------- from a store


def from_store(document: object, name: str, backend: Conf) -> dict[str, Any]:
    """Return the list of plugins of a store for this host, whose own way to the store is filled in.

    :raises CniError: when it is not one that `cnictl network create` writes.
    """
    if not isinstance(document, dict) or name_fault(name) or document.get("name") != name:
        raise InvalidNetworkConfig("the config is not of this network", f"name {shown(name)}")
    _require_known("", document, _HEAD)
    if not isinstance(document.get("cniVersion"), str) or not isinstance(document.get(OURS), dict):
        raise InvalidNetworkConfig(f"cniVersion or {OURS} is missing")
    plugins = document.get("plugins")
    is_list = isinstance(plugins, list) and all(isinstance(item, dict) for item in plugins)
    if not is_list or not plugins or len(plugins) > _MOST_PLUGINS:
        raise InvalidNetworkConfig("plugins is no list of plugins", shown(plugins))
    ready = {**document, "plugins": [_checked(plugin, backend) for plugin in plugins]}
    require_valid(ready)
    return ready


def _checked(plugin: dict[str, Any], backend: Conf) -> dict[str, Any]:
    kind = plugin.get("type")
    known = _KEYS.get(kind) if isinstance(kind, str) else None
    if known is None:
        raise UnsupportedField(f"plugin {shown(kind)} is not taken from a store", f"only {', '.join(_KEYS)}")
    _require_known(f"{kind}: ", plugin, known)
    ipam = plugin.get("ipam", {})
    if not isinstance(ipam, dict) or ipam.get("type", _IPAMS[0]) not in _IPAMS:
        raise UnsupportedField(f"{kind}: ipam is not taken from a store", shown(ipam))
    is_divided = ipam.get("type") == _CLUSTER
    _require_known(f"{kind}: ipam.", ipam, _IPAM_KEYS | {"registry"} if is_divided else _IPAM_KEYS)
    if is_divided:
        if ipam.get("registry") != {"type": backend.get("type")}:
            raise UnsupportedField(f"{kind}: ipam.registry is not this host's", shown(ipam.get("registry")))
        return {**plugin, "ipam": {**ipam, "registry": dict(backend)}}
    if kind != "vxlan":
        return plugin
    if plugin.get("backend") != {"type": backend.get("type")}:
        raise UnsupportedField("vxlan: backend is not this host's", shown(plugin.get("backend")))
    return {**plugin, "backend": dict(backend)}


def _require_known(where: str, conf: Conf, known: Iterable[str]) -> None:
    odd = next((key for key in conf if key not in known), None)
    if odd is not None:
        raise UnsupportedField(f"{where}{odd} is not taken from a store", f"only {', '.join(sorted(known))}")


def told(err: CniError) -> str:
    """Return an error as one sentence."""
    details = err.full_details()
    return f"{err.msg} ({details})" if details and details not in err.msg else err.msg
