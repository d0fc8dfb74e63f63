"""Runs the iptables executables: lists chains, applies many lines with one exec, and knows where chains are.

The only place that starts them. A table is changed as a whole or not at all (`iptables-restore`), and a host
without chains of ours is recognised without an exec.
"""

import errno
import os
import re
from collections.abc import Mapping
from typing import NamedTuple

from cni_plugins.errors import CniError, KernelRefused
from cni_plugins.kernel.firewall import read
from cni_plugins.kernel.netlink import nf_tables as wire
from cni_plugins.kernel.session.session import Session

COMMANDS = {4: "iptables", 6: "ip6tables"}
_OLD_TABLES = {4: "/proc/net/ip_tables_names", 6: "/proc/net/ip6_tables_names"}
_ADMINISTRATOR = ":/usr/local/sbin:/usr/sbin:/sbin"
_WORD = re.compile(r'"((?:[^"\\]|\\.)*)"|(\S+)')
_TIMEOUT = 60  # seconds; a slow process may hold the xtables lock
# Of iptables-legacy, and two ages of iptables-nft, the latter of which takes it for a chain of others.
_NO_SUCH_CHAIN = ("No chain/target/match by that name", "does not exist", "is incompatible, use 'nft' tool")


class Rule(NamedTuple):
    """One line of `iptables -S`, parsed as far as needed; `words` is the whole line."""

    chain: str
    words: tuple[str, ...]
    source: str
    target: str
    comment: str


class Listing(NamedTuple):
    """A table: rules by their chains, and all lines of `iptables -S`."""

    chains: dict[str, list[Rule]]
    lines: frozenset[tuple[str, ...]]


def installed(family: int = 4) -> bool:
    return find_program(f"{COMMANDS[family]}-restore") is not None


def find_program(command: str) -> str | None:
    """Return the path of an executable; a runtime's PATH may lack the directories of the administrator's."""
    import shutil

    return shutil.which(command, path=f"{os.environ.get('PATH') or os.defpath}{_ADMINISTRATOR}")


# ---------------------------------------------------------------------------------------------- looking


def rules(family: int, table: str, chain: str = "") -> list[Rule]:
    """List a table, or one chain of it; a chain that does not exist has no rules."""
    words = [COMMANDS[family], "-w", "-t", table, "-S", *filter(None, [chain])]
    code, output = _run(words)
    if code != 0:
        if chain and any(text in output for text in _NO_SUCH_CHAIN):
            return []
        raise KernelRefused(f"{COMMANDS[family]} cannot list its {table} table", output.strip()[:500])
    return [rule_of(_words(line)) for line in output.splitlines()]


def _words(line: str) -> tuple[str, ...]:
    """Split a line as `iptables -S` quotes it: shlex takes ten times as long, and there may be thousands."""
    if '"' not in line:
        return tuple(line.split())
    return tuple(found[2] or _unescaped(found[1]) for found in _WORD.finditer(line))


def _unescaped(text: str) -> str:
    return text.replace('\\"', '"').replace("\\'", "'").replace("\\\\", "\\")


def listing(family: int, table: str) -> Listing:
    """List a table, to look up chains and lines in it."""
    return listing_of(rules(family, table))


def listing_of(found: list[Rule]) -> Listing:
    chains: dict[str, list[Rule]] = {}
    for rule in found:
        chains.setdefault(rule.chain, []).append(rule)
    return Listing(chains, frozenset(rule.words for rule in found))


def rule_of(words: tuple[str, ...]) -> Rule:
    def after(option: str) -> str:
        return words[words.index(option) + 1] if option in words[:-1] else ""

    chain = words[1] if words[0] == "-A" else ""
    return Rule(chain, words, after("-s"), after("-j"), after("--comment"))


def families_with(session: Session, table: str, chain: str) -> list[int]:
    """Return the IP versions that may have a chain, determined without an exec.

    Chains of iptables-nft are visible in nf_tables; if iptables-legacy has the table, it must be listed.
    """
    return [
        family
        for family in COMMANDS
        if read.has_chain(session, wire.Layout.PROTO[family], table, chain) or has_old_table(family, table)
    ]


def families_with_any(session: Session, table: str, prefix: str) -> list[int]:
    """Return the IP versions that may have a chain whose name begins so; reads the names of all chains."""
    return [
        family
        for family in COMMANDS
        if _any_chain(session, family, table, prefix) or has_old_table(family, table)
    ]


def _any_chain(session: Session, family: int, table: str, prefix: str) -> bool:
    names = read.chain_names(session, wire.Layout.PROTO[family], table)
    return any(name.startswith(prefix) for name in names)


def has_old_table(family: int, table: str) -> bool:
    """Say whether iptables-legacy has the table."""
    try:
        with open(_OLD_TABLES[family]) as file:
            return table in file.read().split()
    except OSError:
        return False


# ---------------------------------------------------------------------------------------------- changing


def restore(family: int, table: str, lines: list[str]) -> None:
    """Apply all changes to one table, or none, with one exec."""
    if not lines:
        return
    text = "\n".join([f"*{table}", *lines, "COMMIT", ""])
    code, output = _run([f"{COMMANDS[family]}-restore", "--noflush", "-w"], text)
    if code != 0:
        raise KernelRefused(
            f"{COMMANDS[family]}-restore refused the rules", f"{output.strip()[:500]}: {lines}"[:4000]
        )


def deletion(rule: Rule) -> str:
    return quoted(("-D", *rule.words[1:]))


def quoted(words: tuple[str, ...]) -> str:
    """Return a line for iptables-restore, which understands only double quotes and backslashes."""
    escaped = (word.replace("\\", "\\\\").replace('"', '\\"') for word in words)
    return " ".join(f'"{word}"' if set(word) & set(' "\\') else word for word in escaped)


def listed(words: tuple[str, ...]) -> tuple[str, ...]:
    """Return the words by which `iptables -S` shows a rule that is appended or inserted."""
    return ("-A", *words[1:])


def _run(command: list[str], text: str = "") -> tuple[int, str]:
    import subprocess

    try:
        done = subprocess.run(
            [find_program(command[0]) or command[0], *command[1:]],
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
            f"{command[0]} is not installed", "the backend is iptables", errno.ENOENT
        ) from err
    except subprocess.TimeoutExpired as err:
        raise KernelRefused(f"{command[0]} did not finish", f"within {_TIMEOUT} s") from err
    return done.returncode, done.stdout


# ------------------------------------------------------------------------------- chains that many share


def lines(family: int, table: str) -> list[str]:
    """List a table as `iptables -S` prints it; rules are found in that as text, as parsing takes long."""
    code, output = _run([COMMANDS[family], "-w", "-t", table, "-S"])
    if code != 0:
        raise KernelRefused(f"{COMMANDS[family]} cannot list its {table} table", output.strip()[:500])
    return output.splitlines()


def restore_each(table: str, changes: Mapping[int, list[str]]) -> None:
    """Apply changes to one table of both families at the same time.

    :raises KernelRefused: for the first family that was refused; the other is changed.
    """
    from threading import Thread  # subprocess imports it too

    families = [family for family in COMMANDS if changes.get(family)]
    failures: list[CniError] = []

    def change(family: int) -> None:
        try:
            restore(family, table, changes[family])
        except CniError as err:
            failures.append(err)

    aside = [Thread(target=change, args=(family,)) for family in families[1:]]
    for thread in aside:
        thread.start()
    for family in families[:1]:
        change(family)
    for thread in aside:
        thread.join()
    if failures:
        raise failures[0]
