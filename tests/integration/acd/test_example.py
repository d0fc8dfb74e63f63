"""The example of a network with IPAM plugin cluster, with blocks written down by hand."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from cni_plugins.contract import snapshot
from tests.integration.acd.test_acd import Lan
from tests.integration.conftest import Bed

EXAMPLE = Path(__file__).parents[3] / "conf" / "73-macvlan-cluster.conflist"


def test_a_container_gets_an_address_of_this_hosts_block_that_nobody_has(
    bed: Bed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lan = Lan(bed)
    os.link(bed.bin / "bridge", bed.bin / "cluster")
    monkeypatch.setattr(snapshot, "blocks_dir", lambda network, *_: f"{tmp_path}/blocks/{network}")
    listed = json.loads(EXAMPLE.read_text())
    (plugin,) = listed["plugins"]
    conf: dict[str, Any] = {"cniVersion": listed["cniVersion"], "name": listed["name"], **plugin}
    conf["ipam"]["dataDir"] = str(bed.leases)
    sandbox = bed.sandbox()
    code, error = bed.call("ADD", conf, sandbox)
    assert (code, error["code"]) == (1, 11)
    assert sandbox.link("eth0") is None
    directory = tmp_path / "blocks" / listed["name"]
    directory.mkdir(parents=True)
    (directory / "blocks.json").write_text('{"self": "a", "blocks": ["10.94.64.64/26"]}')
    lan.take("10.94.64.64/16", "10.94.64.65/16")
    result = bed.add(conf, sandbox)
    assert [(ip["address"], ip["gateway"]) for ip in result["ips"]] == [("10.94.64.66/16", "10.94.0.1")]
    assert bed.leased(listed["name"]) == {"10.94.64.66"}
    assert sandbox.reaches("10.94.64.64")
    assert bed.call("CHECK", {**conf, "prevResult": result}, sandbox)[0] == 0
    assert bed.call("DEL", {**conf, "prevResult": result}, sandbox)[0] == 0
    assert bed.leased(listed["name"]) == set()
