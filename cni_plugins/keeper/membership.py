"""Makes this host a member of a network in a store: name, address, subnets or blocks, and record."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from ipaddress import ip_address
from typing import NamedTuple

from cni_plugins.errors import CniError
from cni_plugins.keeper import claims, own_record
from cni_plugins.keeper.claims import Wanted
from cni_plugins.keeper.files import NetworkFiles
from cni_plugins.keeper.followed import Followed
from cni_plugins.keeper.own_record import Underlay
from cni_plugins.keeper.sift import Sound, sound
from cni_plugins.leases.leasefile import is_address
from cni_plugins.protocol import json_text
from cni_plugins.protocol.fields import IPAddress, IPNetwork, get, parse_cidr, shown
from cni_plugins.registries.network_registry import AllTaken, Member, NetworkRegistry, TakenByOther

_LEASES = "/var/lib/cni/networks"


class Host(NamedTuple):
    """What membership needs to know of this host; in tests, of another.

    :param epoch: identifies this boot.
    """

    me: Member
    epoch: str
    find_underlay: Callable[[Followed, IPAddress | None], Underlay] = own_record.underlay
    is_in_use: Callable[[str], bool] = own_record.is_in_use


class Membership:
    """What this host is in one network."""

    def __init__(self, of: Followed, files: NetworkFiles, host: Host) -> None:
        self._of = of
        self._files = files
        self._host = host

    @property
    def me(self) -> Member:
        return self._host.me

    def former(self) -> Sound | None:
        """Return what this host has published last, if that still fits the network."""
        document = self._files.own()
        try:
            return sound(self.me.node, document, self._of.extent) if document else None
        except (CniError, ValueError):
            return None

    def has_moved(self) -> bool:
        """Say whether this host has another underlay address than the one it has published."""
        known = self.former()
        if known is None:
            return False
        try:
            return self._host.find_underlay(self._of, known.record.vtep).vtep != known.record.vtep
        except CniError:
            return False

    def settle(self, registry: NetworkRegistry, listed: Mapping[str, bytes]) -> Sound:
        """Own and publish what this host is; nothing is written if that is so already.

        :param listed: records of all hosts, whose subnets and blocks are not claimed.
        :raises TakenByOther: when another host has this one's name, address, or subnet.
        :raises AllTaken: when there is no free one.
        :raises CniError: when this host has no underlay address.
        :raises StoreFailed:
        """
        former = self._files.own()
        known = self.former()
        at = self._host.find_underlay(self._of, known.record.vtep if known else None)
        registry.require_free(self.me, str(at.vtep))
        registry.adopt(self.me, str(at.vtep))
        parts, got = self._own_parts(registry, known, listed)
        document = own_record.document(self.me, at, parts, self._of, former, self._host.epoch)
        made = sound(self.me.node, document, self._of.extent)
        try:
            registry.join(self.me, document)
        except TakenByOther:
            for part in got:
                registry.disown(self.me, part)
            raise
        self._files.write_own(document)
        self._give_back(registry, parts)
        return made

    # ------------------------------------------------------------------------------------ subnets and blocks

    def _own_parts(
        self, registry: NetworkRegistry, known: Sound | None, listed: Mapping[str, bytes]
    ) -> tuple[list[str], list[str]]:
        """Return what this host owns now, and what of it is new."""
        wants = claims.wanted(self._of.config)
        if not wants:
            return [], []
        owned = {part.cidr: part.owner for part in registry.parts()}
        mine = [cidr for cidr, owner in owned.items() if owner == self.me and _is_fit(cidr, wants)]
        got: list[str] = []
        for part in self._of.extent.parts(known.record) if known else ():
            if str(part) not in mine and _is_fit(str(part), wants) and self._own_again(registry, str(part)):
                mine.append(str(part))
        taken = [*_networks(cidr for cidr, owner in owned.items() if owner != self.me)]
        taken += _listed_parts(listed, self.me.node)
        for want in wants:
            of_this = [part for part in _networks(mine) if claims.is_fit(part, want)]
            for _ in range(self._lacking(of_this)):
                new = self._claim(registry, want, [*taken, *_networks(mine)], needed=not of_this)
                got += new
                mine += new
        return mine, got

    def _own_again(self, registry: NetworkRegistry, cidr: str) -> bool:
        """Own what this host had before the store lost it; another may have it if nothing here uses it."""
        other = registry.own(self.me, cidr)
        if other is not None and self._host.is_in_use(self._of.network):
            raise TakenByOther(
                f"{self._of.extent.word} {cidr}, in which this host has containers, is now that of node "
                f"{shown(other.node)}"
            )
        return other is None

    def _lacking(self, parts: Sequence[IPNetwork]) -> int:
        if not parts:
            return 1
        is_block = self._of.config.mode == "l2"
        return int(is_block and claims.needs_another(parts, self._used(parts)))

    def _claim(
        self, registry: NetworkRegistry, want: Wanted, taken: Sequence[IPNetwork], *, needed: bool
    ) -> list[str]:
        for cidr in claims.candidates(want, self.me.node, taken):
            if registry.own(self.me, cidr) is None:
                return [cidr]
        if needed:
            raise AllTaken(f"every {self._of.extent.word} /{want.length} of {want.network} has an owner")
        return []  # a host with a full block goes on with what it has

    def _used(self, blocks: Sequence[IPNetwork]) -> int:
        """Return how many addresses of the blocks host-local has leased."""
        ipam = get(self._of.of.conf, "ipam")
        directory = get(ipam, "dataDir") if isinstance(ipam, dict) else None
        base = directory if isinstance(directory, str) and directory else _LEASES
        try:
            names = [name for name in os.listdir(f"{base}/{self._of.network}") if is_address(name)]
        except (OSError, ValueError):
            return 0
        return sum(any(_holds(block, name) for block in blocks) for name in names)

    def is_block_short(self) -> bool:
        """Say whether the blocks are so full that another one is needed."""
        former = self.former()
        if self._of.config.mode != "l2" or former is None or not former.record.blocks:
            return False
        return claims.needs_another(former.record.blocks, self._used(former.record.blocks))

    def _give_back(self, registry: NetworkRegistry, parts: Sequence[str]) -> None:
        """Disown what this host has of a range or length that the config no longer has."""
        if self._host.is_in_use(self._of.network):
            return
        for part in registry.parts():
            if part.owner == self.me and part.cidr not in parts:
                registry.disown(self.me, part.cidr)


def _is_fit(cidr: str, wants: Sequence[Wanted]) -> bool:
    return any(claims.is_fit(part, want) for part in _networks((cidr,)) for want in wants)


def _networks(cidrs: Sequence[str] | Iterator[str]) -> Iterator[IPNetwork]:
    """Yield what is a network; strangers may write any key."""
    for cidr in cidrs:
        try:
            yield parse_cidr(cidr).network
        except ValueError:
            continue


def _listed_parts(listed: Mapping[str, bytes], me: str) -> Iterator[IPNetwork]:
    """Yield what records list, be they valid or not."""
    for node, value in listed.items():
        if node == me:
            continue
        try:
            found = json_text.load(value)
        except ValueError:
            continue
        for key in ("subnet", "subnets", "block", "blocks"):
            parts = found.get(key) if isinstance(found, dict) else None
            items = parts if isinstance(parts, list) else [parts]
            yield from _networks([item for item in items if isinstance(item, str)])


def _holds(block: IPNetwork, address: str) -> bool:
    try:
        found = ip_address(address)
    except ValueError:
        return False
    return found.version == block.version and found in block
