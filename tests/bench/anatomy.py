"""Where the time of a warm ADD goes, and the floor under it: what `ip` needs to make the same."""

import ipaddress
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests import namespaces
from tests.bench import timing
from tests.bench.columns import Column
from tests.bench.rows import ANATOMY, Row
from tests.differential.suites import TOOL_PATH
from tests.namespaces import Namespace

WHOLE = "warm ADD, as the runtime waits for it"
WORKER = "… the worker, from the call's arrival to its answer"
AROUND = "… start of the executable, hand-over, its end"
LINKS = "floor: the same links, addresses and routes by two `ip -batch`"
NO_LINKS = "… two `ip -batch` with nothing to do"
LINKS_KERNEL = "… so the kernel's share"
RULES = "floor: the same chain, sets, elements and rules by `nft -f`"
NO_RULES = "… `nft -f` with nothing to do"
RULES_KERNEL = "… so the kernel's share of that"
NOTHING = "floor: a process that does nothing (`true`)"
_OPERATIONS = (
    *(WHOLE, WORKER, AROUND),
    *(LINKS, NO_LINKS, LINKS_KERNEL),
    *(RULES, NO_RULES, RULES_KERNEL),
    NOTHING,
)
_DIFFERENCES = ((AROUND, WHOLE, WORKER), (LINKS_KERNEL, LINKS, NO_LINKS), (RULES_KERNEL, RULES, NO_RULES))
_BOX, _FLOOR_BOX, _HOST_END, _TABLE = "box1", "floor", "cnid-floor", "cnid_floor"


def measure(column: Column, name: str, config: Mapping[str, Any], rounds: int) -> list[Row]:
    """The rows of that config; the first round makes the bridge and is not counted."""
    assert column.agent is not None
    rows = {operation: Row(operation, table=ANATOMY) for operation in _OPERATIONS}
    for number in range(rounds + 1):
        whole, ips = _added(column, config)
        parts = {WHOLE: whole, **_links(column, ips), NOTHING: _run(column.fixture.host, "true")}
        if config.get("ipMasq"):
            parts |= _rules(column.fixture.host, ips)
        if number:
            for operation, milliseconds in parts.items():
                rows[operation].samples[name].append(milliseconds)
    column.confirm()
    rows[WORKER].samples[name].extend(column.agent.own_times("bridge", "ADD")[-rounds:])
    for rest, whole_of_it, part in _DIFFERENCES:
        pairs = zip(rows[whole_of_it].samples[name], rows[part].samples[name], strict=True)
        rows[rest].samples[name].extend(more - less for more, less in pairs)
    return list(rows.values())


def _added(column: Column, config: Mapping[str, Any]) -> tuple[float, list[dict[str, str]]]:
    """Milliseconds of an ADD, and the addresses that it gave and that are free again."""
    added = column.measure(column.call("bridge", "ADD", config, _BOX))
    column.measure(column.call("bridge", "DEL", config, _BOX))
    return added.wall * 1000, json.loads(added.stdout)["ips"]


def _links(column: Column, ips: list[dict[str, str]]) -> dict[str, float]:
    """What iproute2 needs for another container on the plugin's own bridge."""
    host, box = column.fixture.host, column.fixture.box(_FLOOR_BOX)
    outside = [
        f"link add {_HOST_END} type veth peer name eth0 netns {box.path}",
        f"link set {_HOST_END} master cni0 up",
    ]
    inside = ["link set eth0 up"]
    for ip in ips:
        v6 = _is_v6(ip)
        inside.append(f"address add {ip['address']} dev eth0{' nodad' if v6 else ''}")
        inside.append(f"route add {'::/0' if v6 else '0.0.0.0/0'} via {ip['gateway']}")
    whole = _batch(host, outside) + _batch(box, inside)
    with host.entered():
        namespaces.run("ip", "link", "del", _HOST_END)
    return {LINKS: whole, NO_LINKS: _batch(host, []) + _batch(box, [])}


def _rules(host: Namespace, ips: list[dict[str, str]]) -> dict[str, float]:
    """What nft needs to masquerade these addresses as the plugin does, in one transaction."""
    sets, rules = [], []
    for ip in ips:
        family, kind = ("ip6", "ipv6_addr") if _is_v6(ip) else ("ip", "ipv4_addr")
        address, subnet = ip["address"].split("/")[0], ipaddress.ip_interface(ip["address"]).network
        sets.append(f"set {family}s {{ type {kind}; elements = {{ {address} }}; }};")
        rules.append(f"{family} saddr @{family}s {family} daddr != {subnet} masquerade;")
    hook = "type nat hook postrouting priority srcnat;"
    text = f"table inet {_TABLE} {{ {' '.join(sets)} chain c {{ {hook} {' '.join(rules)} }}; }}\n"
    whole = _run(host, "nft", "-f", "-", text=text)
    with host.entered():
        namespaces.run("nft", "delete", "table", "inet", _TABLE)
    return {RULES: whole, NO_RULES: _run(host, "nft", "-f", "-")}


def _is_v6(ip: Mapping[str, str]) -> bool:
    return ":" in ip["address"]


def _batch(place: Namespace, lines: list[str]) -> float:
    return _run(place, "ip", "-batch", "-", text="".join(f"{line}\n" for line in lines))


def _run(place: Namespace, program: str, *words: str, text: str = "") -> float:
    """Milliseconds of a program, started as a plugin is.

    :raises RuntimeError: when it fails.
    """
    path = shutil.which(program, path=TOOL_PATH)
    if path is None:
        raise RuntimeError(f"{program} is not installed")
    with place.entered():
        done = timing.measure(timing.Call(Path(path), {"PATH": TOOL_PATH}, text.encode(), words))
    if done.code != 0:
        raise RuntimeError(f"{program} {' '.join(words)} failed: {text}")
    return done.wall * 1000
