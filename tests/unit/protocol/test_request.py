"""What a runtime may say, and what each fault is called."""

import json
from typing import Any

import pytest

from cni_plugins.errors import CniError, IoFailed
from cni_plugins.protocol.request import STDIN_LIMIT, parse, reported_version

CONF = {"cniVersion": "1.1.0", "name": "net1", "type": "bridge"}
ADD = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "c1",
    "CNI_NETNS": "/run/netns/x",
    "CNI_IFNAME": "eth0",
    "CNI_PATH": "/opt/cni/bin:/usr/lib/cni",
}


def asked(conf: Any = CONF, **environment: str | None) -> Any:
    variables = {key: value for key, value in {**ADD, **environment}.items() if value is not None}
    text = conf if isinstance(conf, bytes) else json.dumps(conf).encode()
    return parse(variables, lambda limit: text[:limit])


def test_a_request_has_everything_in_place() -> None:
    request = asked()
    assert (request.command, request.network, request.container_id, request.ifname) == (
        "ADD",
        "net1",
        "c1",
        "eth0",
    )
    assert request.path == ("/opt/cni/bin", "/usr/lib/cni")


BAD_ENVIRONMENT = [
    ({"CNI_COMMAND": "FOO"}, 4, "unknown CNI_COMMAND: FOO"),
    ({"CNI_CONTAINERID": None}, 4, "required env variables [CNI_CONTAINERID] missing"),
    (
        {"CNI_CONTAINERID": "", "CNI_NETNS": None, "CNI_PATH": None},
        4,
        "required env variables [CNI_CONTAINERID,CNI_NETNS] missing",
    ),
    ({"CNI_CONTAINERID": "../x"}, 4, "invalid characters in containerID"),
    ({"CNI_CONTAINERID": "a/b"}, 4, "invalid characters in containerID"),
    ({"CNI_CONTAINERID": "a\n"}, 4, "invalid characters in containerID"),
    ({"CNI_CONTAINERID": "x" * 256}, 4, "containerID is longer than 255 characters"),
    ({"CNI_IFNAME": "sixteen-bytes-xx"}, 4, "interface name is too long, at most 15 bytes"),
    ({"CNI_IFNAME": ".."}, 4, "interface name is . or .."),
    ({"CNI_IFNAME": "eth%d"}, 4, "interface name contains %, which the kernel replaces by a number"),
    ({"CNI_IFNAME": "default"}, 4, "interface name is reserved for settings under /proc/sys/net"),
    ({"CNI_NETNS": "/run/netns/\udcff"}, 4, "CNI_NETNS is not UTF-8"),
    ({"CNI_IFNAME": "a/b"}, 4, "interface name contains / or : or whitespace characters"),
    ({"CNI_IFNAME": "a b"}, 4, "interface name contains / or : or whitespace characters"),
    ({"CNI_IFNAME": "a\x01"}, 4, "interface name contains unprintable characters"),
]


@pytest.mark.parametrize(("environment", "code", "message"), BAD_ENVIRONMENT)
def test_a_bad_environment(environment: dict[str, str | None], code: int, message: str) -> None:
    with pytest.raises(CniError) as caught:
        asked(**environment)
    assert (caught.value.code, caught.value.msg) == (code, message)


BAD_CONFIGS = [
    (b"", 6, "error unmarshall network config"),
    (b"not json", 6, "error unmarshall network config"),
    (b"[]", 6, "not an object"),
    (b"\xff\xfe", 6, "error unmarshall network config"),
    (b'{"name": NaN}', 6, "NaN is not JSON"),
    (b"[" * 100_000, 6, "error unmarshall network config"),
    (b" " * (STDIN_LIMIT + 1), 6, "too large"),
    ({"cniVersion": "1.1.0"}, 7, "missing network name"),
    ({**CONF, "name": "../net"}, 7, "invalid characters found in network name"),
    ({**CONF, "name": "net\n"}, 7, "invalid characters found in network name"),
    (b'{"name": 1e999}', 6, "1e999 is too large for a number"),
    (b'{"name": "\\ud800"}', 7, "invalid characters found in network name"),
    ({**CONF, "name": "n" * 256}, 7, "longer than 255"),
    ({**CONF, "name": 5}, 7, "name is not a string"),
    ({**CONF, "cniVersion": "9.0.0"}, 1, "incompatible CNI versions"),
    ({**CONF, "cniVersion": "1.0"}, 1, "incompatible CNI versions"),
    ({**CONF, "cniVersion": 1}, 7, "cniVersion is not a string"),
    ({**CONF, "prevResult": "x"}, 6, "could not parse the result"),
]


@pytest.mark.parametrize(("conf", "code", "message"), BAD_CONFIGS)
def test_a_bad_config(conf: Any, code: int, message: str) -> None:
    with pytest.raises(CniError) as caught:
        asked(conf)
    assert caught.value.code == code
    assert message in caught.value.msg


def test_the_environment_is_checked_before_stdin_is_read() -> None:
    def fail(_limit: int) -> bytes:
        raise AssertionError("stdin was read")

    with pytest.raises(CniError, match="unknown CNI_COMMAND"):
        parse({**ADD, "CNI_COMMAND": "X"}, fail)


def test_stdin_that_fails_is_an_io_error() -> None:
    def fail(_limit: int) -> bytes:
        raise OSError(9, "Bad file descriptor")

    with pytest.raises(IoFailed, match="error reading from stdin"):
        parse(ADD, fail)


def test_keys_match_in_any_case_and_the_last_one_counts() -> None:
    assert asked({"CNIVersion": "0.4.0", "NAME": "n"}).cni_version == "0.4.0"
    assert asked({"NAME": "other", "name": "n"}).network == "n"


def test_a_missing_version_is_the_oldest() -> None:
    assert asked({"name": "n"}).cni_version == "0.1.0"


@pytest.mark.parametrize(
    ("command", "version"), [("CHECK", "0.3.1"), ("GC", "1.0.0"), ("STATUS", "0.4.0"), ("STATUS", "")]
)
def test_a_command_that_the_config_is_too_old_for(command: str, version: str) -> None:
    with pytest.raises(CniError) as caught:
        asked({**CONF, "cniVersion": version}, CNI_COMMAND=command)
    assert (caught.value.code, caught.value.msg) == (1, f"config version does not allow {command}")


def test_del_does_without_netns_and_with_a_torn_prev_result() -> None:
    request = asked({**CONF, "prevResult": {"ips": "torn"}}, CNI_COMMAND="DEL", CNI_NETNS=None)
    assert (request.netns, request.prev_result) == ("", None)


@pytest.mark.parametrize(
    "key", ["cni.dev/valid-attachments", "cni.dev/attachments", "CNI.dev/Valid-Attachments"]
)
def test_gc_reads_the_valid_attachments(key: str) -> None:
    request = asked({**CONF, key: [{"containerID": "a", "ifname": "eth0"}]}, CNI_COMMAND="GC")
    assert request.valid_attachments == (("a", "eth0"),)
    assert request.lists_attachments
    assert len(request.valid_tags) == 1


def test_gc_takes_a_null_list_for_an_empty_one_and_knows_an_absent_one() -> None:
    null = asked({**CONF, "cni.dev/valid-attachments": None}, CNI_COMMAND="GC")
    assert (null.valid_attachments, null.lists_attachments) == ((), True)
    assert not asked(CONF, CNI_COMMAND="GC").lists_attachments


@pytest.mark.parametrize(
    "listed", ["x", {}, [1], [{"containerID": "a"}], [{"containerID": 1, "ifname": "e"}]]
)
def test_gc_refuses_a_malformed_list(listed: Any) -> None:
    with pytest.raises(CniError) as caught:
        asked({**CONF, "cni.dev/valid-attachments": listed}, CNI_COMMAND="GC")
    assert caught.value.code == 7


@pytest.mark.parametrize(
    ("stdin", "version"),
    [
        (b'{"cniVersion": "0.4.0"}', "0.4.0"),
        (b"{}", "0.1.0"),
        (b"rubbish", "1.1.0"),
        (b'{"cniVersion": "7"}', "1.1.0"),
        (b'{"cniVersion": 7}', "1.1.0"),
    ],
)
def test_an_error_document_bears_the_version_of_the_config(stdin: bytes, version: str) -> None:
    assert reported_version(stdin) == version
