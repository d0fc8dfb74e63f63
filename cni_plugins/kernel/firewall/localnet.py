"""Lets the host reach published ports at 127.0.0.1: the setting route_localnet of the link to the container.

The setting makes the kernel accept packets for 127.0.0.0/8 from that link too, so that containers would
reach what listens on the host's loopback only (CVE-2020-8558). A rule drops those first. Its set contains the
addresses of the network's containers that need the setting, and says what it was before: with the last of
them the rule goes, and with the last such rule of the link the setting is what it was. Another program may
flush the set; the link's `tag`, a setting without effect, says then that it was off.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from ipaddress import ip_network

from cni_plugins.errors import KernelRefused
from cni_plugins.kernel.deed import deed
from cni_plugins.kernel.firewall import attachment_rules, read, reference_ports
from cni_plugins.kernel.firewall.attachment_rules import Item, Objects, Rule, Want
from cni_plugins.kernel.firewall.nft_table import Chain, Set
from cni_plugins.kernel.ip import sysctl
from cni_plugins.kernel.netlink import nf_tables as wire
from cni_plugins.kernel.session import locks
from cni_plugins.kernel.session.session import Session
from cni_plugins.ownership import LINK_MARK, LOCALNET, digest
from cni_plugins.protocol.ifnames import ifname_fault
from cni_plugins.steps.ip import IF_PRESENT, EnsureSysctl
from cni_plugins.steps.port_mappings import EnsureLocalnet
from cni_plugins.steps.step import HOST

_CHAIN = Chain("ports_localhost", "filter", 0, -300)  # linux/netfilter_ipv4.h: NF_IP_PRI_RAW
_LOCALHOST = ip_network("127.0.0.0/8")
_ON, _OFF, _UNMARKED = "1", "0", "0"
_COMMENT = re.compile(r"route_localnet of (\S+) was (-?\d+)")


def _ensure(session: Session, step: EnsureLocalnet) -> None:
    with locks.locked(LOCALNET):
        want = _wanted(session, step, dict(_settings(session).values()))
        attachment_rules.ensure(session, *want)
        _switch_on(session, step.out)


def _restore(session: Session, steps: Sequence[EnsureLocalnet]) -> None:
    with locks.locked(LOCALNET):
        known = dict(_settings(session).values())
        attachment_rules.restore(session, [_wanted(session, step, known) for step in steps])
        for link in dict.fromkeys(step.out for step in steps):
            _switch_on(session, link)


def _wanted(session: Session, step: EnsureLocalnet, known: Mapping[str, str]) -> Want:
    """Return the objects, with their owner.

    :param known: what the setting of each link was before, as the sets have it.
    """
    before = _before(session, step.out)
    return Want(_objects(step, known.get(step.out, before)), step.owner, step.link)


def _before(session: Session, link: str) -> str:
    value = sysctl.value(session, HOST, _key(link))
    if value is None:
        raise KernelRefused(f"link {link} has no setting route_localnet", f"out is {link}")
    return _OFF if _is_marked(session, link) else value


def _switch_on(session: Session, link: str) -> None:
    if sysctl.value(session, HOST, _key(link)) == _OFF:
        _mark(session, link, _UNMARKED, LINK_MARK)
        sysctl.ensure(session, _setting(link, _ON))


def _is_marked(session: Session, link: str) -> bool:
    return sysctl.value(session, HOST, _key(link, "tag")) == LINK_MARK


def _mark(session: Session, link: str, old: str, new: str) -> None:
    """Change a link's tag, unless somebody else uses it."""
    if sysctl.value(session, HOST, _key(link, "tag")) == old:
        sysctl.ensure(session, EnsureSysctl(HOST, _key(link, "tag"), new, IF_PRESENT))


def _give_back(session: Session, link: str, value: str) -> None:
    if sysctl.value(session, HOST, _key(link)) is not None:
        sysctl.ensure(session, _setting(link, value))
        _mark(session, link, LINK_MARK, _UNMARKED)


def _differs(session: Session, step: EnsureLocalnet) -> str:
    wrong = sysctl.differs(session, _setting(step.out, _ON))
    if wrong:
        return wrong
    gap = attachment_rules.missing(session, _objects(step, ""), step.owner)
    if not gap or reference_ports.published(session, step.owner.attachment):
        return ""
    return f"published ports at 127.0.0.1: {gap} is missing"


def _key(link: str, name: str = "route_localnet") -> tuple[str, ...]:
    return ("ipv4", "conf", link, name)


def _setting(link: str, value: str) -> EnsureSysctl:
    return EnsureSysctl(HOST, _key(link), value)


def _objects(step: EnsureLocalnet, before: str) -> Objects:
    name = f"{LOCALNET}{digest(f'{step.owner.attachment.network} {step.out}', 8)}"
    item = Set(name, wire.Layout.TYPE[4], wire.Layout.LENGTH[4], f"route_localnet of {step.out} was {before}")

    def expressions() -> bytes:
        return wire.enters_by_link(step.out) + wire.destination_within(_LOCALHOST) + wire.drop()

    return Objects(wire.INET, (Rule(_CHAIN, (item,), expressions),), (Item(name, step.address.packed),))


@contextmanager
def given_back(session: Session) -> Iterator[None]:
    """Remove elements in the block; then give the settings back that no element needs any more."""
    if not any(name.startswith(LOCALNET) for name in read.set_names(session, wire.INET)):
        yield
        return
    with locks.locked(LOCALNET):
        before = _settings(session)
        try:
            yield
        finally:
            left = dict(_settings(session).values())
            for link, value in before.values():
                if link not in left:
                    _give_back(session, link, value)


def give_back_forgotten(session: Session, links: Iterable[str]) -> None:
    """Give the settings of these links back whose set another program has flushed."""
    marked = [link for link in links if not ifname_fault(link) and _is_marked(session, link)]
    if not marked:
        return
    with locks.locked(LOCALNET):
        known = dict(_settings(session).values())
        for link in marked:
            if link not in known:
                _give_back(session, link, _OFF)


def every_link(session: Session) -> list[str]:
    return sysctl.names(session, HOST, ("ipv4", "conf"))


def _settings(session: Session) -> dict[str, tuple[str, str]]:
    """Return link and former value for each set of this kind."""
    found = {}
    for name, comment in read.set_comments(session, wire.INET).items():
        told = _COMMENT.fullmatch(comment) if name.startswith(LOCALNET) else None
        if told and not ifname_fault(told[1]):
            found[name] = (told[1], told[2])
    return found


DEEDS = deed(EnsureLocalnet, _ensure, _differs, restore=_restore)
