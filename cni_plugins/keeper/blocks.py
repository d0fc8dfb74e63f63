"""Claims blocks and single addresses for this host in a store, for the IPAM plugin cluster.

`BlockKeeper.step` is one round: it reads what all hosts have, claims what this one lacks, gives back what it
does not need, and writes blocks.json and state.json. A round may end anywhere, also by SIGKILL:

* A block is claimed before it is written down, so nothing is given out that is not ours.
* It is removed from blocks.json, under the lock that calls hold while they read it and reserve, before it is
  given back.
* What is ours in the store and not written down is written down by the next round.

Two hosts may claim parts of different sizes that overlap, as the store compares names only. So each looks
again after its claim: a host that sees a block of another one there gives its own back, and one that sees a
fixed address in its block does not give that one out. As a store answers in the order in which it writes, at
least one of the two sees the other.
"""

import os
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from cni_plugins.contract import snapshot
from cni_plugins.contract.snapshot import KeeperState, StateName
from cni_plugins.errors import CniError
from cni_plugins.ipam_cluster import blocks_file
from cni_plugins.ipam_cluster.blocks_file import Blocks, Demands
from cni_plugins.ipam_cluster.subnets import Subnet, parsed, span
from cni_plugins.keeper.block_holdings import Holdings, Spans, holdings, overlap, spare, strangers, use
from cni_plugins.keeper.blocks_configs import Followed
from cni_plugins.keeper.files import USUAL, Places
from cni_plugins.leases.leasefile import is_address
from cni_plugins.leases.store import opened
from cni_plugins.protocol.fields import IPAddress, IPNetwork, parse_address
from cni_plugins.registries.network_registry import Member, NetworkRegistry, TakenByOther
from cni_plugins.registries.store import StoreFailed

_GRACE = 60.0  # seconds that a fixed address stays claimed without a lease, for the call that asked for it
_TOLD = 60.0  # seconds for which a refusal can be read
_LIFE, _LIFE_AGAIN = 60.0, 15.0  # seconds
_EVERY = 5.0  # seconds between rounds that nobody asks for: leases are counted then
_LONGEST_PAUSE = 30.0  # seconds after a round that failed
_CONFIRM_AGAIN = 30.0  # seconds after which state.json is written although nothing changed


class Round(NamedTuple):
    """What one round came to.

    :param trouble: a sentence, empty if there is none.
    :param is_complete: False: the store failed on the way, and no demand was answered.
    """

    state: StateName
    trouble: str
    blocks: Blocks | None
    is_complete: bool = True


# --------------------------------------------------------------------------------------------- the keeper


class _NotBelieved(Exception):
    """What the store lists cannot be all that there is."""


class BlockKeeper:
    """Keeps the blocks of this host in one network.

    One thread uses it. `tick` paces itself; who calls `step` waits as long as it likes.
    """

    def __init__(
        self,
        followed: Followed,
        registry: NetworkRegistry,
        me: Member,
        places: Places = USUAL,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._followed = followed
        self._registry = registry
        self._me = me
        self._run = snapshot.blocks_dir(followed.network, places.run)
        self._kept = snapshot.blocks_dir(followed.network, places.kept)
        self._now = now
        self._entered = False
        self._lived = 0.0
        self._state: KeeperState | None = None
        self._failures = 0
        self._due = 0.0
        self._restore()

    def has_demand(self) -> bool:
        """Say whether a call waits for an answer."""
        return bool(blocks_file.demands(self._run).paths)

    def tick(self) -> Round | None:
        """Do a round if one is due or a call waits for it; to be called every tenth of a second.

        :raises OSError: see `step`.
        """
        is_asked = not self._failures and self.has_demand()
        if time.monotonic() < self._due and not is_asked:
            return None
        done = self.step()
        self._failures = 0 if done.is_complete else self._failures + 1
        jitter = random.uniform(0.3, 1)  # noqa: S311 (no secret)
        pause = min(_LONGEST_PAUSE, 2.0**self._failures) * jitter if self._failures else _EVERY
        self._due = time.monotonic() + pause
        return done

    def step(self) -> Round:
        """Do one round, whatever the store does meanwhile.

        :raises OSError: when this host's files cannot be written.
        """
        state: StateName = "following"
        trouble, is_complete = "", False
        try:
            trouble = self._round()
            is_complete = True
            state = "refused" if trouble else state
        except StoreFailed as err:
            state, trouble = "broken", str(err)
        except _NotBelieved as err:
            state, trouble = "held", str(err)
        except TakenByOther as err:
            state, trouble = "refused", str(err)
        except CniError as err:  # the leases cannot be read
            state, trouble = "broken", f"{err.msg} ({err.full_details()})"
        self._tell(state, trouble)
        return Round(state, trouble, self._written(), is_complete)

    def give_back(self, block: IPNetwork) -> bool:
        """Give back a block or single address of this host, unless it is leased; say whether that was done.

        :raises StoreFailed: when the store fails; the next round then has the block again.
        """
        if not self._withdraw([block]):
            return False
        self._registry.disown(self._me, str(block))
        return True

    # ------------------------------------------------------------------------------------------ one round

    def _round(self) -> str:
        """Return what is wrong although the store answers."""
        before = self._written() or Blocks(self._me.node)
        demands = blocks_file.demands(self._run)
        subnets = self._followed.subnets
        found = self._holdings()
        lost = [*self._lost(before, found)]
        if not self._entered or lost:
            self._registry.enter(self._me)
            self._entered = True
        self._show_life()
        gone = self._own_again(lost)
        if lost:
            found = self._holdings()
        names = self._leased()
        refused = {one: by for one, by in before.refused.items() if self._now() - by[1] < _TOLD}
        claimed = self._claim_fixed(demands.fixed, found, refused)
        exhausted = self._claim_blocks(demands, found, names)
        found = self._holdings()  # again: see above
        self._require_believable(found, lost, gone)
        found, conflicts = self._without_conflicts(found, before, names)
        found = self._without_doubtful(claimed, found, refused)
        blocks = self._described(before, found, refused)._replace(exhausted=exhausted)
        self._write(blocks)
        blocks_file.answered(demands.paths)
        self._give_back_spare(blocks, subnets, names)
        self._release_fixed(blocks, demands, names)
        return "; ".join([*gone, *conflicts, *strangers(found, subnets, names)])

    def _holdings(self) -> Holdings:
        return holdings(self._registry.parts(), self._me, self._followed.subnets)

    def _lost(self, before: Blocks, found: Holdings) -> Iterator[IPNetwork]:
        """Yield what is written down and not ours in the store: it was emptied, or somebody released it."""
        for block in before.blocks:
            if block not in found.mine and any(overlap(block, one.network) for one in self._followed.subnets):
                yield block
        for address in before.addresses:
            if address not in found.fixed and any(address in one.network for one in self._followed.subnets):
                yield _single(address)

    def _own_again(self, lost: Iterable[IPNetwork]) -> list[str]:
        """Own what was lost; return a sentence for each that another host has now."""
        faults = []
        for network in lost:
            other = self._registry.own(self._me, str(network))
            if other is not None:
                faults.append(f"{network} belongs to node {other.node} now")
        return faults

    def _require_believable(self, found: Holdings, lost: Sequence[IPNetwork], gone: Sequence[str]) -> None:
        """:raises _NotBelieved: when what we wrote is not listed, as for a token without rights."""
        own = {*found.mine, *map(_single, found.fixed)}
        missing = [str(network) for network in lost if network not in own]
        if len(missing) > len(gone):
            raise _NotBelieved(f"the store does not list what this host has: {', '.join(missing)}")

    def _claim_fixed(
        self, wanted: Iterable[IPAddress], found: Holdings, refused: dict[IPAddress, tuple[str, float]]
    ) -> list[IPAddress]:
        """Claim addresses that calls ask for; return those that are ours now, and were not before."""
        claimed = []
        for address in wanted:
            if not any(subnet.gives_out(address) for subnet in self._followed.subnets):
                continue
            holder = found.holder(address)
            if not holder and (address in found.fixed or any(address in block for block in found.mine)):
                continue
            other = None if holder else self._registry.own(self._me, str(_single(address)))
            if holder or other is not None:
                refused[address] = (holder or (other.node if other else ""), self._now())
            else:
                claimed.append(address)
        return claimed

    def _claim_blocks(
        self, demands: Demands, found: Holdings, names: Sequence[IPAddress]
    ) -> tuple[IPNetwork, ...]:
        """Claim one block of each subnet that needs one; return the subnets that have none left."""
        exhausted = []
        taken = found.singles_in(found.mine)
        for subnet in self._followed.subnets:
            own = [block for block in found.mine if overlap(block, subnet.network)]
            current = use(subnet, own, taken, names)
            hurry = subnet.version in demands.more and current.leased >= current.size
            if (current.is_tight or hurry) and not self._claim_block(subnet, found):
                exhausted.append(subnet.network)
        return tuple(exhausted)

    def _claim_block(self, subnet: Subnet, found: Holdings) -> bool:
        others = Spans(found.others, subnet.version)
        for candidate in subnet.candidates(self._me.node):
            if candidate in found.mine or others.node_in(*span(candidate)):
                continue
            if self._registry.own(self._me, str(candidate)) is None:
                return True
        return False

    def _without_conflicts(
        self, found: Holdings, before: Blocks, names: Sequence[IPAddress]
    ) -> tuple[Holdings, list[str]]:
        """Give back blocks that overlap one of another host; those with leases are only not used any more."""
        faults, keep = [], []
        for block in found.mine:
            node = found.block_across(block)
            if not node:
                keep.append(block)
                continue
            if any(name in block for name in names):
                faults.append(f"block {block}, which has leases, overlaps a block of node {node}")
                continue
            if block not in before.blocks or self._withdraw([block]):
                self._registry.disown(self._me, str(block))
        return found._replace(mine=tuple(keep)), faults

    def _without_doubtful(
        self, claimed: Iterable[IPAddress], found: Holdings, refused: dict[IPAddress, tuple[str, float]]
    ) -> Holdings:
        """Give back addresses claimed in this round that are in a block of another host by now."""
        for address in claimed:
            node = found.holder(address)
            if node:
                self._registry.disown(self._me, str(_single(address)))
                refused[address] = (node, self._now())
                found = found._replace(fixed=tuple(one for one in found.fixed if one != address))
        return found

    def _described(
        self, before: Blocks, found: Holdings, refused: Mapping[IPAddress, tuple[str, float]]
    ) -> Blocks:
        now = self._now()
        granted = {one: min(before.addresses.get(one) or now, now) for one in found.fixed}
        return Blocks(
            node=self._me.node,
            blocks=found.mine,
            addresses=granted,
            taken=found.singles_in(found.mine),
            refused=refused,
        )

    # ---------------------------------------------------------------------------------------- giving back

    def _give_back_spare(self, blocks: Blocks, subnets: Sequence[Subnet], names: Sequence[IPAddress]) -> None:
        for subnet in subnets:
            for block in spare(subnet, blocks.blocks, blocks.taken, names):
                self.give_back(block)

    def _release_fixed(self, blocks: Blocks, demands: Demands, names: Sequence[IPAddress]) -> None:
        """Release single addresses that are not leased any more."""
        for address, since in blocks.addresses.items():
            if address not in names and address not in demands.fixed and self._now() - since > _GRACE:
                self.give_back(_single(address))

    def _withdraw(self, networks: Sequence[IPNetwork]) -> bool:
        """Remove blocks and single addresses from blocks.json, unless one is leased; say whether it was done.

        Calls hold the same lock while they read blocks.json and reserve.
        """
        with opened(self._followed.data_dir, self._followed.network):
            names = self._leased()
            if any(name in network for network in networks for name in names):
                return False
            found = self._written()
            if found is not None:
                single = {one.network_address for one in networks if one.num_addresses == 1}
                self._write(
                    found._replace(
                        blocks=tuple(one for one in found.blocks if one not in networks),
                        addresses={one: at for one, at in found.addresses.items() if one not in single},
                    )
                )
        return True

    # ---------------------------------------------------------------------------------------------- files

    def _leased(self) -> tuple[IPAddress, ...]:
        return leased(self._followed)

    def _written(self) -> Blocks | None:
        try:
            return blocks_file.read(self._run)
        except CniError:  # whoever wrote to it: what the store says is written again
            return None

    def _write(self, blocks: Blocks) -> None:
        """Write both copies if they differ; the one that survives a boot first."""
        for directory in (self._kept, self._run):
            try:
                same = blocks_file.read(directory) == blocks
            except CniError:
                same = False
            if not same:
                snapshot.write(directory, blocks_file.NAME, blocks.document())

    def _restore(self) -> None:
        """Write down what this host had before it booted, so that calls work before the store answers."""
        with suppress(CniError):
            if blocks_file.read(self._run) is None and (kept := blocks_file.read(self._kept)) is not None:
                snapshot.write(self._run, blocks_file.NAME, kept.document())

    def _show_life(self) -> None:
        if abs(self._now() - self._lived) >= _LIFE_AGAIN:
            self._registry.show_life(self._me, _LIFE)
            self._lived = self._now()

    def _tell(self, state: StateName, trouble: str) -> None:
        """Write state.json, if it says something new or is getting old."""
        last, now = self._state or snapshot.read_state(self._run), self._now()
        same = last is not None and (last.state, last.trouble) == (state, trouble)
        confirmed = now if state != "broken" else last.confirmed if last is not None else 0.0
        is_fresh = last is not None and 0 <= now - last.confirmed < _CONFIRM_AGAIN
        if same and self._state is not None and (is_fresh or state == "broken"):
            return
        since = last.since if last is not None and same else now
        self._state = KeeperState(state, trouble, since, confirmed)
        snapshot.write(self._run, "state.json", self._state._asdict())


def _single(address: IPAddress) -> IPNetwork:
    found = parsed(str(address))
    assert found is not None  # noqa: S101 (for the type checker)
    return found


def leased(followed: Followed) -> tuple[IPAddress, ...]:
    """Return the addresses that have a file, which is all that calls look at."""
    found: list[IPAddress] = []
    try:
        listed = os.listdir(f"{followed.data_dir}/{followed.network}")
    except FileNotFoundError:
        return ()
    for name in filter(is_address, listed):
        with suppress(ValueError):
            found.append(parse_address(name))
    return tuple(found)
