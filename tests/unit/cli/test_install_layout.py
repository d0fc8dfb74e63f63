"""Where the parts of an install go."""

from pathlib import Path

import pytest

from cni_plugins.cli.install.layout import Places, batches
from cni_plugins.engine.registry import NAMES

REPOSITORY = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("prefix", "units"),
    [
        ("/usr/local", "/usr/local/lib/systemd/system"),
        ("/usr/", "/usr/lib/systemd/system"),
        ("/opt/suite", "/etc/systemd/system"),
    ],
)
def test_units_go_where_systemd_looks(prefix: str, units: str) -> None:
    assert Places("", prefix, "/opt/cni/bin").units == Path(units)


def test_destdir_comes_before_everything_and_is_not_recorded() -> None:
    places = Places("/img", "/usr/local", "/opt/cni/bin")
    assert all(str(path).startswith("/img/") for path in places.names())
    assert places.on_node(places.plugins / "bridge") == "/opt/cni/bin/bridge"


def test_units_name_the_cnictl_that_is_installed(tmp_path: Path) -> None:
    for name in (*NAMES, "cnictl"):
        (tmp_path / name).write_bytes(b"program")
    wanted = {batch.names[0]: batch.content for batch in batches(Places("", "/usr", "/b"), tmp_path)}
    for name, command in (("cni-plugins-agent", b"agent"), ("cni-overlay-sync", b"overlay sync")):
        service = wanted[f"{name}.service"]
        assert isinstance(service, bytes)
        assert b"\nExecStart=/usr/bin/cnictl %s\n" % command in service
        assert b"/usr/local" not in service


def test_no_option_of_the_service_gives_it_a_mount_namespace() -> None:
    text = (REPOSITORY / "packaging/systemd/cni-plugins-agent.service").read_text()
    options = {line.partition("=")[0] for line in text.splitlines() if not line.startswith("#")}
    named = {
        word.rstrip("=").strip()
        for line in text.splitlines()
        if line.startswith("#   ")
        for word in line[1:].split()
        if word.endswith("=")
    }
    assert {"PrivateTmp", "ProtectSystem", "ProtectKernelTunables", "LoadCredential"} <= named
    assert not options & named
