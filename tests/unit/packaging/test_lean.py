"""The lean modules of the frozen plugins agree with the genuine ones, or leave it to them."""

from __future__ import annotations

import copy
import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from cni_plugins.bridge.config import BridgeConfig
from cni_plugins.contract.model import ConfigModel
from cni_plugins.engine.registry import IPAM_PLUGINS, PLUGINS
from cni_plugins.errors import CniError
from cni_plugins.protocol.request import Request
from tests.bad_configs import BANDWIDTH, DUAL, FIREWALL, GOOD, MACVLAN, PTP, all_changed, static
from tests.unit.packaging.lean_world import PACKAGING, REPOSITORY, LeanWorld, plain

pytestmark = pytest.mark.timeout(300)
WORLD = LeanWorld()
REFUSED = "refused"
Recorded = list[tuple[str, str, Any]]
ROOMS = (
    "bandwidth",
    "bridge",
    "firewall",
    "ipam_cluster",
    "ipam_hostlocal",
    "ipam_static",
    "macvlan",
    "portmap",
    "ptp",
    "sbr",
    "tuning",
    "vxlan",
)
RECORDED = [
    *(f"tests/unit/{room}/test_config.py" for room in ROOMS),
    "tests/unit/contract/test_registry_config.py",
    "tests/unit/contract/test_model.py",
    "tests/unit/contract/test_config_fields.py",
    "tests/unit/engine/test_bad_configs.py",
]
RECORDING = [sys.executable, "-m", "pytest", "-q", "-p", "tests.unit.packaging.recorder", "-p", "no:xdist"]


def both(module: str, name: str, value: Any) -> tuple[Any, Any]:
    """What the genuine model makes of a value, and what the lean one does."""
    genuine = getattr(importlib.import_module(module), name)
    try:
        expected = plain(genuine.model_validate(value))
    except ValidationError:
        expected = REFUSED
    lean = WORLD.get(module, name)
    unsure = WORLD.get("cni_plugins.errors", "Unsure")
    with WORLD.entered():
        try:
            found = plain(lean.model_validate(value))
        except unsure:
            found = REFUSED
    return expected, found


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """What the config tables of all unit tests contain, by the model that reads it."""
    record = tmp_path_factory.mktemp("record") / "lines"
    assert all((REPOSITORY / name).exists() for name in RECORDED)
    environment = {**os.environ, "CNI_RECORD": str(record)}
    subprocess.run(
        [*RECORDING, *RECORDED], cwd=REPOSITORY, env=environment, check=True, stdout=subprocess.DEVNULL
    )
    lines = map(json.loads, record.read_text().splitlines())
    return [(module, name, value) for module, name, value in lines if module.startswith("cni_plugins.")]


def test_what_the_tables_of_all_unit_tests_contain_is_read_alike(
    recorded: list[tuple[str, str, Any]],
) -> None:
    different = []
    refused = 0
    for module, name, value in recorded:
        expected, found = both(module, name, value)
        refused += expected == REFUSED
        if expected != found:
            different.append((module, name, value, expected, found))
    assert not different
    assert refused > 100
    assert len(recorded) - refused > 100


def test_the_genuine_models_are_the_same_after_the_lean_ones(recorded: Recorded) -> None:
    """Other modules, of which models have types, stay as they are in the frozen program."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.packaging.after_lean"],
        cwd=REPOSITORY,
        input="\n".join(map(json.dumps, recorded)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = done.stdout.splitlines()
    assert len(found) == len(recorded)
    for (module, name, value), line in zip(recorded, found, strict=True):
        genuine = getattr(importlib.import_module(module), name)
        try:
            expected = repr(plain(genuine.model_validate(value)))
        except ValidationError:
            expected = REFUSED
        assert line == expected, (module, name, value)


EXAMPLES: list[dict[str, Any]] = [
    {**GOOD, "mtu": 1400, "vlan": 5, "vlanTrunk": [{"id": 3}, {"minID": 5, "maxID": 9}]},
    {**GOOD, "ipMasq": {"exclude": ["10.0.0.0/8"]}, "runtimeConfig": {"mac": "02:00:00:00:00:01"}},
    {**GOOD, "dns": {"nameservers": ["10.0.0.1"], "domain": "x"}},
    {**MACVLAN, "mode": "bridge", "linkInContainer": False, "args": {"cni": {"mac": "02:00:00:00:00:01"}}},
    all_changed(DUAL, MACVLAN),
    {**PTP, "ipMasq": True, "mtu": "auto", "hostInterface": "h0"},
    {
        **BANDWIDTH,
        "capabilities": {"bandwidth": True},
        "runtimeConfig": {"bandwidth": {"egressRate": 800, "egressBurst": 4294967295}},
    },
    {**GOOD, "ipam": static({"address": "10.0.0.2/24", "gateway": "10.0.0.1"}, routes=[{"dst": "::/0"}])},
    {**GOOD, "ipam": static(), "runtimeConfig": {"ips": ["10.0.0.2/24"]}, "args": {"cni": {"ips": ["::1"]}}},
    {**FIREWALL, "backend": "iptables", "iptablesAdminChainName": "SITE", "ingressPolicy": "isolated"},
    {
        "type": "vxlan",
        "name": "n",
        "network": "10.8.0.0/16",
        "underlay": {"interface": "eth0"},
        "backend": {
            "type": "static",
            "peers": [
                {"vtep": "192.0.2.1", "subnet": "10.8.1.0/24"},
                {"vtep": "192.0.2.2", "subnet": ["10.8.2.0/24"]},
            ],
        },
    },
    {
        "type": "vxlan",
        "name": "n",
        "mode": "l2",
        "subnet": ["10.8.0.0/16", "fd00:8::/64"],
        "gateway": ["10.8.0.1"],
        "backend": {"type": "multicast", "group": "239.1.1.1", "ttl": 2},
    },
]
NUMBERS = [0, 1, -1, 4094, 1400, 70000, 1.0, 1.5, 10**20]
TEXTS = ["", "x", "auto", "bridge", "l2", "eth0", "\0", "é", "x" * 300, "02:00:00:00:00:02"]
ADDRESSES = ["10.0.0.1", "10.0.0.0/8", "fd00::/8", "10.86.0.5", "::1/64", "0.0.0.0/0", "999.1.1.1"]
SCALARS = st.sampled_from([None, True, False, *NUMBERS, *TEXTS, *ADDRESSES])
INNER_KEYS = st.sampled_from(["v4", "mac", "dst", "id", "cni", "ips", "exclude", "subnet"])
MORE_KEYS = st.sampled_from(
    ["isGateway", "mtuAuto", "ipMasqOptions", "mac", "vni", "rangeStart", "self", "port"]
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(INNER_KEYS, inner, max_size=3),
    max_leaves=5,
)


def paths(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*at, key)
        yield from paths(item, (*at, key))


@st.composite
def confs(draw: st.DrawFn) -> dict[str, Any]:
    """An example with a few values changed, keys renamed, or keys added."""
    conf = copy.deepcopy(draw(st.sampled_from(EXAMPLES)))
    for _ in range(draw(st.integers(0, 3))):
        *parents, last = draw(st.sampled_from(list(paths(conf)) or [("name",)]))
        place: Any = conf
        for key in parents:
            place = place[key]
        match draw(st.sampled_from(["change", "remove", "spell", "add"])):
            case "change":
                place[last] = draw(VALUES)
            case "remove":
                del place[last]
            case "spell" if isinstance(last, str):
                place[last.upper()] = place.pop(last)
            case _ if isinstance(place, dict):
                place[draw(MORE_KEYS)] = draw(VALUES)
    return conf


def outcome(parse: Any, request: Any, cni_error: Any, unsure: Any) -> Any:
    try:
        return plain(parse(request))
    except unsure:
        return REFUSED
    except cni_error as err:
        return type(err).__name__, err.msg, err.details


def in_both(name: str, conf: dict[str, Any]) -> tuple[Any, Any]:
    """What a plugin's whole `parse` returns or raises, in the genuine suite and in the lean one."""

    class Never(BaseException):
        pass

    genuine = outcome(parser(name), Request("ADD", "n", conf=conf), CniError, Never)
    request = WORLD.get("cni_plugins.protocol.request", "Request")
    error, unsure = (WORLD.get("cni_plugins.errors", kind) for kind in ("CniError", "Unsure"))
    with WORLD.entered():
        return genuine, outcome(parser(name), request("ADD", "n", conf=conf), error, unsure)


def parser(name: str) -> Any:
    """The function by which a plugin reads its config, of the world where one is."""
    registry = importlib.import_module("cni_plugins.engine.registry")
    if name in registry.PLUGINS:
        return registry.plugin(name).parse
    room = registry.ipam(name).reserve.__module__.rpartition(".")[0]
    return importlib.import_module(f"{room}.config").parse


@given(conf=confs())
@settings(max_examples=400, deadline=None)
def test_whatever_a_config_contains_is_read_alike_or_left_to_the_genuine_one(conf: dict[str, Any]) -> None:
    for name in ("bandwidth", "bridge", "macvlan", "ptp", "vxlan", "host-local", "static"):
        genuine, lean = in_both(name, conf)
        if genuine[0] == "InvalidNetworkConfig" and lean == REFUSED:
            continue
        assert lean == genuine, (name, conf)


@pytest.mark.parametrize("conf", EXAMPLES, ids=lambda conf: conf["type"])
def test_good_configs_need_no_genuine_pydantic(conf: dict[str, Any]) -> None:
    genuine, lean = in_both(conf["type"], conf)
    assert lean == genuine
    assert lean[0] not in (REFUSED, "InvalidNetworkConfig")


def models(base: type[BaseModel] = ConfigModel) -> Iterator[type[BaseModel]]:
    for model in base.__subclasses__():
        yield from (model, *models(model))


def test_every_model_is_of_what_the_lean_reader_knows() -> None:
    for load in (*PLUGINS.values(), *IPAM_PLUGINS.values()):
        load()
    for name in ("multicast", "static", "stored"):
        importlib.import_module(f"cni_plugins.vxlan.backends.{name}")
    found = {model for model in models() if model.__module__.startswith("cni_plugins.")}
    assert BridgeConfig in found
    for model in found:
        lean = WORLD.get(model.__module__, model.__name__)
        with WORLD.entered():
            checks = lean._prepared()
        expected = [(name, field.alias) for name, field in model.model_fields.items()]
        assert sorted(row[:2] for row in checks) == sorted(expected), model


def test_a_copy_has_the_changes_and_the_rest() -> None:
    config = WORLD.get("cni_plugins.bridge.config", "BridgeConfig")
    with WORLD.entered():
        whole = config.model_validate({"bridge": "b0"})
        changed = whole.model_copy(update={"mac": "02:00:00:00:00:01"})
        assert (changed.mac, changed.bridge, whole.mac) == ("02:00:00:00:00:01", "b0", "")
        assert changed != whole
        assert whole == config.model_validate({"bridge": "b0"})
        assert changed.model_fields_set == {"bridge", "mac"}


def test_rows_are_the_tuples_that_namedtuple_makes() -> None:
    lean = WORLD.get("cni_plugins.protocol.request", "Request")
    for row in (lean("ADD", "n", ifname="eth0"), Request("ADD", "n", ifname="eth0")):
        assert row[:2] == ("ADD", "n")
        assert (row.command, row.ifname, row.stdin) == ("ADD", "eth0", b"")
        assert row._replace(network="m").network == "m"
        with pytest.raises(TypeError):
            type(row)("ADD")
        with pytest.raises(ValueError, match="nothing"):
            row._replace(nothing=1)
    assert lean._fields == Request._fields == lean.__match_args__
    assert repr(lean("ADD", "n")) == repr(Request("ADD", "n"))
    assert lean._field_defaults.keys() == Request._field_defaults.keys()


PATTERNS = ["[a-z]+", r"(?P<name>\d+)-\1", "[\ud800-\udfff]", r"^\s*x$"]


@pytest.fixture
def lean_re(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """lean_re with a table of some patterns, and the genuine one behind it."""
    module = tmp_path / "patterns_here.py"
    lines = [f"p{n} = re.compile({text!r}, re.M)" for n, text in enumerate(PATTERNS)]
    module.write_text("\n".join(["import re", *lines, "b = re.compile(b'[\\x80-\\xff]')"]))
    command = [
        sys.executable,
        PACKAGING / "rehearse.py",
        tmp_path / "code",
        tmp_path / "patterns",
        "patterns_here",
    ]
    subprocess.run(command, check=True, env={"PYTHONPATH": str(tmp_path)})
    import marshal

    class Archive:
        asked = 0

        def patterns(self) -> Any:
            return marshal.loads((tmp_path / "patterns").read_bytes())

        def genuine(self, _name: str) -> Any:
            Archive.asked += 1
            return re

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Archive()])
    namespace: dict[str, Any] = {"__name__": "re"}
    exec((PACKAGING / "lean" / "lean_re.py").read_text(), namespace)
    namespace["Archive"] = Archive
    return namespace


def test_patterns_compiled_beforehand_match_as_the_genuine_ones(lean_re: Any) -> None:
    for text in PATTERNS:
        found, expected = lean_re["compile"](text, re.MULTILINE), re.compile(text, re.MULTILINE)
        assert (found.pattern, found.flags, found.groupindex) == (
            expected.pattern,
            expected.flags,
            expected.groupindex,
        )
        for sample in ("abc", "12-12", "\ud800", "a\n  x\nb", ""):
            one, other = found.search(sample), expected.search(sample)
            assert (one and one.span()) == (other and other.span())
    assert lean_re["compile"](b"[\x80-\xff]").search(b"a\x80")
    assert lean_re["Archive"].asked == 0
    assert lean_re["compile"]("other").match("other")
    assert lean_re["compile"]("[a-z]+", re.IGNORECASE).match("ABC")
    assert lean_re["__getattr__"]("escape")("a.b") == r"a\.b"
    assert lean_re["Archive"].asked == 3
