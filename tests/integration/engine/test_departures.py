"""Links that are removed by a process that stays: it does not wait for the kernel, nor for ever."""

import os
import socket
import time
from collections.abc import Iterator
from ipaddress import ip_interface
from typing import Any

import pytest

from cni_plugins.kernel import dispatch
from cni_plugins.kernel.firewall import rule_removal
from cni_plugins.kernel.links import links
from cni_plugins.kernel.session.session import Residence, Session, nft_socket
from cni_plugins.ownership import Attachment, Owner
from cni_plugins.steps.firewall import DelOwnedRules, EnsureMasquerade

LATE = Attachment("net", "late", "eth0")
GOING = Attachment("net", "going", "eth0")


@pytest.fixture
def resident(bed: Any) -> Iterator[Session]:
    with bed.inside():
        kept = nft_socket()
        with Session(None, residence=Residence(kept, lambda: True)) as session:
            yield session
        kept.close()


def pair(bed: Any, name: str) -> None:
    bed.host.run("ip", "link", "add", name, "type", "veth", "peer", "name", f"{name}p")


def test_a_link_is_gone_when_the_removal_returns(bed: Any, resident: Session) -> None:
    for _ in range(30):
        pair(bed, "veth1")
        links.delete(resident, "host", "veth1")
        names = os.listdir("/proc/sys/net/ipv4/conf")
        assert not {"veth1", "veth1p"} & set(names)
        assert links.find(resident, "host", "veth1p") is None


def test_a_link_that_is_not_there_is_removed(resident: Session) -> None:
    links.delete(resident, "host", "veth1")


def test_more_removals_than_threads(bed: Any, resident: Session) -> None:
    names = [f"veth{number}" for number in range(80)]
    for name in names:
        pair(bed, name)
    for name in names:
        links.delete(resident, "host", name)
    assert not {*names} & {link.name for link in links.every(resident, "host")}


def test_what_the_kernel_refuses_is_refused(resident: Session) -> None:
    with pytest.raises(OSError, match="not supported"):
        links.delete(resident, "host", "lo")


def test_answers_that_are_lost_are_not_waited_for(bed: Any, resident: Session) -> None:
    """A socket that overflows loses the announcement and the acknowledgement."""
    pair(bed, "veth1")
    for number in range(20):
        pair(bed, f"noise{number}")
    index = socket.if_nametoindex("veth1")
    listener = resident.link_listener("host")
    listener._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # the kernel's least
    for number in range(20):
        for state in ("up", "down"):
            bed.host.run("ip", "link", "set", f"noise{number}", state)
    begun = time.monotonic()
    listener.call_aside(links.wire.link(links.wire.RTM_DELLINK, 4, index=index), lambda _: False)
    listener.close()
    assert time.monotonic() - begun < 5
    assert links.find(resident, "host", index=index) is None


def test_a_link_that_comes_again_during_a_removal_keeps_its_rules(
    bed: Any, resident: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was found to be gone is asked anew when the ruleset has changed meanwhile."""

    def masquerade(attachment: Attachment, address: str, link: str) -> EnsureMasquerade:
        return EnsureMasquerade(
            Owner(attachment), (ip_interface(address),), (), random_fully=False, link=link
        )

    def gone_and_back(asking: socket.socket, link: str) -> bool:
        found = is_gone(asking, link)
        if link == "veth2" and found:
            pair(bed, "veth2")
            with Session(None) as other:
                dispatch.carry_out(other, masquerade(LATE, "10.9.0.3/24", "veth2"))
        return found

    pair(bed, "veth1")
    dispatch.carry_out(resident, masquerade(GOING, "10.9.0.2/24", "veth1"))
    dispatch.carry_out(resident, masquerade(LATE, "10.9.0.3/24", "veth2"))
    is_gone = rule_removal.is_gone
    monkeypatch.setattr(rule_removal, "is_gone", gone_and_back)
    dispatch.carry_out(resident, DelOwnedRules(Owner(GOING)))
    assert "10.9.0.3" in bed.state()["nft"]
    assert "10.9.0.2" not in bed.state()["nft"]
