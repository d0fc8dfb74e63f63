"""ADD, CHECK, DEL, GC and STATUS of portmap, and what is left: nothing, and never less than before."""

import threading
from typing import Any

import pytest

from cni_plugins.engine import registry
from cni_plugins.kernel import dispatch
from cni_plugins.steps.port_mappings import ForgetUdpFlows
from tests.integration.portmap.conftest import Publisher, Site

PORTS = ("8080:80", "8443:443", "53:53/udp", "192.0.2.1:7000:70/sctp")


def without_iptables_frame(state: dict[str, Any]) -> dict[str, Any]:
    """Chains that all containers share stay, as those of the reference do."""
    shared = ("CNI-HOSTPORT", "*nat", "COMMIT", ":PREROUTING", ":INPUT", ":OUTPUT", ":POSTROUTING")
    saved = [
        [line for line in lines if not any(word in line for word in shared)] for lines in state["iptables"]
    ]
    nft = state["nft"] if "CNI-HOSTPORT" not in state["nft"] else ""
    return {**state, "iptables": saved, "nft": nft}


def localnet(site: Site, link: str = "br0") -> str:
    return str(site.host.run("cat", f"/proc/sys/net/ipv4/conf/{link}/route_localnet").strip())


def test_a_life_leaves_everything_as_it_was(site: Site, publisher: Publisher) -> None:
    web = publisher.attach()
    before = without_iptables_frame(site.bed.state())
    result = publisher.publish(web, *PORTS)
    assert result == publisher.results["c1"]
    assert localnet(site) == "1"
    assert publisher.call("CHECK", web, *PORTS) == (0, None)
    for _ in range(2):
        assert publisher.call("DEL", web, *PORTS) == (0, None)
        assert localnet(site) == "0"
    after = without_iptables_frame(site.bed.state())
    assert {**after, "nft": ""} == {**before, "nft": ""}
    if publisher.keys["backend"] == "nftables":
        assert after == before


@pytest.mark.parametrize("how", ["no netns", "no prevResult", "no ports", "bad config", "other backend"])
def test_a_removal_needs_nothing_but_the_attachment(site: Site, publisher: Publisher, how: str) -> None:
    web = publisher.attach()
    publisher.publish(web, *PORTS)
    keys: dict[str, Any] = {
        "no netns": {},
        "no prevResult": {"prevResult": None},
        "no ports": {"runtimeConfig": None},
        "bad config": {"backend": "ipvs", "snat": 5},
        "other backend": {"backend": "nftables" if publisher.keys["backend"] == "iptables" else "iptables"},
    }[how]
    assert publisher.call("DEL", "" if how == "no netns" else web, **keys) == (0, None)
    assert localnet(site) == "0"
    assert "+portmap" not in site.host.run("nft", "list", "ruleset")
    assert "CNI-DN-" not in site.host.run("iptables-save") + site.host.run("ip6tables-save")


def test_an_add_that_is_repeated_changes_nothing_and_one_with_other_ports_does(
    site: Site, publisher: Publisher
) -> None:
    web = publisher.attach()
    publisher.publish(web, *PORTS)
    before = site.bed.state()
    publisher.publish(web, *PORTS)
    assert publisher.call("CHECK", web, *PORTS) == (0, None)
    assert site.bed.state()["iptables"] == before["iptables"]
    assert publisher.call("DEL", web) == (0, None)
    assert "+portmap" not in site.host.run("nft", "list", "ruleset")


def test_the_interfaces_of_a_container_do_not_touch_each_other(site: Site, publisher: Publisher) -> None:
    """Neither those of one network nor those of two."""
    web = publisher.attach()
    first = publisher.results["c1"]
    second = site.bed.add(site.conf(), web, container="c1", ifname="eth1")
    publisher.publish(web, "8080:80")
    publisher.publish(web, "8081:80", prevResult=second, ifname="eth1")
    publisher.publish(web, "8082:80", prevResult=first, name="net2")
    site.serve(web, "web", "80/tcp")
    assert publisher.call("DEL", web, "8080:80") == (0, None)
    assert publisher.call("CHECK", web, "8081:80", prevResult=second, ifname="eth1") == (0, None)
    assert publisher.call("CHECK", web, "8082:80", prevResult=first, name="net2") == (0, None)
    assert publisher.call("CHECK", web, "8080:80")[0] == 1
    assert publisher.call("DEL", web, "8082:80", name="net2") == (0, None)
    assert site.ask(site.host, "192.0.2.1", 8081).startswith("web ")
    assert publisher.call("DEL", web, ifname="eth1") == (0, None)
    assert "CNI-DN-" not in site.host.run("iptables-save")


def test_a_port_that_is_held_is_refused_with_the_holders_name(site: Site, publisher: Publisher) -> None:
    one, two = publisher.attach(), publisher.attach("c2")
    publisher.publish(one, "8080:80")
    before = site.bed.state()
    code, error = publisher.call("ADD", two, "9090:90", "8080:80", container="c2")
    assert (code, error["code"]) == (1, 101)
    assert error["msg"] == "host port 8080/tcp is published by another container"
    assert "c1" in error["details"]
    assert site.bed.state() == before
    assert publisher.call("CHECK", one, "8080:80") == (0, None)


def test_the_port_of_a_container_that_is_gone_is_taken_over(site: Site, publisher: Publisher) -> None:
    one, two = publisher.attach(), publisher.attach("c2")
    publisher.publish(one, "8080:80", "8081:81")
    one.run("ip", "link", "del", "eth0")
    publisher.publish(two, "8080:80", container="c2")
    assert publisher.call("CHECK", two, "8080:80", container="c2") == (0, None)
    assert publisher.call("DEL", "", container="c1") == (0, None)  # the late one harms nobody
    assert publisher.call("CHECK", two, "8080:80", container="c2") == (0, None)
    assert publisher.call("DEL", two, container="c2") == (0, None)
    assert "+portmap" not in site.host.run("nft", "list", "ruleset")
    assert "CNI-DN-" not in site.host.run("iptables-save")
    assert localnet(site) == "0"


SPOILS = {
    "element": "nft delete element inet cni_plugins ports4 { tcp . 8080 }",
    "target": "nft delete element inet cni_plugins ports4 { tcp . 8080 } ; "
    "nft add element inet cni_plugins ports4 { tcp . 8080 : 10.1.0.77 . 80 }",
    "rules": "nft flush chain inet cni_plugins ports_prerouting",
    "output": "nft flush chain inet cni_plugins ports_output",
    "hairpin": "nft flush chain inet cni_plugins ports_postrouting",
    "table": "nft delete table inet cni_plugins",
    "ruleset": "nft flush ruleset",
    "guard": "nft flush chain inet cni_plugins ports_localhost",
    "localnet": "echo 0 > /proc/sys/net/ipv4/conf/br0/route_localnet",
    "foreign rule": "nft insert rule inet cni_plugins ports_prerouting accept",
}


@pytest.mark.parametrize("spoil", SPOILS)
def test_a_check_notices_what_is_missing_and_an_add_restores_it(
    site: Site, nft: Publisher, spoil: str
) -> None:
    web, other = nft.attach(), nft.attach("c2")
    nft.publish(web, "8080:80")
    site.host.run("sh", "-c", SPOILS[spoil])
    code, error = nft.call("CHECK", web, "8080:80")
    assert (code, error["code"]) == (1, 103)
    if spoil == "foreign rule":
        return
    nft.publish(web, "8080:80")
    assert nft.call("CHECK", web, "8080:80") == (0, None)
    nft.publish(other, "8081:80", container="c2")
    assert nft.call("CHECK", other, "8081:80", container="c2") == (0, None)


def test_an_iptables_check_notices_what_is_missing(site: Site) -> None:
    publisher = Publisher(site, backend="iptables")
    web = publisher.attach()
    publisher.publish(web, "8080:80")
    for spoil in ("-F PREROUTING", "-F OUTPUT", "-F CNI-HOSTPORT-DNAT", "-F"):
        site.host.run("iptables", "-t", "nat", *spoil.split())
        assert publisher.call("CHECK", web, "8080:80")[0] == 1
        publisher.publish(web, "8080:80")
        assert publisher.call("CHECK", web, "8080:80") == (0, None)


def test_a_collection_keeps_the_valid_ones(site: Site, publisher: Publisher) -> None:
    kept, stale = publisher.attach(), publisher.attach("c2")
    publisher.publish(kept, "8080:80")
    publisher.publish(stale, "8081:80", container="c2")
    other = publisher.attach("c3")
    publisher.publish(other, "8082:80", container="c3", name="net2")
    valid = [{"containerID": "c1", "ifname": "eth0"}]
    assert publisher.call("GC", "", **{"cni.dev/valid-attachments": valid}) == (0, None)
    assert publisher.call("CHECK", kept, "8080:80") == (0, None)
    assert publisher.call("CHECK", stale, "8081:80", container="c2")[0] == 1
    assert publisher.call("CHECK", other, "8082:80", container="c3", name="net2") == (0, None)
    assert localnet(site) == "1"
    assert publisher.call("GC", "", **{"cni.dev/valid-attachments": []}) == (0, None)
    assert publisher.call("GC", "", name="net2", **{"cni.dev/valid-attachments": []}) == (0, None)
    assert localnet(site) == "0"


def test_many_containers_are_published_at_once(site: Site, publisher: Publisher) -> None:
    """Each rule that all share is there once, and each container gets its ports."""
    sandboxes = {f"c{n}": publisher.attach(f"c{n}") for n in range(12)}
    failed: list[Any] = []

    def publish(number: int) -> None:
        name = f"c{number}"
        answer = publisher.call("ADD", sandboxes[name], f"{8000 + number}:80", container=name)
        if answer[0]:
            failed.append(answer)

    threads = [threading.Thread(target=publish, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    for number in range(12):
        name = f"c{number}"
        assert publisher.call("CHECK", sandboxes[name], f"{8000 + number}:80", container=name) == (0, None)
    saved = site.host.run("iptables-save")
    assert saved.count("-A PREROUTING") <= 1
    assert saved.count("-A POSTROUTING") <= 1
    assert site.host.run("nft", "list", "ruleset").count('comment "cni-plugins ports4"') <= 2


def test_a_setting_that_was_on_before_stays_on(site: Site, nft: Publisher) -> None:
    web = nft.attach()
    site.host.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/conf/br0/route_localnet")
    nft.publish(web, "8080:80")
    assert nft.call("DEL", web) == (0, None)
    assert localnet(site) == "1"


def test_the_setting_stays_until_the_last_port_goes(site: Site, nft: Publisher) -> None:
    one, two = nft.attach(), nft.attach("c2")
    nft.publish(one, "8080:80")
    nft.publish(two, "8081:80", container="c2")
    assert nft.call("DEL", one) == (0, None)
    assert localnet(site) == "1"
    assert nft.call("DEL", two, container="c2") == (0, None)
    assert localnet(site) == "0"


def test_the_setting_is_given_back_although_another_program_has_flushed_the_ruleset(
    site: Site, nft: Publisher
) -> None:
    """podman's `network reload` calls DEL and ADD then; without these, GC does it."""
    web = nft.attach()
    for calls in (("DEL", "ADD", "DEL"), ("ADD", "DEL"), ("DEL", "GC")):
        nft.publish(web, "8080:80")
        site.host.run("nft", "flush", "ruleset")
        for command in calls:
            more = {"cni.dev/valid-attachments": []} if command == "GC" else {}
            assert nft.call(command, web, "8080:80", **more)[0] == 0
        assert localnet(site) == "0"


def test_a_refused_step_takes_back_the_others(
    site: Site, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(5, "refused by the test")

    web = publisher.attach()
    publisher.publish(publisher.attach("c2"), "9999:80", container="c2")
    before = site.bed.state()
    with monkeypatch.context() as patch:
        deed = dispatch.find(ForgetUdpFlows)._replace(carry_out=refuse)
        patch.setitem(dispatch._known, ForgetUdpFlows, deed)
        code, error = publisher.call("ADD", web, "8080:80", "53:53/udp")
    assert (code, error["code"]) == (1, 100)
    assert site.bed.state() == before


def test_status_says_what_is_missing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    from cni_plugins.kernel.firewall import iptables, port_maps, port_rules

    conf = {"cniVersion": "1.1.0", "name": "n", "type": "portmap"}
    words = {"conditionsV4": ["ip", "saddr", "10.0.0.0/8"]}
    assert site.bed.call("STATUS", conf) == (0, None)
    assert site.bed.call("STATUS", {**conf, **words}) == (0, None)
    assert site.host.run("nft", "list", "ruleset") == ""
    for module in (iptables, port_rules):
        monkeypatch.setattr(module, "find_program", lambda _: None)
    for keys, message in (
        ({"backend": "iptables"}, "iptables-restore is not installed"),
        (words, "nft is not installed"),
    ):
        code, error = site.bed.call("STATUS", {**conf, **keys})
        assert (code, error["code"], error["msg"]) == (1, 50, message)
    monkeypatch.setattr(port_maps, "lacking", lambda _: "nf_tables")
    code, error = site.bed.call("STATUS", conf)
    assert (code, error["code"], error["msg"]) == (1, 50, "this kernel has no nf_tables")


def test_bad_conditions_are_refused_by_nft_with_its_words(site: Site, nft: Publisher) -> None:
    web = nft.attach()
    before = site.bed.state()
    code, error = nft.call("ADD", web, "8080:80", conditionsV4=["ip", "sadr", "10.0.0.0/8"])
    assert (code, error["code"]) == (1, 100)
    assert "nft refused the conditions" in error["msg"]
    assert site.bed.state() == before


def test_portmap_is_registered() -> None:
    assert registry.plugin("portmap").is_chained
