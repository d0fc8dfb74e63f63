"""Rules that somebody removed from our tables: the next ADD makes them again."""

from typing import Any

import pytest


@pytest.mark.parametrize("flush", ["flush table inet cni_plugins", "flush chain inet cni_plugins {chain}"])
def test_an_add_restores_rules_that_were_flushed(bed: Any, flush: str) -> None:
    conf = bed.conf(isGateway=True, ipMasq=True, macspoofchk=True, ipam=bed.host_local("10.1.0.0/24"))
    first, second = bed.sandbox(), bed.sandbox()
    result = bed.add(conf, first)
    whole = bed.host.run("nft", "list", "table", "inet", "cni_plugins")
    chains = (line.split()[1] for line in whole.splitlines() if line.strip().startswith("chain "))
    chain = next(name for name in chains if not name.startswith("in_"))  # those stand for sets
    bed.host.run("nft", *flush.format(chain=chain).split())
    code, error = bed.call("CHECK", {**conf, "prevResult": result}, first)
    assert (code, error["code"]) == (1, 103)
    bed.add(conf, second, container="c2")
    assert bed.call("CHECK", {**conf, "prevResult": result}, first) == (0, None)
    assert bed.host.run("nft", "list", "table", "inet", "cni_plugins").count("masquerade") == 1
    for container, sandbox in (("c1", first), ("c2", second)):
        assert bed.call("DEL", conf, sandbox, container=container) == (0, None)
    assert bed.host.run("nft", "list", "ruleset") == ""


def test_an_add_restores_the_source_filter(bed: Any) -> None:
    conf = bed.conf(macspoofchk=True, ipam=bed.host_local("10.1.0.0/24"))
    bed.add(conf, bed.sandbox())
    before = bed.host.run("nft", "list", "table", "bridge", "cni_plugins")
    bed.host.run("nft", "flush", "table", "bridge", "cni_plugins")
    bed.add(conf, bed.sandbox(), container="c2")
    after = bed.host.run("nft", "list", "table", "bridge", "cni_plugins")
    assert before.count(" drop") == after.count(" drop") > 0
