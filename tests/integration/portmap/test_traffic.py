"""Who reaches a published port, from where, and which source the container sees."""

import time
from contextlib import closing
from typing import Any

import pytest

from cni_plugins.kernel.firewall import conntrack
from cni_plugins.kernel.firewall.conntrack import Flows
from cni_plugins.kernel.session.session import Residence, Session, nft_socket
from tests.integration.portmap.conftest import HOST, NOBODY, OUTSIDE, Publisher, Site

GATEWAY = {4: "10.1.0.1", 6: "fd01::1"}


def test_everybody_reaches_a_published_port(site: Site, publisher: Publisher) -> None:
    """From outside, from the host by every address of it, from other containers, and from itself."""
    web, other = publisher.attach(), publisher.attach("c2")
    publisher.publish(web, "8080:80", "8081:81/udp")
    site.serve(web, "web", "80/tcp", "81/udp")
    for version in (4, 6):
        for port, protocol in ((8080, "tcp"), (8081, "udp")):
            assert site.ask(site.outside, HOST[version], port, protocol) == f"web {OUTSIDE[version]}"
            assert site.ask(site.host, HOST[version], port, protocol).startswith("web ")
            assert site.ask(site.host, GATEWAY[version], port, protocol).startswith("web ")
            assert site.ask(other, HOST[version], port, protocol).startswith("web ")
            assert site.ask(web, HOST[version], port, protocol).startswith("web ")
            assert site.ask(web, GATEWAY[version], port, protocol).startswith("web ")
    assert site.ask(site.host, "127.0.0.1", 8080) == "web 10.1.0.1"
    assert site.ask(site.host, "127.0.0.1", 8081, "udp") == "web 10.1.0.1"
    assert site.ask(site.host, "127.0.0.5", 8080) == "web 10.1.0.1"


def test_no_other_packet_is_sent_elsewhere(site: Site, publisher: Publisher) -> None:
    """Not to other ports or protocols, nor what the host forwards to such a port of another machine."""
    web, other = publisher.attach(), publisher.attach("c2")
    publisher.publish(web, "8080:80", "53:53/udp")
    site.serve(web, "web", "80/tcp", "53/udp")
    site.serve(site.outside, "outside", "8080/tcp", "53/udp")
    assert site.ask(site.outside, HOST[4], 80, patience=0.5) == NOBODY
    assert site.ask(site.outside, HOST[4], 8080, "udp", patience=0.5) == NOBODY
    for place in (web, other, site.host):
        assert site.ask(place, OUTSIDE[4], 8080).startswith("outside ")
        assert site.ask(place, OUTSIDE[6], 53, "udp").startswith("outside ")


def test_an_address_of_the_host_may_have_a_port_of_its_own(site: Site, publisher: Publisher) -> None:
    site.host.run("ip", "address", "add", "192.0.2.7/24", "dev", "out0")
    one, two = publisher.attach(), publisher.attach("c2")
    publisher.publish(one, "192.0.2.1:8080:80", "0.0.0.0:9000:90")
    publisher.publish(two, "192.0.2.7:8080:80", ":::9000:90", container="c2")
    site.serve(one, "one", "80/tcp", "90/tcp")
    site.serve(two, "two", "80/tcp", "90/tcp")
    assert site.ask(site.outside, "192.0.2.1", 8080) == f"one {OUTSIDE[4]}"
    assert site.ask(site.outside, "192.0.2.7", 8080) == f"two {OUTSIDE[4]}"
    assert site.ask(site.host, "127.0.0.1", 8080, patience=0.5) == NOBODY
    assert site.ask(site.outside, HOST[6], 8080, patience=0.5) == NOBODY
    assert site.ask(site.outside, HOST[4], 9000) == f"one {OUTSIDE[4]}"
    assert site.ask(site.outside, HOST[6], 9000) == f"two {OUTSIDE[6]}"


def test_a_port_of_one_address_comes_before_that_of_all(site: Site, nft: Publisher) -> None:
    every, one = nft.attach(), nft.attach("c2")
    nft.publish(every, "8080:80")
    nft.publish(one, "192.0.2.1:8080:80", container="c2")
    site.serve(every, "every", "80/tcp")
    site.serve(one, "one", "80/tcp")
    assert site.ask(site.outside, "192.0.2.1", 8080) == f"one {OUTSIDE[4]}"
    assert site.ask(site.host, "127.0.0.1", 8080) == "every 10.1.0.1"
    assert site.ask(site.outside, HOST[6], 8080) == f"every {OUTSIDE[6]}"


def test_without_snat_sources_stay_and_localhost_is_not_served(site: Site, publisher: Publisher) -> None:
    web = publisher.attach()
    publisher.publish(web, "8080:80", snat=False)
    site.serve(web, "web", "80/tcp")
    assert site.ask(site.outside, HOST[4], 8080) == f"web {OUTSIDE[4]}"
    assert site.ask(site.host, "127.0.0.1", 8080, patience=0.5) == NOBODY
    assert site.ask(web, HOST[4], 8080, patience=0.5) == NOBODY


def test_masq_all_hides_every_source(site: Site, publisher: Publisher) -> None:
    web = publisher.attach()
    publisher.publish(web, "8080:80", masqAll=True)
    site.serve(web, "web", "80/tcp")
    assert site.ask(site.outside, HOST[4], 8080) == f"web {GATEWAY[4]}"
    assert site.ask(site.outside, HOST[6], 8080) == f"web {GATEWAY[6]}"
    assert site.ask(site.host, "127.0.0.1", 8080) == f"web {GATEWAY[4]}"
    assert site.ask(web, HOST[4], 8080) == f"web {GATEWAY[4]}"


CONDITIONS = {
    "nftables": {
        "conditionsV4": ["ip", "saddr", "!=", "192.0.2.2"],
        "conditionsV6": ["iifname", "!=", "out0"],
    },
    "iptables": {"conditionsV4": ["!", "-s", "192.0.2.2"], "conditionsV6": ["!", "-s", "fd99::2"]},
}


def test_conditions_exclude_whom_they_name(site: Site, publisher: Publisher) -> None:
    web, free = publisher.attach(), publisher.attach("c2")
    before = site.bed.state()
    publisher.publish(web, "8080:80", "192.0.2.1:8081:80", **CONDITIONS[publisher.keys["backend"]])
    publisher.publish(free, "9090:80", container="c2")
    site.serve(web, "web", "80/tcp")
    site.serve(free, "free", "80/tcp")
    for port in (8080, 8081):
        assert site.ask(site.outside, HOST[4], port, patience=0.5) == NOBODY
        assert site.ask(site.host, HOST[4], port).startswith("web ")
    assert site.ask(site.outside, HOST[6], 8080, patience=0.5) == NOBODY
    assert site.ask(site.outside, HOST[4], 9090) == f"free {OUTSIDE[4]}"
    assert publisher.call("CHECK", web, "8080:80", **CONDITIONS[publisher.keys["backend"]])[0] == 0
    assert publisher.call("DEL", web) == (0, None)
    assert publisher.call("DEL", free, container="c2") == (0, None)
    if publisher.keys["backend"] == "nftables":
        assert site.bed.state() == before


def test_udp_flows_that_are_older_than_the_mapping_follow_it(site: Site, publisher: Publisher) -> None:
    """And those to a container that is gone do not stick to its address."""
    web = publisher.attach()
    site.serve(web, "web", "81/udp")
    site.serve(site.host, "host", "8081/udp")
    assert site.ask(site.outside, HOST[4], 8081, "udp", own_port=5000).startswith("host ")
    publisher.publish(web, "8081:81/udp")
    assert site.ask(site.outside, HOST[4], 8081, "udp", own_port=5000) == f"web {OUTSIDE[4]}"
    assert publisher.call("DEL", web, "8081:81/udp") == (0, None)
    assert site.ask(site.outside, HOST[4], 8081, "udp", own_port=5000).startswith("host ")


def test_a_process_that_stays_forgets_the_udp_flows_of_all_requests_a_moment_later(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def known() -> set[int]:
        listed = site.host.run("conntrack", "-L", "-p", "udp", "--orig-dst", HOST[4])
        return {port for port in ports if f"dport={port} " in listed}

    ports = (8081, 8082, 8083)
    # Conntrack is on where a rule needs it.
    site.host.run("nft", "add table t; add chain t c { type filter hook input priority 0; }")
    site.host.run("nft", "add rule t c ct state invalid drop")
    site.serve(site.host, "host", *(f"{port}/udp" for port in ports))
    for port in ports:
        assert site.ask(site.outside, HOST[4], port, "udp").startswith("host ")
    assert known() == set(ports)
    aside: list[Any] = []
    monkeypatch.setattr(conntrack, "_aside", aside)
    with site.host.entered(), closing(nft_socket()) as kept:
        for port in ports[:2]:
            with Session(None, residence=Residence(kept, lambda: True)) as session:
                conntrack.forget_udp(session, [Flows(4, port)])
    end = time.monotonic() + 10
    while known() != {8083} and time.monotonic() < end:
        time.sleep(0.02)
    assert known() == {8083}
    aside[0].close()


def test_udp_flows_of_others_are_not_forgotten(site: Site, nft: Publisher) -> None:
    """A name server that is published must not cut the containers off from other name servers."""
    site.host.run("conntrack", "-V")
    web, other = nft.attach(), nft.attach("c2")
    site.serve(site.outside, "outside", "53/udp")
    assert site.ask(other, OUTSIDE[4], 53, "udp") == f"outside {HOST[4]}"
    nft.publish(web, "53:53/udp")
    kept = site.host.run("conntrack", "-L", "-p", "udp", "--orig-dst", OUTSIDE[4])
    assert "dport=53" in kept


def test_containers_do_not_reach_the_hosts_loopback(site: Site, nft: Publisher) -> None:
    """The setting that 127.0.0.1 needs would let them (CVE-2020-8558)."""
    web = nft.attach()
    nft.publish(web, "8080:80")
    site.host.run("ip", "address", "add", "127.0.0.1/8", "dev", "lo", check=False)
    site.serve(site.host, "host", "7000/tcp")
    web.run("ip", "route", "add", "127.0.0.9/32", "via", "10.1.0.1", "table", "5")
    web.run("ip", "rule", "add", "pref", "0", "to", "127.0.0.9", "lookup", "5")
    web.run("sh", "-c", "for f in all eth0; do echo 1 > /proc/sys/net/ipv4/conf/$f/route_localnet; done")
    web.run("ip", "rule", "del", "pref", "0", "lookup", "local")
    web.run("ip", "rule", "add", "pref", "1", "lookup", "local")
    assert site.ask(web, "127.0.0.9", 7000, patience=0.5) == NOBODY
    site.host.run("nft", "flush", "chain", "inet", "cni_plugins", "ports_localhost")
    assert site.ask(web, "127.0.0.9", 7000).startswith("host ")  # so the rule makes the difference


@pytest.mark.parametrize("kind", ["ptp", "macvlan"])
def test_ports_of_other_interfaces_are_published_too(site: Site, nft: Publisher, kind: str) -> None:
    sandbox, bed = site.bed.sandbox(), site.bed
    sandbox.skip_dad()
    keys: dict[str, Any] = {"type": kind, "ipam": site.pools}
    if kind == "macvlan":
        site.host.run("ip", "link", "add", "up0", "type", "veth", "peer", "up1")
        for link in ("up0", "up1"):
            site.host.run("ip", "link", "set", link, "up")
        keys |= {"master": "up0", "hostAccess": True, "isGateway": True}
    nft.results["c1"] = bed.add({"cniVersion": "1.1.0", "name": "net1", **keys}, sandbox)
    nft.publish(sandbox, "8080:80")
    site.serve(sandbox, "web", "80/tcp")
    assert site.ask(site.outside, HOST[4], 8080) == f"web {OUTSIDE[4]}"
    assert site.ask(site.outside, HOST[6], 8080) == f"web {OUTSIDE[6]}"
    assert site.ask(site.host, "127.0.0.1", 8080).startswith("web ")
    assert site.ask(sandbox, HOST[4], 8080).startswith("web ")
    assert nft.call("CHECK", sandbox, "8080:80") == (0, None)
    assert nft.call("DEL", sandbox, "8080:80") == (0, None)
