"""Recognises a network's tables as those of one edition without reading them, by a mark in a link's alias.

The mark is made of the edition and of the identities of all objects that have the entries. The kernel gives
none of these twice, so the tables of a link or set that was made anew are never taken for filled. It is set
after the last change of the tables, and taken away before the first one.
"""

from collections.abc import Iterator

from cni_plugins.kernel.ip import addresses
from cni_plugins.kernel.links import links
from cni_plugins.kernel.links.link import Link
from cni_plugins.kernel.netlink import nf_tables as nft
from cni_plugins.kernel.netlink import rtnetlink as wire
from cni_plugins.kernel.netlink.attributes import packed
from cni_plugins.kernel.netlink.socket import Refused
from cni_plugins.kernel.session.session import Session
from cni_plugins.ownership import (
    NFT_TABLE,
    OF_NETWORKS,
    digest,
    network_tag,
    overlay_alias,
    overlay_edition,
)
from cni_plugins.steps.overlay import Edition
from cni_plugins.steps.step import HOST


def source_set(network: str, version: int) -> str:
    """Return the name of the set of addresses that may send to a network."""
    return f"{OF_NETWORKS}vteps{version}_{network_tag(network)}"


def is_applied(session: Session, network: str, edition: Edition) -> bool:
    """Say whether the tables were brought to this edition, and their objects are those of that time.

    An entry that somebody removed since is not noticed.
    """
    found = _links(session, edition)
    if found is None or not all(link.up for link in found):
        return False
    first, *others = found
    has = overlay_edition(first.alias, network)
    if not has or (edition.bridged and first.master != others[0].ifindex):
        return False
    return has == _mark(session, network, edition, found)


def is_undisturbed(session: Session, network: str, edition: Edition) -> bool:
    """Say whether `is_applied`, and nothing has happened to the links by which the kernel empties tables."""
    if not is_applied(session, network, edition):
        return False
    for filled in edition.links:
        link = links.find(session, HOST, filled.name)
        if link is None or link.mac != filled.mac:
            return False
        present = {item.address for item in addresses.on_link(session, HOST, link.ifindex)}
        if not present.issuperset(filled.addresses):
            return False
    return True


def note(session: Session, network: str, edition: Edition) -> None:
    """Say by the mark that the tables are those of the edition."""
    found = _links(session, edition)
    mark = _mark(session, network, edition, found) if found else ""
    if found and mark:
        _set(session, found[0], network, mark)


def forget(session: Session, network: str, edition: Edition) -> None:
    """Take the mark away, if there is one."""
    link = links.find(session, HOST, edition.links[0].name)
    if link is not None and overlay_edition(link.alias, network):
        _set(session, link, network, "")


def _set(session: Session, link: Link, network: str, mark: str) -> None:
    alias = overlay_alias(network, mark)
    if link.alias != alias:
        changed = packed(wire.IFLA_IFALIAS, alias.encode())
        links.send(session, links.set_message(changed, index=link.ifindex))


def _links(session: Session, edition: Edition) -> list[Link] | None:
    """Return the links, None if one is absent."""
    found = [links.find(session, HOST, filled.name) for filled in edition.links]
    present = [link for link in found if link is not None]
    return present if len(present) == len(found) else None


def _mark(session: Session, network: str, edition: Edition, found: list[Link]) -> str:
    """Return the mark, empty if the objects have no identity."""
    identities = [str(link.ifindex) for link in found]
    if edition.version:
        handles = list(_set_identity(session, source_set(network, edition.version)))
        if not all(handles):
            return ""
        identities += handles
    return digest(" ".join([edition.content, *identities]))


def _set_identity(session: Session, name: str) -> Iterator[str]:
    """Yield the handles of our table, unique since the boot, and of a set in it; empty if it has none."""
    table, own = nft.attr(1, NFT_TABLE), nft.attr(2, name)
    questions = [
        nft.message(nft.GETTABLE, nft.INET, 0, table),
        nft.message(nft.GETSET, nft.INET, 0, table, own),
    ]
    places = (nft.TABLE_HANDLE, nft.SET_HANDLE)
    for answer, place in zip(session.nft().ask_each(questions), places, strict=True):
        yield "" if isinstance(answer, Refused) else nft.fields(answer.data).get(place, b"").hex()
