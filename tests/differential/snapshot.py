"""What the kernel and the disk hold after a step: links, addresses, routes, sysctls, lease files, rules."""

import contextlib
import ipaddress
import json
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.differential import netns
from tests.differential.world import World

Facts = dict[str, Any]

_HOST_SYSCTLS = ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding")
_PORT_SYSCTLS = ("net/ipv6/conf/{}/accept_ra",)
_BOX_SYSCTLS = (
    "net/ipv4/conf/{}/arp_notify",
    "net/ipv6/conf/{}/accept_dad",
    "net/ipv6/conf/{}/accept_ra",
    "net/ipv6/conf/{}/disable_ipv6",
    "net/ipv6/conf/{}/enhanced_dad",
    "net/ipv6/conf/{}/keep_addr_on_down",
    "net/ipv6/conf/{}/ndisc_notify",
)
_PORT_KEYS = (
    "hairpin",
    "isolated",
    "learning",
    "flood",
    "guard",
    "root_block",
    "priority",
    "cost",
    "vlan_tunnel",
)


def take(world: World, *, rules: bool) -> Facts:
    """Everything that is compared, of the whole world."""
    facts: Facts = {"host": namespace(world.host, _HOST_SYSCTLS, _PORT_SYSCTLS), "leases": leases(world.data)}
    for box, name in world.boxes.items():
        facts[box] = namespace(name, ("net/ipv6/conf/lo/disable_ipv6",), _BOX_SYSCTLS)
    if rules:
        facts["rules"] = ruleset(world)
    return facts


def namespace(name: str, fixed: Iterable[str], per_link: Iterable[str]) -> Facts:
    """One namespace: links with their addresses, routes, sysctls."""
    with netns.entered(name):
        links = json.loads(netns.run("ip", "-d", "-j", "address", "show"))
        own = [link for link in links if not link["ifname"].startswith(netns.PREFIX)]
        wanted = [
            *fixed,
            *(path.format(link["ifname"]) for link in own if link["ifname"] != "lo" for path in per_link),
        ]
        return {
            "links": {link["ifname"]: _link(link) for link in own},
            "routes": {key: value for family in (4, 6) for key, value in _routes(family)},
            "sysctls": {path: _sysctl(path) for path in wanted},
        }


def _link(raw: Facts) -> Facts:
    info = raw.get("linkinfo", {})
    port = info.get("info_slave_data", {})
    return {
        "index": raw["ifindex"],
        "peer": raw.get("link_index"),
        "mac": raw.get("address"),
        "kind": info.get("info_kind"),
        "mtu": raw["mtu"],
        "master": raw.get("master"),
        "txqlen": raw.get("txqlen"),
        "alias": raw.get("ifalias"),
        "flags": sorted({"UP", "PROMISC", "NOARP", "ALLMULTI"} & set(raw["flags"])),
        "vlan_filtering": info.get("info_data", {}).get("vlan_filtering"),
        "port": {key: port[key] for key in _PORT_KEYS if key in port},
        "addresses": dict(_address(entry) for entry in raw.get("addr_info", [])),
    }


def _address(raw: Facts) -> tuple[str, Facts]:
    if ipaddress.ip_address(raw["local"]).is_link_local:
        return f"link-local/{raw['prefixlen']}", {"scope": raw["scope"]}
    kept = {key: raw[key] for key in ("scope", "broadcast", "valid_life_time", "secondary") if key in raw}
    return f"{raw['local']}/{raw['prefixlen']}", kept | {"tentative": raw.get("tentative", False)}


def _routes(family: int) -> Iterable[tuple[str, Facts]]:
    for raw in json.loads(netns.run("ip", "-j", "-d", f"-{family}", "route", "show", "table", "all") or "[]"):
        if raw.get("table") == "local" or raw.get("type") in ("local", "broadcast", "anycast", "multicast"):
            continue
        if raw.get("dev", "").startswith(netns.PREFIX):
            continue
        key = " ".join(str(raw.get(part, "-")) for part in ("dst", "gateway", "dev", "table", "metric"))
        kept = ("protocol", "scope", "prefsrc", "metrics", "type")
        yield f"v{family} {key}", {part: raw[part] for part in kept if part in raw}


def _sysctl(path: str) -> str | None:
    with contextlib.suppress(OSError):
        return (Path("/proc/sys") / path).read_text().strip()
    return None


def leases(directory: Path) -> Facts:
    """Every entry below the data directory with its kind, mode and content."""
    return {str(path.relative_to(directory)): _entry(path) for path in sorted(directory.rglob("*"))}


def _entry(path: Path) -> Facts:
    mode = f"{path.lstat().st_mode & 0o7777:04o}"
    if path.is_symlink():
        return {"kind": "symlink"}
    return {"kind": "directory", "mode": mode} if path.is_dir() else {"mode": mode, "content": _content(path)}


def _content(path: Path) -> str:
    return path.read_bytes().decode("utf-8", errors="backslashreplace")


def ruleset(world: World) -> str:
    """Every packet filter rule of the host, whichever tool wrote it."""
    listings = (("nft", "list", "ruleset"), ("iptables-save",), ("ip6tables-save",))
    with netns.entered(world.host):
        return "\n".join(
            subprocess.run(words, capture_output=True, text=True, check=False).stdout for words in listings
        )
