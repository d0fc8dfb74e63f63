"""IPAM plugins that are not ours: run as executables, answers and errors passed on."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests import cni

ANSWER = {"cniVersion": "1.1.0", "ips": [{"address": "10.1.0.7/24"}], "example.org/extra": 5}


@pytest.fixture
def ipam(bed: Any, tmp_path: Path) -> Any:
    """Put a shell script on CNI_PATH that logs its calls and answers as told."""

    def make(body: str) -> dict[str, Any]:
        script = bed.bin / "other"
        script.write_text(f'#!/bin/sh\necho "$CNI_COMMAND $CNI_ARGS" >> {tmp_path}/calls\n{body}\n')
        script.chmod(0o755)
        return bed.conf(ipam={"type": "other"})

    make.calls = lambda: (tmp_path / "calls").read_text().split()  # type: ignore[attr-defined]
    return make


def test_an_answer_is_used_and_every_command_is_forwarded(bed: Any, ipam: Any) -> None:
    conf = ipam(f"cat > /dev/null; [ $CNI_COMMAND != ADD ] || echo '{json.dumps(ANSWER)}'")
    sandbox = bed.sandbox()
    result = bed.add(conf, sandbox)
    assert sandbox.addresses("eth0") == {"10.1.0.7/24"}
    assert result["example.org/extra"] == 5
    assert bed.call("CHECK", {**conf, "prevResult": result}, sandbox) == (0, None)
    assert bed.call("STATUS", conf) == (0, None)
    assert bed.call("DEL", conf, sandbox) == (0, None)
    assert bed.call("GC", {**conf, "cni.dev/valid-attachments": []}) == (0, None)
    assert ipam.calls() == ["ADD", "CHECK", "STATUS", "DEL", "GC"]


def test_it_is_given_the_whole_config_and_environment(bed: Any, ipam: Any, tmp_path: Path) -> None:
    conf = ipam(f"cat > {tmp_path}/stdin; env > {tmp_path}/env; echo '{json.dumps(ANSWER)}'")
    bed.add(conf, bed.sandbox(), CNI_ARGS="IP=10.1.0.7")
    assert json.loads((tmp_path / "stdin").read_text()) == conf
    assert "CNI_ARGS=IP=10.1.0.7" in (tmp_path / "env").read_text()


def test_its_error_document_is_passed_on(bed: Any, ipam: Any) -> None:
    document = '{"code": 11, "msg": "try again", "details": "busy"}'
    conf = ipam(f"cat > /dev/null; [ $CNI_COMMAND = ADD ] || exit 0; echo '{document}'; exit 1")
    code, error = bed.call("ADD", conf, bed.sandbox())
    assert (code, error["code"], error["msg"], error["details"]) == (1, 11, "try again", "busy")


@pytest.mark.parametrize(
    "body",
    [
        "echo rubbish",
        "echo rubbish; exit 1",
        "exit 3",
        "true",
        "exec 0<&-; exit 1",
        "kill -9 $$",
        "echo '[]'; exit 1",
    ],
)
def test_rubbish_is_one_error_and_changes_nothing(bed: Any, ipam: Any, body: str) -> None:
    conf = ipam(body)
    before = bed.state()
    code, error = bed.call("ADD", conf, bed.sandbox())
    assert (code, error["code"]) == (1, 104)
    assert "plugin other" in error["msg"]
    assert bed.state() == before


@pytest.mark.parametrize("answer", ["[]", '{"ips": "x"}', '{"ips": [{"address": "10.1.0.7"}]}'])
def test_an_answer_of_the_wrong_shape_is_refused(bed: Any, ipam: Any, answer: str) -> None:
    conf = ipam(f"cat > /dev/null; echo '{answer}'")
    code, error = bed.call("ADD", conf, bed.sandbox())
    assert (code, error["code"]) == (1, 6)


def test_an_answer_without_addresses_is_refused_and_released(bed: Any, ipam: Any) -> None:
    conf = ipam("cat > /dev/null; [ $CNI_COMMAND != ADD ] || echo '{}'")
    code, error = bed.call("ADD", conf, bed.sandbox())
    assert (code, error["msg"]) == (1, "IPAM plugin returned missing IP config")
    assert ipam.calls() == ["ADD", "DEL"]


@pytest.mark.parametrize("mark", ["\\357\\273\\277", ""])
def test_a_byte_order_mark_is_skipped(bed: Any, ipam: Any, mark: str) -> None:
    conf = ipam(f"cat > /dev/null; [ $CNI_COMMAND != ADD ] || printf '{mark}%s' '{json.dumps(ANSWER)}'")
    sandbox = bed.sandbox()
    bed.add(conf, sandbox)
    assert sandbox.addresses("eth0") == {"10.1.0.7/24"}


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("printf '\\377\\376{\\0}\\0'", 104),  # UTF-16
        ("printf '\\0{}'", 104),
        ("head -c 3000000 /dev/zero", 104),
        ("yes", 104),
        ('echo \'{"ips": [{"address": "10.1.0.7/24"}], "dns": {"domain": 5}}\'', 6),
        ('echo \'{"code": 11, "msg": "full"}\'; exit 1', 11),
    ],
)
def test_what_a_failed_add_reserved_is_released(bed: Any, ipam: Any, body: str, code: int) -> None:
    conf = ipam(f"cat > /dev/null; [ $CNI_COMMAND = ADD ] || exit 0; {body}")
    before = bed.state()
    exit_code, error = bed.call("ADD", conf, bed.sandbox())
    assert (exit_code, error["code"]) == (1, code)
    assert "internal" not in error["msg"]
    assert ipam.calls() == ["ADD", "DEL"]
    assert bed.state() == before


@pytest.mark.parametrize(
    "stated", ["99999999999999999999", "-1", "0", "true", '"x"', "1.5", "null", "4294967296"]
)
def test_a_code_that_a_runtime_cannot_read(bed: Any, ipam: Any, stated: str) -> None:
    conf = ipam(f'cat > /dev/null; echo \'{{"code": {stated}, "msg": "m", "details": "d"}}\'; exit 1')
    code, error = bed.call("ADD", conf, bed.sandbox())
    assert (code, error["code"], error["msg"]) == (1, 104, "m")
    assert error["details"].startswith("d; code is ")


def test_a_config_begins_with_a_byte_order_mark(bed: Any, ipam: Any, tmp_path: Path) -> None:
    conf = ipam(f"cat > {tmp_path}/stdin; [ $CNI_COMMAND != ADD ] || echo '{json.dumps(ANSWER)}'")
    variables = cni.on_path(cni.environment("ADD", netns=bed.sandbox().path, path=bed.bin))
    with bed.inside():
        cni.run_engine(b"\xef\xbb\xbf" + json.dumps(conf).encode(), variables, bed.program, "bridge").ok()
    assert json.loads((tmp_path / "stdin").read_bytes()) == conf


def test_no_path_is_needed_where_no_plugin_is_called(bed: Any, ipam: Any) -> None:
    conf = {key: value for key, value in ipam("true").items() if key != "ipam"}
    sandbox = bed.sandbox()
    for command in ("STATUS", "ADD", "DEL"):
        assert bed.call(command, conf, sandbox, CNI_PATH=None)[0] == 0
    code, error = bed.call("ADD", ipam("true"), sandbox, CNI_PATH=None)
    assert (code, error["code"], error["msg"]) == (1, 4, "required env variables [CNI_PATH] missing")


@pytest.mark.parametrize("name", ["missing", "../other", ".."])
def test_a_name_that_leads_nowhere(bed: Any, name: str) -> None:
    before = bed.state()
    code, error = bed.call("ADD", bed.conf(ipam={"type": name}), bed.sandbox())
    assert (code, error["code"]) == (1, 7)
    assert bed.state() == before


def test_del_reaches_the_ipam_whatever_else_fails(bed: Any, ipam: Any) -> None:
    conf = ipam("cat > /dev/null")
    broken = {**conf, "mtu": "x", "vlan": "y"}
    assert bed.call("DEL", broken, "") == (0, None)
    assert ipam.calls() == ["DEL"]


def test_a_release_that_fails_is_reported_beside_the_reason(bed: Any, ipam: Any) -> None:
    document = '{"code": 11, "msg": "no release"}'
    conf = ipam(f"cat > /dev/null; [ $CNI_COMMAND = ADD ] || {{ echo '{document}'; exit 1; }}; echo '{{}}'")
    code, error = bed.call("ADD", conf, bed.sandbox())
    assert (code, error["msg"]) == (1, "IPAM plugin returned missing IP config")
    assert "the addresses could not be released: no release" in error["details"]


def test_an_executable_that_cannot_run(bed: Any) -> None:
    (bed.bin / "other").write_text("")
    os.chmod(bed.bin / "other", 0o644)
    code, error = bed.call("ADD", bed.conf(ipam={"type": "other"}), bed.sandbox())
    assert (code, error["code"]) == (1, 104)
    assert "Permission denied" in error["msg"]


@pytest.mark.parametrize("name", ["missing", "../other"])
def test_status_says_that_the_ipam_plugin_is_not_there(bed: Any, name: str) -> None:
    """SPEC.md, STATUS: code 50 when an ADD cannot be carried out."""
    code, error = bed.call("STATUS", bed.conf(ipam={"type": name}))
    assert (code, error["code"]) == (1, 50)
    assert name in error["details"]
