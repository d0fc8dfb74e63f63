"""Reads and writes what the keeper tells the plugin of one network, and what the plugin asks of the keeper.

    <run>/blocks/<network>/blocks.json    what this host has; below
    <run>/blocks/<network>/state.json     see contract/snapshot.py
    <run>/blocks/<network>/demand/more-4  a call found all IPv4 blocks full
    <run>/blocks/<network>/demand/ip-…    a call wants this address, which is in no block of this host

A demand is answered when its file is gone: the answer is in blocks.json by then.
"""

import os
import stat
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from ipaddress import ip_address
from typing import Any, NamedTuple

from cni_plugins.errors import IoFailed
from cni_plugins.ipam_cluster.subnets import parsed
from cni_plugins.protocol import json_text
from cni_plugins.protocol.fields import IPAddress, IPNetwork

NAME = "blocks.json"
_DEMANDS = "demand"
_MORE, _FIXED = "more-", "ip-"
_LARGEST = 1 << 20  # bytes
_MOST_DEMANDS = 1000  # answered in one round
_PAUSE = 0.02  # seconds between two looks


class Blocks(NamedTuple):
    """What this host has of one network.

    :param addresses: fixed addresses claimed for this host, in none of its blocks, and when they were.
    :param taken: addresses in our blocks that belong to other hosts, which have claimed them before.
    :param refused: addresses that were asked for lately, the host that has each, and when it was said.
    :param exhausted: subnets of which no block is left, as the store last said.
    """

    node: str
    blocks: tuple[IPNetwork, ...] = ()
    addresses: Mapping[IPAddress, float] = {}
    taken: Mapping[IPAddress, str] = {}
    refused: Mapping[IPAddress, tuple[str, float]] = {}
    exhausted: tuple[IPNetwork, ...] = ()

    def has(self, address: IPAddress) -> bool:
        """Say whether this host may give out an address."""
        inside = any(address in block for block in self.blocks if block.version == address.version)
        return address in self.addresses or (inside and address not in self.taken)

    def document(self) -> dict[str, Any]:
        return {
            "self": self.node,
            "blocks": list(map(str, self.blocks)),
            "addresses": list(map(str, self.addresses)),
            "granted": {str(one): since for one, since in self.addresses.items()},
            "taken": {str(one): node for one, node in self.taken.items()},
            "refused": {str(one): list(by) for one, by in self.refused.items()},
            "exhausted": list(map(str, self.exhausted)),
        }


def read(directory: str) -> Blocks | None:
    """Return what the keeper last wrote; None: nothing yet.

    :raises IoFailed: when the file cannot be read, or is not one of the keeper's.
    """
    path = f"{directory}/{NAME}"
    try:
        content = _content(path)
    except FileNotFoundError:
        return None
    except OSError as err:
        raise IoFailed(f"{path}: {err.strerror}", f"errno {err.errno}") from err
    try:
        return of_document(json_text.load(content))
    except (ValueError, TypeError, AttributeError) as err:
        raise IoFailed(f"{path} is not as the keeper writes it: {err}", path) from err


def _content(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(0, "not a regular file")
        return os.read(fd, _LARGEST)
    finally:
        os.close(fd)


def of_document(found: Any) -> Blocks:  # noqa: ANN401 (JSON is anything)
    """:raises ValueError: and TypeError and AttributeError, when it is not one of `Blocks.document`."""
    if not isinstance(found, dict) or not isinstance(found.get("self"), str):
        raise ValueError("self is missing")  # noqa: TRY004 (the callers expect ValueErrors)
    granted = found.get("granted", {})
    return Blocks(
        node=found["self"],
        blocks=_networks(found.get("blocks", [])),
        addresses={ip_address(one): float(granted.get(one, 0.0)) for one in found.get("addresses", [])},
        taken={ip_address(one): str(node) for one, node in found.get("taken", {}).items()},
        refused={
            ip_address(one): (str(node), float(since))
            for one, (node, since) in found.get("refused", {}).items()
        },
        exhausted=_networks(found.get("exhausted", [])),
    )


def _networks(texts: Any) -> tuple[IPNetwork, ...]:  # noqa: ANN401 (JSON is anything)
    found = tuple(parsed(text) if isinstance(text, str) else None for text in texts)
    if None in found:
        raise ValueError(f"{texts[found.index(None)]} is not a network")
    return tuple(network for network in found if network is not None)


# --------------------------------------------------------------------------------------------- demands


def more(version: int) -> str:
    """Return the name of the demand for another block of a family."""
    return f"{_MORE}{version}"


def fixed(address: IPAddress) -> str:
    """Return the name of the demand for an address."""
    return f"{_FIXED}{address}"


def demand_and_wait(directory: str, names: Iterable[str], seconds: float) -> bool:
    """Ask the keeper; return whether it has answered all in time. An unanswered demand is withdrawn.

    :raises IoFailed: when it cannot be asked.
    """
    paths = [f"{directory}/{_DEMANDS}/{name}" for name in names]
    try:
        with suppress(FileExistsError):
            os.mkdir(f"{directory}/{_DEMANDS}", 0o700)
        for path in paths:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    except OSError as err:
        raise IoFailed(f"{directory}/{_DEMANDS}: {err.strerror}", f"errno {err.errno}") from err
    end = time.monotonic() + seconds
    while waiting := [path for path in paths if os.path.lexists(path)]:
        if time.monotonic() > end:
            answered(waiting)
            return False
        time.sleep(_PAUSE)
    return True


def answered(paths: Iterable[str]) -> None:
    """Remove demands."""
    for path in paths:
        with suppress(FileNotFoundError):
            os.unlink(path)


class Demands(NamedTuple):
    """What calls ask for.

    :param more: IP versions of which they found all blocks full.
    """

    paths: tuple[str, ...] = ()
    more: frozenset[int] = frozenset()
    fixed: tuple[IPAddress, ...] = ()


def demands(directory: str) -> Demands:
    """Return the demands that wait for an answer; other files there count as demands for nothing."""
    try:
        names = sorted(os.listdir(f"{directory}/{_DEMANDS}"))[:_MOST_DEMANDS]
    except OSError:
        return Demands()
    wanted = [name.removeprefix(_FIXED) for name in names if name.startswith(_FIXED)]
    networks = (one for one in map(parsed, wanted) if one is not None)
    return Demands(
        tuple(f"{directory}/{_DEMANDS}/{name}" for name in names),
        frozenset(version for version in (4, 6) if more(version) in names),
        tuple(one.network_address for one in networks if one.num_addresses == 1),
    )
