"""Reads nf_tables: generation, sets, chains, rules, elements. Changes nothing."""

import errno
import struct
from collections.abc import Callable
from typing import NamedTuple, TypeVar, cast

from cni_plugins.kernel.netlink import nf_tables as wire
from cni_plugins.kernel.netlink.attributes import attributes
from cni_plugins.kernel.netlink.attributes import read_text as text
from cni_plugins.kernel.netlink.nf_tables import attr, message
from cni_plugins.kernel.netlink.socket import NLM_F_DUMP, Answer, Refused
from cni_plugins.kernel.session.session import Session
from cni_plugins.ownership import NFT_TABLE
from cni_plugins.steps.step import UNCHANGED, Step

S = TypeVar("S", bound=Step)

_SET_COMMENT = 7  # NFTNL_UDATA_SET_COMMENT


class Hook(NamedTuple):
    """A base chain in the kernel: type, hook number, priority, and policy for packets without a verdict."""

    kind: str
    number: int
    priority: int
    policy: int


class FoundRule(NamedTuple):
    """A rule, with the comment that identifies it, and its expressions as the kernel has them."""

    chain: str
    handle: bytes
    mark: str
    expressions: bytes = b""

    @property
    def key(self) -> tuple[str, str]:
        return self.chain, self.mark


class Element(NamedTuple):
    """One element of one of our sets or maps, with the comment that names its owner.

    :param data: what a map has under the key, empty in a set.
    :param leads_to: the chain to which a verdict map leads from the key.
    :param userdata: all its user data, of which the comment is a part.
    """

    set_name: str
    key: bytes
    comment: str
    data: bytes = b""
    leads_to: str = ""
    userdata: bytes = b""


def usable(session: Session) -> bool:
    """Say whether this kernel has nf_tables."""
    try:
        generation(session)
    except OSError:
        return False
    return True


def where_there_are_rules(remove: Callable[[Session, S], None]) -> Callable[[Session, S], str | None]:
    """Return a removal that does nothing on a kernel without netfilter or without nf_tables."""

    def removed(session: Session, step: S) -> str | None:
        if not has_netfilter(session):
            return UNCHANGED
        try:
            remove(session, step)
        except Refused as err:
            if err.errno == errno.EINVAL and not usable(session):  # netfilter without nf_tables
                return UNCHANGED
            raise
        return None

    return removed


def has_netfilter(session: Session) -> bool:
    """Say whether this kernel has netfilter, and thus may have rules."""
    try:
        session.nft()
    except OSError as err:
        if err.errno in (errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT):
            return False
        raise
    return True


def generation(session: Session) -> int:
    answer = session.nft().ask(message(wire.GETGEN, 0, 0))
    return cast("int", struct.unpack(">I", wire.fields(answer.data)[1])[0])


def dump(session: Session, kind: int, family: int, *attrs: bytes) -> list[bytes]:
    """Dump objects; return an empty list if the table or chain does not exist."""
    try:
        return [answer.data for answer in session.nft().dump(message(kind, family, NLM_F_DUMP, *attrs))]
    except Refused as err:
        if err.errno == errno.ENOENT:
            return []
        raise


def set_names(session: Session, family: int) -> list[str]:
    return [text(wire.fields(data)[2]) for data in dump(session, wire.GETSET, family, attr(1, NFT_TABLE))]


def set_comments(session: Session, family: int) -> dict[str, str]:
    """Return the comments of our table's sets, by their names."""
    found = (wire.fields(data) for data in dump(session, wire.GETSET, family, attr(1, NFT_TABLE)))
    return {text(item[2]): wire.comment_text(item.get(13, b""), _SET_COMMENT) for item in found}


def chain_names(session: Session, family: int, table: str = NFT_TABLE) -> list[str]:
    found = [wire.fields(data) for data in dump(session, wire.GETCHAIN, family)]
    return [text(item[3]) for item in found if text(item[1]) == table]


def has_chain(session: Session, family: int, table: str, chain: str) -> bool:
    """Say whether a table has a chain, without reading the others."""
    try:
        session.nft().ask(message(wire.GETCHAIN, family, 0, attr(1, table), attr(3, chain)))
    except Refused as err:
        if err.errno == errno.ENOENT:
            return False
        raise
    return True


def rules(session: Session, family: int, chain: str, table: str = NFT_TABLE) -> list[tuple[bytes, str]]:
    found = [
        wire.fields(data) for data in dump(session, wire.GETRULE, family, attr(1, table), attr(2, chain))
    ]
    return [(item[3], wire.comment_text(item.get(7, b""))) for item in found]


def rules_with_content(
    session: Session, family: int, chain: str, table: str
) -> list[tuple[bytes, str, bytes]]:
    """Return handle, comment and expressions of the rules of a chain."""
    found = [
        wire.fields(data) for data in dump(session, wire.GETRULE, family, attr(1, table), attr(2, chain))
    ]
    return [(item[3], wire.comment_text(item.get(7, b"")), item.get(4, b"")) for item in found]


def raw_rules(session: Session, family: int, table: str, chain: str) -> list[bytes]:
    """Return the rules of a chain as the kernel sends them."""
    return dump(session, wire.GETRULE, family, attr(1, table), attr(2, chain))


def all_rules(session: Session, family: int) -> list[FoundRule]:
    """Return the rules of all chains of our table."""
    return _found_rules(session, family)


def chain_rules(session: Session, family: int, chain: str) -> list[FoundRule]:
    """Return the rules of one chain of our table, in their order."""
    return _found_rules(session, family, attr(2, chain))


def _found_rules(session: Session, family: int, *attrs: bytes) -> list[FoundRule]:
    found = [wire.fields(data) for data in dump(session, wire.GETRULE, family, attr(1, NFT_TABLE), *attrs)]
    return [
        FoundRule(text(item[2]), item[3], wire.comment_text(item.get(7, b"")), item.get(4, b""))
        for item in found
    ]


def hook(session: Session, family: int, chain: str, table: str = NFT_TABLE) -> Hook | None:
    """Return a chain, None if it does not exist; one that is not a base chain has no kind."""
    return hooks(session, family, [chain], table)[0]


def hooks(session: Session, family: int, chains: list[str], table: str = NFT_TABLE) -> list[Hook | None]:
    """Return several chains in the same way."""
    questions = [message(wire.GETCHAIN, family, 0, attr(1, table), attr(3, chain)) for chain in chains]
    return [_hook(answer) for answer in session.nft().ask_each(questions)]


def _hook(answer: Answer | Refused) -> Hook | None:
    if isinstance(answer, Refused):
        if answer.errno == errno.ENOENT:
            return None
        raise answer
    item = wire.fields(answer.data)
    if 4 not in item:  # noqa: PLR2004 (NFTA_CHAIN_HOOK)
        return Hook("", 0, 0, 0)
    place = dict(attributes(item[4]))
    numbers = (struct.unpack(">i", value)[0] for value in (place[1], place[2], item[5]))
    return Hook(text(item[7]), *numbers)


def uses_of_chain(session: Session, family: int, chain: str) -> int | None:
    """Return how many rules a chain of our table has, and how many rules and elements lead to it.

    None if it does not exist.
    """
    try:
        answer = session.nft().ask(message(wire.GETCHAIN, family, 0, attr(1, NFT_TABLE), attr(3, chain)))
    except Refused as err:
        if err.errno == errno.ENOENT:
            return None
        raise
    return cast("int", struct.unpack(">I", wire.fields(answer.data)[6])[0])


def elements(session: Session, family: int, set_name: str) -> list[Element]:
    listed = dump(session, wire.GETSETELEM, family, attr(1, NFT_TABLE), attr(2, set_name))
    return [element for data in listed for element in elements_of(data)]


def elements_of(data: bytes) -> list[Element]:
    top = wire.fields(data)
    set_name = text(top[2])
    found = []
    for _, entry in attributes(top.get(3, b"")):
        item = dict(attributes(entry))
        key = dict(attributes(item[1]))[1]
        value = dict(attributes(item.get(2, b"")))
        chain = text(dict(attributes(value.get(2, b""))).get(2, b""))
        userdata = item.get(6, b"")
        found.append(Element(set_name, key, wire.comment_text(userdata), value.get(1, b""), chain, userdata))
    return found


def elements_at(session: Session, family: int, set_name: str, keys: list[bytes]) -> list[Element | None]:
    """Return the elements with these keys, None for those that do not exist; reads no others."""
    questions = [
        message(
            wire.GETSETELEM,
            family,
            0,
            attr(1, NFT_TABLE),
            attr(2, set_name),
            attr(3, [attr(1, [attr(1, [attr(1, key)])])]),
        )
        for key in keys
    ]
    found: list[Element | None] = []
    for answer in session.nft().ask_each(questions):
        if isinstance(answer, Refused):
            if answer.errno != errno.ENOENT:
                raise answer
            found.append(None)
        else:
            found.append(elements_of(answer.data)[0])
    return found


def has_set(session: Session, family: int, set_name: str) -> bool:
    try:
        session.nft().ask(message(wire.GETSET, family, 0, attr(1, NFT_TABLE), attr(2, set_name)))
    except Refused as err:
        if err.errno == errno.ENOENT:
            return False
        raise
    return True
