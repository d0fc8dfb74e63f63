"""What the kernel and the disk hold after a step: links, addresses, routes, sysctls, lease files, rules."""

import contextlib
import ipaddress
import json
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests import namespaces
from tests.differential.fixture import PREFIX, Fixture
from tests.namespaces import Namespace

Facts = dict[str, Any]

_HOST_SYSCTLS = ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding")
_PORT_SYSCTLS = ("net/ipv6/conf/{}/accept_dad", "net/ipv6/conf/{}/accept_ra")
_BOX_SYSCTLS = (
    "net/ipv4/conf/{}/arp_notify",
    "net/ipv6/conf/{}/accept_dad",
    "net/ipv6/conf/{}/accept_ra",
    "net/ipv6/conf/{}/addr_gen_mode",
    "net/ipv6/conf/{}/disable_ipv6",
    "net/ipv6/conf/{}/enhanced_dad",
    "net/ipv6/conf/{}/keep_addr_on_down",
    "net/ipv6/conf/{}/ndisc_notify",
    "net/ipv6/conf/{}/optimistic_dad",
    "net/ipv6/conf/{}/use_optimistic",
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
_KIND_KEYS = ("vlan_filtering", "mode", "bcqueuelen")
_ADDRESS_KEYS = (
    "scope",
    "broadcast",
    "valid_life_time",
    "secondary",
    "metric",
    "noprefixroute",
    "nodad",
    "optimistic",
)
_PATIENCE = 1.5  # seconds; net/core/link_watch.c tells of carriers once a second


def settled(fixture: Fixture, *, rules: bool) -> Facts:
    """Everything that is compared, once every link that will have a link-local address does."""
    deadline = time.monotonic() + _PATIENCE
    facts = take(fixture, rules=rules)
    while _is_unsettled(facts) and time.monotonic() < deadline:
        time.sleep(0.05)
        facts = take(fixture, rules=rules)
    return facts


def _is_unsettled(facts: Facts) -> bool:
    places = (place for name, place in facts.items() if name not in ("leases", "rules"))
    return any(link["unsettled"] for place in places for link in place["links"].values())


def take(fixture: Fixture, *, rules: bool) -> Facts:
    """Everything that is compared, as it is at this moment."""
    facts: Facts = {
        "host": namespace(fixture.host, _HOST_SYSCTLS, _PORT_SYSCTLS),
        "leases": leases(fixture.data),
    }
    for box, place in fixture.boxes.items():
        facts[box] = namespace(place, ("net/ipv6/conf/lo/disable_ipv6",), _BOX_SYSCTLS)
        for link in facts[box]["links"].values():
            link["lower"] = _lower(link, facts[box], facts["host"])
    if rules:
        facts["rules"] = ruleset(fixture)
    return facts


def namespace(place: Namespace, fixed: Iterable[str], per_link: Iterable[str]) -> Facts:
    """One namespace: links with their addresses, routes, sysctls."""
    with place.entered():
        links = json.loads(namespaces.run("ip", "-d", "-j", "address", "show"))
        own = [link for link in links if not link["ifname"].startswith(PREFIX)]
        wanted = [
            *fixed,
            *(path.format(link["ifname"]) for link in own if link["ifname"] != "lo" for path in per_link),
        ]
        return {
            "links": {link["ifname"]: _link(link) for link in own},
            "routes": {key: value for family in (4, 6) for key, value in _routes(family)},
            "policy": {key: value for family in (4, 6) for key, value in _policy(family)},
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
        "unsettled": _waits(raw),
        "away": "link_netnsid" in raw,
        **{key: info.get("info_data", {}).get(key) for key in _KIND_KEYS},
        "port": {key: port[key] for key in _PORT_KEYS if key in port},
        "addresses": dict(_address(entry) for entry in raw.get("addr_info", [])),
    }


def _waits(raw: Facts) -> bool:
    """Whether the kernel owes the link a link-local address."""
    name = raw["ifname"]
    settings = {_sysctl(f"net/ipv6/conf/{name}/{key}") for key in ("disable_ipv6", "addr_gen_mode")}
    if name == "lo" or settings != {"0"} or not {"UP", "LOWER_UP"} <= set(raw["flags"]):
        return False
    return not any(entry["scope"] == "link" for entry in raw.get("addr_info", []))


def _lower(link: Facts, own: Facts, host: Facts) -> str | None:
    """Which link a macvlan link is on."""
    if link["kind"] != "macvlan":
        return None
    where, links = ("host", host["links"]) if link["away"] else ("box", own["links"])
    return next((f"{where} {name}" for name, other in links.items() if other["index"] == link["peer"]), where)


def _address(raw: Facts) -> tuple[str, Facts]:
    if ipaddress.ip_address(raw["local"]).is_link_local:
        return f"link-local/{raw['prefixlen']}", {key: raw[key] for key in ("scope", "nodad") if key in raw}
    kept = {key: raw[key] for key in _ADDRESS_KEYS if key in raw}
    return f"{raw['local']}/{raw['prefixlen']}", kept | {"tentative": raw.get("tentative", False)}


def _routes(family: int) -> Iterable[tuple[str, Facts]]:
    for raw in json.loads(
        namespaces.run("ip", "-j", "-d", f"-{family}", "route", "show", "table", "all") or "[]"
    ):
        if raw.get("table") == "local" or raw.get("type") in ("local", "broadcast", "anycast", "multicast"):
            continue
        if raw.get("dev", "").startswith(PREFIX):
            continue
        key = " ".join(str(raw.get(part, "-")) for part in ("dst", "gateway", "dev", "table", "metric"))
        kept = {
            part: raw[part] for part in ("protocol", "scope", "prefsrc", "metrics", "type") if part in raw
        }
        yield f"v{family} {key}", kept | {"onlink": "onlink" in raw["flags"]}


def _policy(family: int) -> Iterable[tuple[str, Facts]]:
    """The rules that choose a routing table, but for those that every namespace has."""
    for raw in json.loads(namespaces.run("ip", "-j", f"-{family}", "rule") or "[]"):
        if raw.get("src") != "all":
            kept = {"marked": "fwmark" in raw, "protocol": raw.get("protocol", "none")}
            yield f"v{family} {raw['src']} {raw['table']} {raw['priority']}", kept


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


def ruleset(fixture: Fixture) -> str:
    """Every packet filter rule of the host, whichever tool wrote it."""
    listings = (("nft", "list", "ruleset"), ("iptables-save",), ("ip6tables-save",))
    with fixture.host.entered():
        return "\n".join(
            subprocess.run(words, capture_output=True, text=True, check=False).stdout for words in listings
        )
