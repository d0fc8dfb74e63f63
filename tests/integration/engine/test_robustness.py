"""What others do at the same time, or left behind, and what a runtime gets wrong, must harm nobody."""

import fcntl
import os
import subprocess
import time
from typing import Any

import pytest

from cni_plugins.engine import ipam as ipams
from cni_plugins.kernel import dispatch
from cni_plugins.kernel.firewall import attachment_rules, nft_table
from cni_plugins.kernel.session.session import Session
from cni_plugins.ownership import Attachment, Owner
from cni_plugins.steps.firewall import DelStaleRules


def test_a_refused_second_add_leaves_the_lease_of_the_first(bed: Any) -> None:
    conf = bed.conf(ipam=bed.host_local("10.1.0.0/24"))
    sandbox = bed.sandbox()
    bed.add({**conf, "runtimeConfig": {"ips": ["10.1.0.5"]}}, sandbox)
    code, error = bed.call("ADD", {**conf, "runtimeConfig": {"ips": ["10.1.0.6"]}}, sandbox)
    assert (code, error["code"]) == (1, 101)
    assert bed.leased() == {"10.1.0.5"}
    assert bed.call("DEL", conf, sandbox) == (0, None)
    assert bed.leased() == set()


def test_a_refused_second_add_does_not_even_ask_the_ipam(bed: Any, tmp_path: Any) -> None:
    script = bed.bin / "other"
    answer = '{"ips": [{"address": "10.1.0.7/24"}]}'
    script.write_text(f"#!/bin/sh\ncat > /dev/null; echo $CNI_COMMAND >> {tmp_path}/calls; echo '{answer}'\n")
    script.chmod(0o755)
    conf, sandbox = bed.conf(ipam={"type": "other"}), bed.sandbox()
    bed.add(conf, sandbox)
    assert bed.call("ADD", conf, sandbox)[0] == 1
    assert (tmp_path / "calls").read_text().split() == ["ADD"]


def test_a_main_plugin_is_no_ipam_plugin(bed: Any) -> None:
    for name in ("bridge", "loopback"):
        conf = bed.conf(ipam={"type": name})
        code, error = bed.call("ADD", conf, bed.sandbox())
        assert (code, error["code"], error["msg"]) == (1, 7, f"{name} is not an IPAM plugin")
        assert bed.call("DEL", conf, "")[0] == 1


def test_an_answer_that_cannot_be_read_is_released(bed: Any, tmp_path: Any) -> None:
    script = bed.bin / "other"
    script.write_text(f"#!/bin/sh\ncat > /dev/null; echo $CNI_COMMAND >> {tmp_path}/calls; echo rubbish\n")
    script.chmod(0o755)
    code, error = bed.call("ADD", bed.conf(ipam={"type": "other"}), bed.sandbox())
    assert (code, error["code"]) == (1, 104)
    assert (tmp_path / "calls").read_text().split() == ["ADD", "DEL"]


def test_comments_of_others_in_any_encoding_do_not_matter(bed: Any, needs: Any) -> None:
    needs("iptables-restore")
    rule = [b"iptables", b"-t", b"nat", b"-A", b"POSTROUTING", b"-s", b"192.0.2.1", b"-j", b"RETURN"]
    bed.host.run(*[os.fsdecode(word) for word in (*rule, b"-m", b"comment", b"--comment", b"caf\xe9 \"'\\")])
    conf = bed.conf(ipMasq=True, ipMasqBackend="iptables", ipam=bed.host_local("10.1.0.0/24"))
    sandbox = bed.sandbox()
    result = bed.add(conf, sandbox)
    assert bed.call("CHECK", {**conf, "prevResult": result}, sandbox) == (0, None)
    assert bed.call("DEL", conf, sandbox) == (0, None)
    assert bed.leased() == set()


def test_thousands_of_stale_elements_are_collected(bed: Any) -> None:
    chain = nft_table.Chain("masq_postrouting", "nat", 4, 100)
    name = "masq4_test"
    with bed.inside(), Session(None) as session:
        for part in range(10):
            addresses = [attachment_rules.Item(name, bytes([10, 1, part, n])) for n in range(250)]
            objects = attachment_rules.Objects(
                1,
                (attachment_rules.Rule(chain, (nft_table.Set(name, 7, 4, ""),), bytes),),
                tuple(addresses),
            )
            attachment_rules.ensure(session, objects, Owner(Attachment("net1", "gone", "eth0")))
        dispatch.carry_out(session, DelStaleRules("net1", "", frozenset()))
    assert bed.host.run("nft", "list", "ruleset") == ""


def test_an_interface_of_another_container_survives_a_mistaken_del(bed: Any) -> None:
    """The path of a sandbox may name another one by the time of DEL, as process ids are used again."""
    conf = bed.conf(isGateway=True, ipam=bed.host_local("10.1.0.0/24"))
    first, second = bed.sandbox(), bed.sandbox()
    result = bed.add(conf, first, container="c1")
    bed.add(conf, second, container="c2")
    assert bed.call("DEL", {**conf, "prevResult": result}, second, container="c1") == (0, None)
    assert second.reaches("10.1.0.1")
    assert bed.leased() == {"10.1.0.3"}


def test_an_interface_of_another_plugin_survives_add_and_del(bed: Any) -> None:
    conf = bed.conf(ipam=bed.host_local("10.1.0.0/24"))
    sandbox = bed.sandbox()
    sandbox.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth9")
    assert bed.call("ADD", conf, sandbox)[0] == 1
    assert bed.call("DEL", conf, sandbox) == (0, None)
    assert sandbox.link("eth0")
    assert bed.leased() == set()


def test_an_unprivileged_process_cannot_hold_up_an_add(bed: Any) -> None:
    user = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    if subprocess.run([*user, "true"], capture_output=True).returncode != 0:
        pytest.skip("this user cannot become another one")
    script = "import fcntl, time; fd = open('/proc/self/ns/net'); fcntl.flock(fd, 2); print(); time.sleep(9)"
    with bed.inside():
        holder = subprocess.Popen([*user, "/usr/bin/python3", "-uc", script], stdout=subprocess.PIPE)
    with holder:
        try:
            assert holder.stdout is not None
            holder.stdout.readline()
            began = time.monotonic()
            bed.add(bed.conf(ipam=bed.host_local("10.1.0.0/24")), bed.sandbox())
            assert time.monotonic() - began < 1.5
        finally:
            holder.kill()


def test_a_held_lock_delays_but_does_not_stop_an_add(bed: Any) -> None:
    with bed.inside():
        fd = os.open("/proc/sys/net/ipv4/tcp_fastopen_key", os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        bed.add(bed.conf(ipam=bed.host_local("10.1.0.0/24")), bed.sandbox())
    finally:
        os.close(fd)


def test_an_ipam_of_ours_is_called_in_process_only_when_it_is_this_very_program(bed: Any) -> None:
    (bed.bin / "static").unlink()
    (bed.bin / "static").write_text("#!/bin/sh\nexit 7\n")
    (bed.bin / "static").chmod(0o755)
    conf = bed.conf(ipam={"type": "static", "addresses": [{"address": "10.1.0.2/24"}]})
    code, error = bed.call("ADD", conf, bed.sandbox())
    assert (code, error["code"]) == (1, 104)
    assert ipams.none().name == ""


@pytest.mark.parametrize(
    ("mark", "own"),
    [("0123456789abcdef", True), ("0123456789abcde0", False), ("0123456789ABCDEF", False), ("0123", False)],
)
def test_a_copy_of_this_program_is_this_program(bed: Any, mark: str, own: bool) -> None:
    """By its build id: most ways to copy executables lose hard links."""
    bed.program = bed.program._replace(build="0123456789abcdef")
    (bed.bin / "static").unlink()
    (bed.bin / "static").write_text(f"#!/bin/sh\nexit 7\n# {'x' * 9000} @build-id:{mark}\n")
    (bed.bin / "static").chmod(0o755)
    conf = bed.conf(ipam={"type": "static", "addresses": [{"address": "10.1.0.2/24"}]})
    code, result = bed.call("ADD", conf, bed.sandbox())
    assert (code == 0) == own, result
