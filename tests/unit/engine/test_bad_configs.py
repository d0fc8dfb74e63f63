"""What is refused before anything is looked at, config or environment: one document, exit code 1."""

import os
from collections.abc import Callable
from typing import Any

import pytest

from cni_plugins.engine.program import Program
from tests import bad_configs, cni
from tests.bad_configs import (
    BANDWIDTH,
    CONFIG,
    DECODING,
    ENVIRONMENT,
    FIREWALL,
    MACVLAN,
    PORTMAP,
    PTP,
    SBR,
    TUNING,
    Changes,
    Codes,
    all_changed,
    changed,
)

Refused = Callable[..., None]


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> Refused:
    directory = tmp_path_factory.mktemp("bin")
    program = directory / "bridge"
    program.write_text("")
    for name in ("host-local", "static"):
        os.link(program, directory / name)
    status = program.stat()

    def call(conf: Any, codes: Codes, **variables: str | None) -> None:
        if isinstance(conf, dict) and isinstance(conf.get("ipam"), dict):
            conf = conf | {"ipam": {"dataDir": str(directory / "leases"), **conf["ipam"]}}
        environment = cni.environment("ADD", path=directory, **variables)
        kind = conf["type"] if isinstance(conf, dict) else "bridge"
        answer = cni.run_engine(conf, environment, Program(status.st_dev, status.st_ino), kind)
        assert (answer.code, answer.err) == (1, b""), answer
        document = answer.document
        assert set(document) - {"details"} == {"cniVersion", "code", "msg"}, document
        assert document["msg"]
        allowed = (codes,) if isinstance(codes, int) else codes
        assert document["code"] in allowed if allowed else document["code"] not in (999, 8), document

    return call


def own(key: str, value: Any) -> dict[str, Any]:
    """A bridge's configuration, or for a key of the IPAM plugin that plugin's own, which it reads itself."""
    conf = changed(key, value)
    is_of_ipam = key.startswith("ipam.") and key != "ipam.type"
    return {**conf, "type": "host-local"} if is_of_ipam or "ips" in conf.get("runtimeConfig", ()) else conf


@pytest.mark.parametrize("stdin", bad_configs.UNREADABLE.values(), ids=bad_configs.UNREADABLE)
def test_stdin_that_cannot_be_read(refused: Refused, stdin: bytes) -> None:
    refused(stdin, DECODING)


@pytest.mark.parametrize(("key", "value"), bad_configs.WRONG_TYPES + bad_configs.MORE_WRONG_TYPES, ids=str)
def test_a_key_of_the_wrong_type(refused: Refused, key: str, value: Any) -> None:
    refused(own(key, value), CONFIG)


@pytest.mark.parametrize(
    ("key", "value", "codes"), bad_configs.BAD_VALUES + bad_configs.MORE_BAD_VALUES, ids=str
)
def test_a_value_that_cannot_work(refused: Refused, key: str, value: Any, codes: Codes) -> None:
    refused(own(key, value), codes)


@pytest.mark.parametrize(
    "variables", bad_configs.BAD_ENVIRONMENTS + bad_configs.MORE_BAD_ENVIRONMENTS, ids=str
)
def test_a_bad_environment(refused: Refused, variables: dict[str, str | None]) -> None:
    refused(bad_configs.GOOD, ENVIRONMENT, **variables)


@pytest.mark.parametrize(
    ("key", "value"),
    bad_configs.WRONG_TYPES_OF_MACVLAN + bad_configs.MORE_WRONG_TYPES_OF_MACVLAN,
    ids=str,
)
def test_a_key_of_macvlan_of_the_wrong_type(refused: Refused, key: str, value: Any) -> None:
    refused(changed(key, value, MACVLAN), CONFIG)


@pytest.mark.parametrize("changes", bad_configs.BAD_MACVLANS + bad_configs.MORE_BAD_MACVLANS, ids=str)
def test_a_macvlan_that_cannot_work(refused: Refused, changes: Changes) -> None:
    refused(all_changed(changes, MACVLAN), CONFIG)


@pytest.mark.parametrize(
    ("key", "value"), bad_configs.WRONG_TYPES_OF_PTP + bad_configs.MORE_WRONG_TYPES_OF_PTP, ids=str
)
def test_a_key_of_ptp_of_the_wrong_type(refused: Refused, key: str, value: Any) -> None:
    refused(changed(key, value, PTP), CONFIG)


@pytest.mark.parametrize("changes", bad_configs.BAD_PTPS + bad_configs.MORE_BAD_PTPS, ids=str)
def test_a_ptp_that_cannot_work(refused: Refused, changes: Changes) -> None:
    refused(all_changed(changes, PTP), CONFIG)


@pytest.mark.parametrize("changes", bad_configs.BAD_SBRS + bad_configs.MORE_BAD_SBRS, ids=str)
def test_an_sbr_that_cannot_work(refused: Refused, changes: Changes) -> None:
    refused(all_changed(changes, SBR), CONFIG)


@pytest.mark.parametrize(
    ("key", "value"), bad_configs.WRONG_TYPES_OF_TUNING + bad_configs.MORE_WRONG_TYPES_OF_TUNING, ids=str
)
def test_a_key_of_tuning_of_the_wrong_type(refused: Refused, key: str, value: Any) -> None:
    refused(changed(key, value, TUNING), CONFIG)


@pytest.mark.parametrize("changes", bad_configs.BAD_TUNINGS + bad_configs.MORE_BAD_TUNINGS, ids=str)
def test_a_tuning_that_cannot_work(refused: Refused, changes: Changes) -> None:
    refused(all_changed(changes, TUNING), CONFIG)


@pytest.mark.parametrize(
    ("key", "value"),
    bad_configs.WRONG_TYPES_OF_BANDWIDTH + bad_configs.MORE_WRONG_TYPES_OF_BANDWIDTH,
    ids=str,
)
def test_a_key_of_bandwidth_of_the_wrong_type(refused: Refused, key: str, value: Any) -> None:
    refused(changed(key, value, BANDWIDTH), CONFIG)


@pytest.mark.parametrize("changes", bad_configs.BAD_BANDWIDTHS + bad_configs.MORE_BAD_BANDWIDTHS, ids=str)
def test_a_bandwidth_that_cannot_work(refused: Refused, changes: Changes) -> None:
    refused(all_changed(changes, BANDWIDTH), CONFIG)


@pytest.mark.parametrize(
    ("key", "value"),
    bad_configs.WRONG_TYPES_OF_FIREWALL + bad_configs.MORE_WRONG_TYPES_OF_FIREWALL,
    ids=str,
)
def test_a_key_of_firewall_of_the_wrong_type(refused: Refused, key: str, value: Any) -> None:
    refused(changed(key, value, FIREWALL), CONFIG)


@pytest.mark.parametrize("changes", bad_configs.BAD_FIREWALLS + bad_configs.MORE_BAD_FIREWALLS, ids=str)
def test_a_firewall_that_cannot_work(refused: Refused, changes: Changes) -> None:
    refused(all_changed(changes, FIREWALL), CONFIG)


@pytest.mark.parametrize(
    ("key", "value"), bad_configs.WRONG_TYPES_OF_PORTMAP + bad_configs.MORE_WRONG_TYPES_OF_PORTMAP, ids=str
)
def test_a_key_of_portmap_of_the_wrong_type(refused: Refused, key: str, value: Any) -> None:
    refused(changed(key, value, PORTMAP), CONFIG)


@pytest.mark.parametrize("changes", bad_configs.BAD_PORTMAPS + bad_configs.MORE_BAD_PORTMAPS, ids=str)
def test_a_portmap_that_cannot_work(refused: Refused, changes: Changes) -> None:
    refused(all_changed(changes, PORTMAP), CONFIG)


@pytest.mark.parametrize("mac", bad_configs.BAD_MACS.values(), ids=bad_configs.BAD_MACS)
@pytest.mark.parametrize("source", bad_configs.MAC_SOURCES.values(), ids=bad_configs.MAC_SOURCES)
@pytest.mark.parametrize("good", [MACVLAN, PTP, TUNING], ids=["macvlan", "ptp", "tuning"])
def test_a_mac_that_no_link_can_have(
    refused: Refused, good: Changes, source: Callable[[str], Any], mac: str
) -> None:
    changes, variables = source(mac)
    refused(good | changes, CONFIG, **variables)
