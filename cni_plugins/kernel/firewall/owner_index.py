"""Finds the elements of one owner without reading those of others: an index of them, in a map of our table.

nf_tables finds an element by its key only. So for each element that an attachment adds there is one in the
map INDEX: its key is the owner's digest and a number that counts from 0, and it leads to an empty chain that
stands for the element's set. No packet ever comes there; the kernel counts what leads to a chain, and so
knows how many elements a set has. The element's key stands beside the comment, in a field that nft(8)
ignores. A ruleset that was saved and loaded has lost that field, and one that an older release made has no
index: then every element is read.
"""

from collections.abc import Mapping
from itertools import count as count_up
from itertools import takewhile
from typing import NamedTuple

from cni_plugins.kernel.firewall import nft_table
from cni_plugins.kernel.firewall import read as look
from cni_plugins.kernel.firewall.nft_table import Chain, Set
from cni_plugins.kernel.firewall.read import Element
from cni_plugins.kernel.netlink import nf_tables as wire
from cni_plugins.kernel.netlink.nf_tables import attr
from cni_plugins.kernel.netlink.socket import NLM_F_CREATE, NLM_F_EXCL, Refused
from cni_plugins.kernel.session.session import Session
from cni_plugins.ownership import Holder

_MARK, _VERDICT = 19, 0xFFFFFF00  # nft(8) data type, NFT_DATA_VERDICT
INDEX = Set(
    "owners",
    wire.Layout.TYPE[6] << wire.CONCATENATION | _MARK,
    20,
    "where the elements of each owner are",
    data_type=_VERDICT,
    data_length=16,
)
_CHAIN_PREFIX = "in_"  # before the name of a set
_KEY = 0x40  # beside NFTNL_UDATA_SET_ELEM_COMMENT and _FLAGS: the key of the element
_AT_ONCE = 16  # questions in one system call
_NEW = NLM_F_CREATE | NLM_F_EXCL


class Entry(NamedTuple):
    """One element of the index: its own key, and the element that it leads to.

    :param key: empty when the field was lost.
    """

    own_key: bytes
    set_name: str
    key: bytes


def chain_of(set_name: str) -> Chain:
    """Return the chain that stands for a set."""
    return Chain(f"{_CHAIN_PREFIX}{set_name}")


def whole(session: Session, family: int) -> dict[bytes, Element]:
    """Return the whole index by its keys, for many owners."""
    return {element.key: element for element in look.elements(session, family, INDEX.name)}


def entries_among(found: Mapping[bytes, Element], holder: Holder) -> list[Entry]:
    """Return the entries of an owner in the whole index."""
    keys = takewhile(found.__contains__, map(holder.index_key, count_up()))
    return [_entry(key, found[key]) for key in keys]


def entries(session: Session, family: int, holder: Holder) -> list[Entry]:
    """Return the entries of an owner; none if there is no index."""
    found: list[Entry] = []
    while True:
        keys = [holder.index_key(number) for number in range(len(found), len(found) + _AT_ONCE)]
        answers = look.elements_at(session, family, INDEX.name, keys)
        for key, element in zip(keys, answers, strict=True):
            if element is None:
                return found
            found.append(_entry(key, element))


def _entry(own_key: bytes, element: Element) -> Entry:
    set_name = element.leads_to.removeprefix(_CHAIN_PREFIX)
    return Entry(own_key, set_name, wire.userdata_field(element.userdata, _KEY))


def exists(session: Session, family: int) -> bool:
    return look.has_set(session, family, INDEX.name)


def count(session: Session, family: int, set_name: str) -> int | None:
    """Return how many elements of a set are in the index, without reading any; None if it has no index."""
    return look.uses_of_chain(session, family, chain_of(set_name).name)


def additions(
    family: int, holder: Holder, present: list[Entry], elements: list[tuple[str, bytes]], comment: str
) -> list[bytearray]:
    """Return the messages that enter elements of an owner which has some in the index already."""
    known = {(entry.set_name, entry.key) for entry in present}
    new = [item for item in elements if item not in known]
    entered = [
        _element(holder.index_key(number), item, comment) for number, item in enumerate(new, len(present))
    ]
    message = nft_table.in_table(wire.NEWSETELEM, family, _NEW, attr(2, INDEX.name), attr(3, entered))
    return [message] if entered else []


def _element(own_key: bytes, item: tuple[str, bytes], comment: str) -> bytes:
    name, key = item
    verdict = attr(2, [wire.jump_verdict(chain_of(name).name)])
    return attr(
        1, [attr(1, [attr(1, own_key)]), verdict, attr(6, wire.comment(comment) + wire.userdata(_KEY, key))]
    )


def present(session: Session, family: int, found: list[Entry], holder: Holder) -> list[Element]:
    """Return the elements that entries lead to and that are the owner's still."""
    by_set: dict[str, list[bytes]] = {}
    for entry in found:
        by_set.setdefault(entry.set_name, []).append(entry.key)
    elements: list[Element] = []
    for name, keys in by_set.items():
        try:
            answers = look.elements_at(session, family, name, keys)
        except Refused:  # the set is not what it was
            continue
        elements += [item for item in answers if item is not None and holder.owns(item.comment)]
    return elements
