"""What a host's kernel and its CNI directories hold, as comparable text: the ground for "nothing is left"."""

from __future__ import annotations

import json
import re
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.e2e.lab.host import Host

State = dict[str, list[str]]

QUESTIONS = """
ip -j -d addr; echo
ip -j -4 route show table all; echo
ip -j -6 route show table all; echo
ip -j rule; echo
nft -j list ruleset
"""
LEASES = "/var/lib/cni/networks"
COUNTS = re.compile(r'"(bytes|packets)": \d+(, )?')
KEPT_BY_HOST_LOCAL = ("lock", "last_reserved_ip.")


def observe(host: Host) -> State:
    """Links, addresses, routes, rules and nft objects of the host, and its lease and result files."""
    answers = [
        json.loads(line or "[]") for line in host.run("sh", "-c", QUESTIONS).stdout.split("\n") if line
    ]
    links, routes4, routes6, rules, nft = answers
    return {
        "links": sorted(map(_link, links)),
        "addresses": sorted(
            f"{link['ifname']} {address['local']}/{address['prefixlen']}"
            for link in links
            for address in link["addr_info"]
            if address["scope"] != "link"
        ),
        "routes": sorted(filter(None, map(_route, routes4 + routes6))),
        "rules": sorted(json.dumps(rule, sort_keys=True) for rule in rules),
        "nft": sorted(_nft(entry) for entry in nft["nftables"] if "metainfo" not in entry),
        "leases": leases(host),
        "locks": _locks(host),
        "results": sorted(p.name for p in host.path("/var/lib/cni/results").glob("*")),
    }


def leases(host: Host, directory: str = LEASES) -> list[str]:
    """All files below the data directory save those host-local keeps by design."""
    root = host.path(directory)
    files = (path for path in root.rglob("*") if not path.is_dir() or path.is_symlink())
    return sorted(
        str(path.relative_to(root))
        for path in files
        if not path.name.startswith(KEPT_BY_HOST_LOCAL) and not _beside_the_networks(path.relative_to(root))
    )


def tree(root: Path) -> list[str]:
    """Every file below ROOT: name, kind, permissions, content."""
    return sorted(f"{path.relative_to(root)} {_kind_and_content(path)}" for path in [root, *root.rglob("*")])


def settled(look: Callable[[], Any], wanted: object, seconds: float = 3) -> Any:
    """What LOOK sees once that is WANTED, or at the end of the time: the kernel removes some things late."""
    deadline = time.monotonic() + seconds
    while (seen := look()) != wanted and time.monotonic() < deadline:
        time.sleep(0.05)
    return seen


def assert_unchanged(host: Host, before: State) -> None:
    """Fail with a line for everything that is there and was not, or was there and is not."""
    changes = differences(before, settled(lambda: observe(host), before))
    if changes:
        raise AssertionError("\n".join(["the host is not as it was:", *changes]))


def differences(before: State, after: State) -> list[str]:
    """One line per thing more or less: `links: + veth…`."""
    return [
        f"{what}: {sign} {thing}"
        for what in before
        for sign, mine, other in (("+", after[what], before[what]), ("-", before[what], after[what]))
        for thing in mine
        if thing not in other
    ]


def _locks(host: Host) -> list[str]:
    """Lock files but host-local's and the iptables program's."""
    files = [file for top in ("/run", "/var/lib/cni") for file in host.path(top).rglob("*lock*")]
    return sorted(str(file) for file in files if file.is_file() and file.name not in ("lock", "xtables.lock"))


def _link(link: dict[str, Any]) -> str:
    kind = link.get("linkinfo", {}).get("info_kind", "")
    return f"{link['ifname']} {kind} master={link.get('master')} mtu={link['mtu']}"


def _route(route: dict[str, Any]) -> str | None:
    """No link-local ones and none of the local table: the kernel has them by its own clock."""
    dst = str(route["dst"])
    if route.get("table") == "local" or dst.startswith(("fe80", "ff00")):
        return None
    words = [dst, *(f"{key}={route[key]}" for key in ("gateway", "dev", "table", "protocol") if key in route)]
    return " ".join(words)


def _nft(entry: dict[str, Any]) -> str:
    [(kind, body)] = entry.items()
    body.pop("handle", None)
    return f"{kind} {COUNTS.sub('', json.dumps(body, sort_keys=True))}"


def _beside_the_networks(path: Path) -> bool:
    """An index or the like lies beside the networks' directories, whose names cannot begin with a dot."""
    return path.parts[0].startswith(".")


def _kind_and_content(path: Path) -> str:
    mode = path.lstat().st_mode
    content: object = None
    if stat.S_ISLNK(mode):
        content = path.readlink()
    elif stat.S_ISREG(mode):
        content = path.read_bytes()
    return f"{stat.filemode(mode)} {content!r}"
