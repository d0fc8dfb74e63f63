"""Creates rules of published ports whose conditions are given in the words of nft(8), which translates them.

What a network's config may say is not limited to what is built here, so these rules, one for each map and
hook, are created by the program `nft` when the first container of the network needs them.
"""

import subprocess
from collections.abc import Callable

from cni_plugins.errors import KernelRefused
from cni_plugins.kernel.firewall import attachment_rules, rule_removal
from cni_plugins.kernel.firewall.attachment_rules import Objects, Rule
from cni_plugins.kernel.firewall.iptables import find_program
from cni_plugins.kernel.firewall.nft_table import TRIES, Chain, Set
from cni_plugins.kernel.session import locks
from cni_plugins.kernel.session.session import Session
from cni_plugins.ownership import NFT_TABLE

_FAMILY = {4: "ip", 6: "ip6"}
_PROTO = {4: "ipv4", 6: "ipv6"}
_TIMEOUT = 60  # seconds


class Worded(Exception):
    """A rule is missing that nft(8) must translate."""


def installed() -> bool:
    return find_program("nft") is not None


def worded(chain: Chain, port_map: Set, version: int, conditions: tuple[str, ...], *, at: bool) -> Rule:
    """Return a rule that sends packets where the map says, if the conditions are met as well.

    :param at: whether the keys of the map begin with the host's address.
    """
    family = _FAMILY[version]
    key = f"{family} daddr . meta l4proto . th dport" if at else "meta l4proto . th dport"

    def expressions() -> bytes:
        raise Worded

    words = (
        f"meta nfproto {_PROTO[version]} {' '.join(conditions)} fib daddr type local "
        f"dnat {family} to {key} map @{port_map.name}"
    )
    return Rule(chain, (port_map,), expressions, words)


def with_worded_rules(session: Session, objects: Objects, ensure: Callable[[], None]) -> None:
    """Add objects by a function, with those rules first that nft(8) must translate."""
    for _ in range(TRIES):
        try:
            ensure()
        except Worded:
            with locks.locked(f"{NFT_TABLE} worded rules"):
                _create(session, objects)
        else:
            return
    raise KernelRefused("the rules with conditions do not last", f"table {NFT_TABLE}, {TRIES} tries")


def _create(session: Session, objects: Objects) -> None:
    worded_rules = [rule for rule in objects.rules if rule.words]
    missing = attachment_rules.prepare(session, objects._replace(rules=tuple(worded_rules)))
    lines = [
        f'add rule inet {NFT_TABLE} {rule.chain.name} {rule.words} comment "{rule.mark}"'
        for rule in worded_rules
        if rule.key in missing
    ]
    try:
        _run_nft("\n".join([*lines, ""]))
    except KernelRefused:
        rule_removal.sweep(session, objects.family, [rule.key[0] for rule in worded_rules])
        raise


def _run_nft(text: str) -> None:
    program = find_program("nft")
    if program is None:
        raise KernelRefused("nft is not installed", "conditionsV4 and conditionsV6 need it")
    try:
        done = subprocess.run(
            [program, "-f", "-"], input=text, capture_output=True, text=True, timeout=_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired as err:
        raise KernelRefused("nft did not finish", f"within {_TIMEOUT} s") from err
    if done.returncode != 0:
        raise KernelRefused("nft refused the conditions", f"{done.stderr.strip()[:500]}: {text.strip()}")
