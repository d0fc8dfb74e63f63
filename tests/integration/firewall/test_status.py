"""STATUS says why an ADD would not do what the config asks for; ADD itself then names the same."""

from pathlib import Path
from typing import Any

import pytest

from cni_plugins.kernel.firewall import forward_facts, forward_records, iptables
from tests.integration.firewall.conftest import Host

CONF = {"cniVersion": "1.1.0", "name": "net1", "type": "firewall"}


def status(host: Host, **keys: Any) -> tuple[int, str]:
    code, error = host.call("STATUS", {**CONF, **keys})
    assert code == bool(error)
    return (error["code"], f"{error['msg']} ({error['details']})") if error else (0, "")


@pytest.mark.parametrize("backend", ["", "iptables", "nftables"])
@pytest.mark.parametrize("policy", ["open", "same-bridge", "isolated"])
def test_a_host_with_everything_is_ready(host: Host, backend: str, policy: str) -> None:
    before = host.bed.state()
    assert status(host, backend=backend, ingressPolicy=policy) == (0, "")
    assert host.bed.state() == before


def test_iptables_that_is_not_installed(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iptables, "_ADMINISTRATOR", "")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert status(host, backend="iptables") == (50, "iptables-restore is not installed (backend is iptables)")
    assert status(host) == (0, "")


def test_firewalld_that_does_not_run(host: Host) -> None:
    assert status(host, backend="firewalld") == (50, "firewalld does not run (backend is firewalld)")
    one = host.container(backend="firewalld")
    before = host.bed.state()
    code, error = one.call("ADD")
    assert (code, error["code"], error["msg"]) == (1, 11, "firewalld does not run")
    assert host.bed.state() == before
    one.delete()


def test_a_bus_address_that_is_none(host: Host) -> None:
    host.bus = "rubbish"
    code, text = status(host)
    assert (code, text) == (4, "DBUS_SYSTEM_BUS_ADDRESS is not an address of a local bus (rubbish)")
    assert status(host, backend="nftables") == (0, "")
    one = host.container()
    one.delete()


def test_a_chain_of_another_program_that_lets_nothing_through(host: Host) -> None:
    """As in the nftables.conf of some distributions; a chain with rules may let containers through."""
    host.run("nft", "add", "table", "inet", "site")
    host.run(
        "nft",
        "add",
        "chain",
        "inet",
        "site",
        "forward",
        "{ type filter hook forward priority 0; policy drop; }",
    )
    code, text = status(host)
    assert code == 51
    assert text.startswith("chain forward of table site of nf_tables drops every packet that is forwarded")
    host.run("nft", "add", "rule", "inet", "site", "forward", "ip", "saddr", "10.1.0.0/24", "accept")
    assert status(host) == (0, "")


def test_a_forward_chain_of_iptables_that_drops(host: Host) -> None:
    """It is what the backend iptables is for; another cannot do anything about it."""
    host.both("-P", "FORWARD", "DROP")
    assert status(host) == (0, "")
    assert status(host, backend="iptables") == (0, "")
    code, text = status(host, backend="nftables")
    assert code == 51
    assert text.startswith("chain FORWARD of table filter")


class TestAKernelWithoutNfTables:
    """What such a kernel says is imitated, as this one has it."""

    @pytest.fixture(autouse=True)
    def without(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(forward_records, "usable", lambda _session: False)

    def test_the_backend_needs_it(self, host: Host) -> None:
        assert status(host, backend="nftables") == (50, "this kernel has no nf_tables (backend is nftables)")
        code, error = host.container(backend="nftables").call("ADD")
        assert (code, error["code"], error["msg"]) == (1, 2, "this kernel has no nf_tables")

    def test_iptables_keeps_no_records_then(self, host: Host) -> None:
        assert status(host, backend="iptables", ingressPolicy="same-bridge") == (0, "")
        one = host.container(ingressPolicy="same-bridge")
        before = host.bed.host.run("nft", "list", "ruleset")
        one.add()
        assert len(host.chain("CNI-FORWARD")) == 3
        assert one.check() == ""
        assert host.ours() == ""
        assert before == ""

    def test_firewalld_keeps_no_bridges_apart(self, host: Host) -> None:
        code, error = host.container(backend="firewalld", ingressPolicy="same-bridge").call("ADD")
        assert (code, error["code"], error["details"]) == (1, 2, "ingressPolicy is same-bridge")


def test_a_kernel_whose_bridges_cannot_be_filtered(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """br_netfilter does as well, for IP packets."""
    monkeypatch.setattr(forward_facts, "filters_frames", lambda _session: False)
    knobs = "/proc/sys/net/bridge/bridge-nf-call-iptables"
    one = host.container(ingressPolicy="isolated")
    host.run("sh", "-c", f"echo 1 >{knobs}")
    assert status(host, ingressPolicy="isolated") == (0, "")
    one.add()
    assert "isolated_senders" not in host.ours()
    assert one.check() == ""
    host.run("sh", "-c", f"echo 0 >{knobs}")
    code, text = status(host, ingressPolicy="isolated")
    assert code == 50
    assert text.endswith("br_netfilter is off (ingressPolicy is isolated)")
    assert status(host, ingressPolicy="same-bridge") == (0, "")
    code, error = one.call("ADD")
    assert (code, error["code"]) == (1, 2)
