"""Masquerades through the iptables executables, for hosts configured to use them.

Chain names and POSTROUTING rules are those of the reference, so either implementation removes the other's.
The reference has one chain for all interfaces of a container on a network; here the rules inside the chain
name their interface, so those of one interface can be removed without the others.
"""

import errno
import os
import shlex
from ipaddress import ip_interface
from typing import NamedTuple

from cni_plugins.errors import KernelRefused
from cni_plugins.kernel.deed import REMOVES, deed
from cni_plugins.kernel.firewall import read
from cni_plugins.kernel.firewall.masquerade import exclusions
from cni_plugins.kernel.netlink import nf_tables as wire
from cni_plugins.kernel.session.session import Session
from cni_plugins.ownership import Attachment, digest, quoted_ifname, unquoted_ifname
from cni_plugins.protocol.fields import IPInterface, IPNetwork
from cni_plugins.steps.firewall import DelIptablesMasquerade, DelStaleIptables, EnsureIptablesMasquerade

_COMMANDS = {4: "iptables", 6: "ip6tables"}
_MULTICAST = {4: "224.0.0.0/4", 6: "ff00::/8"}
_TABLE, _CHAIN_PREFIX = "nat", "CNI-"
_OLD_TABLES = {4: "/proc/net/ip_tables_names", 6: "/proc/net/ip6_tables_names"}
_ADMINISTRATOR = ":/usr/local/sbin:/usr/sbin:/sbin"
_TIMEOUT = 60  # seconds; a slow process may hold the xtables lock


class _Rule(NamedTuple):
    """One line of `iptables -S`, parsed as far as needed; `words` is the whole line."""

    chain: str
    words: tuple[str, ...]
    source: str
    target: str
    comment: str


def installed() -> bool:
    return _found("iptables-restore") is not None


def _found(command: str) -> str | None:
    """Return the path of an executable; a runtime's PATH may lack the directories of the administrator's."""
    import shutil

    return shutil.which(command, path=f"{os.environ.get('PATH') or os.defpath}{_ADMINISTRATOR}")


def chain_of(attachment: Attachment) -> str:
    """Return the reference's chain name, which does not depend on the interface."""
    return f"{_CHAIN_PREFIX}{digest(attachment.network + attachment.container_id, 24)}"


def _ensure(_session: Session, step: EnsureIptablesMasquerade) -> None:
    for family in sorted({address.version for address in step.addresses}):
        have = {rule.words for rule in _rules(family)}
        chains = {words[1] for words in have if words[0] == "-N"}
        chain = chain_of(step.attachment)
        lines = [] if chain in chains else [f"-N {chain}"]
        lines += [_quoted(words) for words in _wanted(step, family) if _listed(words) not in have]
        _restore(family, lines)


def _differs(_session: Session, step: EnsureIptablesMasquerade) -> str:
    for family in sorted({address.version for address in step.addresses}):
        have = {rule.words for rule in _rules(family)}
        missing = next((words for words in _wanted(step, family) if _listed(words) not in have), None)
        if missing is not None:
            return f"masquerade: {_COMMANDS[family]} has no rule {shlex.join(missing)}"
    return ""


def _delete(session: Session, step: DelIptablesMasquerade) -> None:
    """Remove this interface's rules, and the chain if no other interface has rules in it.

    Runs on every DEL, as the config may have named another backend at the time of ADD.
    """
    for family in _families_with(session, chain_of(step.attachment)):
        rules = _rules(family)
        chain, mine = chain_of(step.attachment), _inner_comment(step.attachment)
        sources = {rule.source for rule in rules if rule.chain == chain and rule.comment == mine}
        others = any(rule.target == chain and rule.source not in sources for rule in rules)
        _restore(family, _removal(rules, chain, sources, mine, keep=others))


def delete_reference(session: Session, attachment: Attachment, addresses: tuple[IPInterface, ...]) -> None:
    """Remove the reference's rules for these addresses, and its chain if no other rule jumps to it."""
    sources = {str(ip_interface(address.ip)) for address in addresses}
    chain = chain_of(attachment)
    for family in _families_with(session, chain):
        rules = _rules(family)
        jumps = [rule for rule in rules if rule.target == chain]
        others = any(rule.source not in sources for rule in jumps) and bool(sources)
        going = {rule.source for rule in jumps if not sources or rule.source in sources}
        _restore(family, _removal(rules, chain, going, "", keep=others))


def _delete_stale(session: Session, step: DelStaleIptables) -> None:
    """GC: remove chains whose rules name the network and no valid container and interface."""
    for family in _families_with(session, _CHAIN_PREFIX):
        rules = _rules(family)
        for rule in rules:
            owner = _owner(rule.comment)
            if owner and owner[0] == step.network and (owner[1], owner[2]) not in step.valid:
                _delete(session, DelIptablesMasquerade(Attachment(*owner)))


def _owner(comment: str) -> tuple[str, str, str] | None:
    """Parse network, container id and interface from one of our comments."""
    try:
        words = shlex.split(comment)
    except ValueError:
        return None
    if words[0::2] != ["name:", "id:", "if:"] or len(words) != 6:  # noqa: PLR2004 (three pairs)
        return None
    return words[1], words[3], unquoted_ifname(words[5])


def _removal(rules: list[_Rule], chain: str, sources: set[str], mine: str, *, keep: bool) -> list[str]:
    exists = any(rule.words[:2] == ("-N", chain) for rule in rules)
    lines = [_deletion(rule) for rule in rules if rule.target == chain and rule.source in sources]
    if keep:
        return lines + [
            _deletion(rule) for rule in rules if rule.chain == chain and mine and rule.comment == mine
        ]
    return [*lines, f"-F {chain}", f"-X {chain}"] if exists else []


def _deletion(rule: _Rule) -> str:
    return _quoted(("-D", *rule.words[1:]))


def _quoted(words: tuple[str, ...]) -> str:
    """Return a line for iptables-restore, which understands only double quotes and backslashes."""
    escaped = (word.replace("\\", "\\\\").replace('"', '\\"') for word in words)
    return " ".join(f'"{word}"' if set(word) & set(' "\\') else word for word in escaped)


def _wanted(step: EnsureIptablesMasquerade, family: int) -> list[tuple[str, ...]]:
    """Return the rules in the form of `iptables -S`, so that existing ones are recognised."""
    chain = chain_of(step.attachment)
    outer, inner = _outer_comment(step.attachment), _inner_comment(step.attachment)
    addresses = [address for address in step.addresses if address.version == family]
    random = ("--random-fully",) if step.random_fully else ()
    rules: list[tuple[str, ...]] = []
    for address in addresses:
        source = str(ip_interface(address.ip))
        # Inserted at the top: appended rules of a second interface would come after the MASQUERADE rule.
        rules += [
            ("-I", chain, "-s", source, *_towards(net), "-m", "comment", "--comment", inner, "-j", "ACCEPT")
            for net in exclusions(step, address)
            if str(net) != _MULTICAST[family]
        ]
    last = ("!", "-d", _MULTICAST[family], "-m", "comment", "--comment", outer, "-j", "MASQUERADE", *random)
    rules.append(("-A", chain, *last))
    for address in addresses:
        source = str(ip_interface(address.ip))
        rules.append(("-A", "POSTROUTING", "-s", source, "-m", "comment", "--comment", outer, "-j", chain))
    return rules


def _towards(network: IPNetwork) -> tuple[str, ...]:
    """Return the match on the destination; `iptables -S` omits a prefix that matches everything."""
    return ("-d", str(network)) if network.prefixlen else ()


def _listed(words: tuple[str, ...]) -> tuple[str, ...]:
    return ("-A", *words[1:])


def _outer_comment(attachment: Attachment) -> str:
    return f'name: "{attachment.network}" id: "{attachment.container_id}"'


def _inner_comment(attachment: Attachment) -> str:
    return f'{_outer_comment(attachment)} if: "{quoted_ifname(attachment.ifname)}"'


def _families_with(session: Session, chain: str) -> list[int]:
    """Return the IP versions that may have a chain with this name prefix, determined without an exec.

    Chains of iptables-nft are visible in nf_tables; if iptables-legacy has a nat table, it must be listed.
    """
    return [family for family in _COMMANDS if _has_chain(session, family, chain) or _has_old_table(family)]


def _has_chain(session: Session, family: int, chain: str) -> bool:
    names = read.chain_names(session, wire.Layout.PROTO[family], _TABLE)
    return any(name.startswith(chain) for name in names)


def _has_old_table(family: int) -> bool:
    try:
        with open(_OLD_TABLES[family]) as file:
            return _TABLE in file.read().split()
    except OSError:
        return False


def _rules(family: int) -> list[_Rule]:
    code, output = _run([_COMMANDS[family], "-w", "-t", "nat", "-S"])
    if code != 0:
        raise KernelRefused(f"{_COMMANDS[family]} cannot list its nat table", output.strip()[:500])
    return [_rule(tuple(shlex.split(line))) for line in output.splitlines()]


def _rule(words: tuple[str, ...]) -> _Rule:
    def after(option: str) -> str:
        return words[words.index(option) + 1] if option in words[:-1] else ""

    chain = words[1] if words[0] == "-A" else ""
    return _Rule(chain, words, after("-s"), after("-j"), after("--comment"))


def _restore(family: int, lines: list[str]) -> None:
    """Apply all changes to the nat table, or none, with one exec."""
    if not lines:
        return
    text = "\n".join(["*nat", *lines, "COMMIT", ""])
    code, output = _run([f"{_COMMANDS[family]}-restore", "--noflush", "-w"], text)
    if code != 0:
        raise KernelRefused(
            f"{_COMMANDS[family]}-restore refused the rules", f"{output.strip()[:500]}: {lines}"
        )


def _run(command: list[str], text: str = "") -> tuple[int, str]:
    import subprocess

    try:
        done = subprocess.run(
            [_found(command[0]) or command[0], *command[1:]],
            input=text,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="surrogateescape",
            timeout=_TIMEOUT,
            check=False,
        )
    except FileNotFoundError as err:
        raise KernelRefused(
            f"{command[0]} is not installed", "ipMasqBackend is iptables", errno.ENOENT
        ) from err
    except subprocess.TimeoutExpired as err:
        raise KernelRefused(f"{command[0]} did not finish", f"within {_TIMEOUT} s") from err
    return done.returncode, done.stdout


DEEDS = (
    deed(EnsureIptablesMasquerade, _ensure, _differs)
    | deed(DelIptablesMasquerade, read.where_there_are_rules(_delete), REMOVES)
    | deed(DelStaleIptables, read.where_there_are_rules(_delete_stale), REMOVES)
)
