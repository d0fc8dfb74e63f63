"""Installing into a directory in use, and taking it back, on a real file system."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cni_plugins.cli.failure import Failed
from cni_plugins.cli.install.existing import require_safe
from cni_plugins.cli.install.layout import Places
from cni_plugins.engine.registry import NAMES
from tests.integration.cli.acts import files, install, uninstall
from tests.integration.cli.conftest import Suite

PLUGINS = "opt/cni/bin"


@pytest.fixture
def image(places: Places) -> Path:
    (Path(places.destdir) / PLUGINS).mkdir(parents=True)
    return Path(places.destdir)


def command(*words: str | Path) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "cni_plugins.cli.main", *words]
    return subprocess.run(line, capture_output=True, text=True, check=False)


def test_everything_is_put_where_it_belongs(places: Places, image: Path, suite: Suite) -> None:
    install(places, suite("a"))
    assert set(files(image)) == {
        *(f"{PLUGINS}/{name}" for name in NAMES),
        "usr/local/bin/cnictl",
        "usr/local/lib/systemd/system/cni-overlay-sync.service",
        "usr/local/lib/systemd/system/cni-overlay-sync.timer",
        "usr/local/lib/systemd/system/cni-plugins-agent.service",
        "usr/local/lib/systemd/system/cni-plugins-agent.socket",
        "etc/cni/net.d/10-containers.conflist.example",
        "usr/local/share/cni-plugins/installed.json",
    }
    plugins = [(image / PLUGINS / name).stat() for name in NAMES]
    assert len({status.st_ino for status in plugins}) == 1
    assert {status.st_mode & 0o777 for status in plugins} == {0o755}
    assert {path.stat().st_mode & 0o777 for path in (places.record, *image.rglob("*.service"))} == {0o644}


def test_a_second_install_finds_nothing_to_do(places: Places, image: Path, suite: Suite) -> None:
    source = suite("a")
    install(places, source)
    before = {path: path.stat() for path in image.rglob("*")}
    assert install(places, source) == []
    assert {path: path.stat().st_mtime_ns for path in image.rglob("*")} == {
        path: status.st_mtime_ns for path, status in before.items()
    }


def test_the_same_bytes_in_four_files_are_made_one_file(places: Places, image: Path, suite: Suite) -> None:
    source = suite("a")
    for name in NAMES:
        (image / PLUGINS / name).write_bytes((source / name).read_bytes())
    install(places, source)
    assert len({(image / PLUGINS / name).stat().st_ino for name in NAMES}) == 1
    assert not list(image.rglob("*.orig"))


def test_uninstall_leaves_what_was_there_before(places: Places, image: Path, suite: Suite) -> None:
    (image / PLUGINS / "macvlan").write_text("somebody's")
    (image / PLUGINS / "bridge").write_text("the reference")
    (image / PLUGINS / "host-local").symlink_to("/usr/lib/cni/host-local")
    (image / "var/lib/cni/networks/n").mkdir(parents=True)
    (image / "var/lib/cni/networks/n/10.1.0.2").write_text("a lease")
    before = files(image)
    install(places, suite("a"))
    kept = files(image)
    assert kept[f"{PLUGINS}/bridge.orig"] == "the reference"
    assert kept[f"{PLUGINS}/host-local.orig"] == "-> /usr/lib/cni/host-local"
    assert kept[f"{PLUGINS}/bridge"] == kept[f"{PLUGINS}/host-local"]
    uninstall(places)
    assert files(image) == before


def test_what_was_kept_survives_upgrades(places: Places, image: Path, suite: Suite) -> None:
    (image / PLUGINS / "bridge").write_text("the reference")
    before = files(image)
    for build in "abc":
        install(places, suite(build))
    assert len(list(image.rglob("*.orig*"))) == 1
    uninstall(places)
    assert files(image) == before


def test_an_earlier_build_of_ours_is_not_kept(places: Places, image: Path, suite: Suite) -> None:
    """`make install` leaves no record."""
    (image / PLUGINS / "bridge").write_bytes((suite("b") / "bridge").read_bytes())
    install(places, suite("a"))
    uninstall(places)
    assert files(image) == {}


def test_a_name_that_is_taken_is_not_used_to_keep(places: Places, image: Path, suite: Suite) -> None:
    (image / PLUGINS / "bridge").write_text("the reference")
    (image / PLUGINS / "bridge.orig").write_text("the administrator's")
    before = files(image)
    assert f"keep {image / PLUGINS / 'bridge'} as bridge.orig.1" in install(places, suite("a"))
    uninstall(places)
    assert files(image) == before


def test_a_file_changed_since_is_left_alone(places: Places, image: Path, suite: Suite) -> None:
    install(places, suite("a"))
    (image / PLUGINS / "static").unlink()
    (image / PLUGINS / "static").write_text("a newer reference")
    assert f"leave {image / PLUGINS / 'static'}, which is not the installed file" in uninstall(places)
    assert files(image) == {f"{PLUGINS}/static": "a newer reference"}


def test_a_package_that_replaced_ours_is_kept_in_its_turn(places: Places, image: Path, suite: Suite) -> None:
    (image / PLUGINS / "bridge").write_text("reference 1")
    install(places, suite("a"))
    (image / PLUGINS / "bridge").unlink()
    (image / PLUGINS / "bridge").write_text("reference 2")
    install(places, suite("b"))
    uninstall(places)
    assert files(image) == {f"{PLUGINS}/bridge": "reference 2", f"{PLUGINS}/bridge.orig": "reference 1"}


def test_uninstall_with_other_options_forgets_nothing(places: Places, image: Path, suite: Suite) -> None:
    install(places, suite("a"))
    uninstall(places._replace(bin_dir="/usr/lib/cni"))
    assert set(files(image)) == {
        *(f"{PLUGINS}/{name}" for name in NAMES),
        "usr/local/share/cni-plugins/installed.json",
    }
    uninstall(places)
    assert files(image) == {}


def test_dry_run_says_what_an_install_then_says_and_changes_nothing(
    places: Places, image: Path, suite: Suite
) -> None:
    (image / PLUGINS / "bridge").write_text("the reference")
    options = ("--destdir", places.destdir, "--from", str(suite("a")))
    before = {path: path.stat().st_mtime_ns for path in image.rglob("*")}
    would = command("install", *options, "--dry-run")
    assert {path: path.stat().st_mtime_ns for path in image.rglob("*")} == before
    done = command("install", *options)
    assert (would.returncode, done.returncode) == (0, 0), would.stderr + done.stderr
    assert would.stdout.replace("would ", "") == done.stdout
    assert done.stdout.startswith(f"keep {image / PLUGINS / 'bridge'} as bridge.orig\nput ")
    would = command("uninstall", "--destdir", places.destdir, "--dry-run")
    done = command("uninstall", "--destdir", places.destdir)
    assert would.stdout.replace("would ", "") == done.stdout
    assert files(image) == {f"{PLUGINS}/bridge": "the reference"}


def test_links_out_of_the_image_are_refused(places: Places, image: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (image / "etc").symlink_to(tmp_path / "outside")
    with pytest.raises(Failed, match=r"leads out of .*image, to .*outside"):
        require_safe(places)


def test_a_directory_that_everybody_may_write_to_is_refused(tmp_path: Path) -> None:
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    with pytest.raises(Failed, match=r"open can be changed by other users"):
        require_safe(Places("", str(tmp_path), str(open_to_all / "bin")))


def test_a_link_at_a_name_is_replaced_and_not_followed(places: Places, image: Path, suite: Suite) -> None:
    treasure = image / "treasure"
    treasure.write_text("gold")
    (image / PLUGINS / "bridge").symlink_to(treasure)
    (image / PLUGINS / ".cni-plugins-old").symlink_to(image)
    install(places, suite("a"))
    assert treasure.read_text() == "gold"
    assert not (image / PLUGINS / "bridge").is_symlink()


def test_a_directory_at_a_name_stops_it_before_anything_is_changed(
    places: Places, image: Path, suite: Suite
) -> None:
    (image / PLUGINS / "static").mkdir()
    with pytest.raises(Failed, match="static is not a regular file"):
        install(places, suite("a"))
    assert files(image) == {}


def test_programs_of_two_builds_are_not_mixed(places: Places, suite: Suite) -> None:
    source = suite("a")
    (source / "cnictl").write_bytes((suite("b") / "cnictl").read_bytes())
    with pytest.raises(Failed, match="not of the same build"):
        install(places, source)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--from", "/nowhere"), 1, "cnictl: /nowhere/bandwidth does not exist"),
        (("--bin-dir", "relative"), 2, "absolute path"),
        (("--prefix", "/usr/../etc"), 2, "absolute path"),
        (("--prefix", "/usr local%h"), 2, "absolute path"),
        (("--unknown",), 2, "--unknown"),
    ],
)
def test_what_can_be_foreseen_is_one_line_and_no_traceback(
    places: Places, words: tuple[str, ...], code: int, said: str
) -> None:
    done = command("install", "--destdir", places.destdir, *words)
    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not Path(places.destdir).exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="chown needs root")
def test_a_record_that_cannot_be_believed_stops_it(places: Places, image: Path, suite: Suite) -> None:
    source = suite("a")
    install(places, source)
    places.record.write_text('{"version": 1, "files": {"/etc/shadow": {"digests": []}}}')
    done = command("uninstall", "--destdir", places.destdir)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"cnictl: {places.record} is not a record")
    assert (image / PLUGINS / "bridge").exists()
