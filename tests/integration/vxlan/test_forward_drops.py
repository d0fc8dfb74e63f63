"""Filters of other programs that drop what an overlay forwards are told, with rules that let it through."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from cni_plugins.upkeep import overlay
from tests import namespaces
from tests.integration.vxlan.conftest import Underlay
from tests.integration.vxlan.test_plugin import vxlan

CHAIN = "type filter hook forward priority filter; policy drop;"
SET = '{ "docker0" }'
TOLD = {
    "without rules": "",
    "states only": "ct state established,related accept",
    "one state only": "ct state established accept",
    "another link": 'iifname "docker0" accept; oifname "docker0" accept',
    "other links by name": 'iifname "br-*" oifname != "br-*" accept',
    "not from the bridge": 'iifname != "vxbr25" oifname != "vxbr25" accept',
    "another family": "meta nfproto ipv6 accept",
    "drops": 'ip daddr 10.0.0.0/8 drop; iifname "vxbr25" counter log reject',
    "a chain of others": 'iifname "docker0" jump more; jump nothing',
}
SILENT = {
    "the bridge": 'iifname "vxbr25" accept; oifname "vxbr25" accept',
    "bridges by name": 'iifname "vxbr*" accept; oifname "vxbr*" accept',
    "an address": "ip saddr 10.244.0.0/16 accept; ip daddr 10.244.0.0/16 accept",
    "new connections": "ct state established,related,new accept",
    "a map of verdicts": "ct state vmap { established : accept, new : jump more }",
    "a set of links": f"iifname != {SET} accept",
    "a chain that accepts": "jump more",
    "everything": "accept",
}


def rule_set(rules: str) -> str:
    chains = "chain nothing { drop; }\nchain more { accept; }"
    return f"table inet other {{\n{chains}\nchain forward {{\n{CHAIN}\n{rules.replace('; ', chr(10))}\n}}\n}}"


def load(underlay: Underlay, text: str) -> None:
    with underlay.bed.inside():
        namespaces.run("nft", "-f", "-", input=text)


class Attached:
    """A network with one container, and what is said of it."""

    def __init__(self, underlay: Underlay, **keys: Any) -> None:
        self.underlay, self.conf = underlay, vxlan(underlay, **keys)
        self.sandbox = underlay.bed.sandbox()
        result = underlay.bed.add(self.conf, self.sandbox)
        self.checked = {**self.conf, "prevResult": result}

    def told(self) -> str:
        """Return the sentence of CHECK, which is that of STATUS and of `cnictl overlay status` too."""
        bed = self.underlay.bed
        code, error = bed.call("CHECK", self.checked, self.sandbox)
        with bed.inside():
            seen = overlay.view("net1", self.conf, with_filters=True)
        assert seen.state == overlay.State.IN_SYNC
        _, status = bed.call("STATUS", self.conf)
        if code == 0:
            assert (status, seen.blocked) == (None, ())
            return ""
        assert error["code"] == 103
        assert status["code"] == 51
        assert [*seen.blocked] == status["details"].split("; ")
        text = json.dumps(error, ensure_ascii=False)
        assert all(sentence in text for sentence in seen.blocked)
        return "; ".join(seen.blocked)


@pytest.mark.parametrize("name", TOLD)
def test_what_certainly_drops_is_told_with_rules_that_help(underlay: Underlay, name: str) -> None:
    attached = Attached(underlay)
    assert attached.told() == ""
    load(underlay, rule_set(TOLD[name]))
    told = attached.told()
    assert told.startswith("chain forward of table inet other drops what is forwarded at vxbr25: ")
    for command in re.findall("`([^`]+)`", told):
        underlay.bed.host.run(*command.split())
    assert attached.told() == ""


@pytest.mark.parametrize("name", SILENT)
def test_what_may_be_accepted_is_not(underlay: Underlay, name: str) -> None:
    attached = Attached(underlay)
    load(underlay, rule_set(SILENT[name]))
    assert attached.told() == ""


@pytest.mark.parametrize(
    "chain", ["hook forward priority 0; policy accept", "hook input priority 0; policy drop"]
)
def test_chains_that_do_not_drop_what_is_forwarded_are_not_looked_at(underlay: Underlay, chain: str) -> None:
    attached = Attached(underlay)
    load(underlay, f"table inet other {{ chain forward {{ type filter {chain}; }}\n}}")
    assert attached.told() == ""


def test_each_family_is_looked_at_if_the_overlay_has_it(underlay: Underlay) -> None:
    attached = Attached(underlay)
    load(underlay, f"table ip6 other {{ chain forward {{ {CHAIN} }}\n}}")
    assert attached.told() == ""
    load(underlay, f"table ip other {{ chain forward {{ {CHAIN} }}\n}}")
    assert "table ip other" in attached.told()


DOCKER = """
*filter
:FORWARD DROP [0:0]
:DOCKER-USER - [0:0]
:DOCKER - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
:DOCKER-ISOLATION-STAGE-2 - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A FORWARD -i docker0 -o docker0 -j ACCEPT
-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
-A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
-A DOCKER-ISOLATION-STAGE-2 -j RETURN
COMMIT
"""


@pytest.mark.parametrize("program", ["iptables-nft", "iptables-legacy"])
def test_dockers_chain_is_told_with_the_place_that_docker_wants(
    underlay: Underlay, program: str, needs: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    needs(program)
    for name in ("", "-save", "-restore"):
        link = tmp_path / f"iptables{name}"
        link.symlink_to(f"/usr/sbin/{program}{name}")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/sbin:/usr/bin:/sbin:/bin")
    attached = Attached(underlay)
    with underlay.bed.inside():
        try:
            namespaces.run(f"{program}-restore", input=DOCKER)
        except RuntimeError as err:
            pytest.skip(str(err))
    told = attached.told()
    assert told == (
        "chain FORWARD of table ip filter drops what is forwarded at vxbr25: "
        "`iptables -I DOCKER-USER -i vxbr25 -j ACCEPT` and "
        "`iptables -I DOCKER-USER -o vxbr25 -j ACCEPT` let it through"
    )
    for command in re.findall("`([^`]+)`", told):
        underlay.bed.host.run(*command.split())
    assert attached.told() == ""


_BRIDGED = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")


def test_a_stretched_network_needs_it_for_what_is_masqueraded_only(underlay: Underlay) -> None:
    bed = underlay.bed
    conf = vxlan(underlay, "stretched")
    bed.add(conf, bed.sandbox())
    if _BRIDGED.exists():
        underlay.bed.host.run("sh", "-c", f"echo 0 > {_BRIDGED}")
    load(underlay, f"table inet other {{ chain forward {{ {CHAIN} }}\n}}")
    assert bed.call("STATUS", conf) == (0, None)
    code, error = bed.call("STATUS", {**conf, "ipMasq": True})
    assert (code, error["code"]) == (1, 51)


@pytest.mark.skipif(not _BRIDGED.exists(), reason="br_netfilter is not loaded")
def test_a_stretched_network_needs_it_too_where_frames_pass_the_filters_of_packets(
    underlay: Underlay,
) -> None:
    bed = underlay.bed
    conf = vxlan(underlay, "stretched")
    bed.add(conf, bed.sandbox())
    underlay.bed.host.run("sh", "-c", f"echo 1 > {_BRIDGED}")
    load(underlay, f"table inet other {{ chain forward {{ {CHAIN} }}\n}}")
    code, error = bed.call("STATUS", conf)
    assert (code, error["code"]) == (1, 51)
