"""Installs that are killed, that run out of disk, or that run beside each other."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cni_plugins.cli.install.layout import Places
from cni_plugins.engine.registry import NAMES
from tests.integration.cli.acts import files, install, uninstall
from tests.integration.cli.conftest import Suite

CHANGES = {"os.rename", "os.link", "os.symlink", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "open"}
FOREIGN = {"opt/cni/bin/bridge": "the reference", "opt/cni/bin/calico": "somebody's"}
WHOLE = {"plugins @build-id:" + build * 16 for build in "ab"}


def killed_at(moment: int, act: Callable[[], object]) -> bool:
    """Do it in a process that is killed before its so-many-th change; say whether it came to that."""
    pid = os.fork()
    if pid == 0:
        left = moment

        def hook(event: str, _arguments: tuple[object, ...]) -> None:
            nonlocal left
            left -= event in CHANGES
            if left < 0 and event in CHANGES:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        try:
            act()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


def prepared(root: Path) -> Places:
    for name, text in FOREIGN.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return Places(str(root), "/usr/local", "/opt/cni/bin")


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("upgrade", [False, True])
def test_killed_at_any_moment_every_name_is_whole_and_nothing_is_lost(
    tmp_path: Path, suite: Suite, upgrade: bool
) -> None:
    old, new = suite("a"), suite("b")
    moment = 0
    while True:
        root = tmp_path / f"image-{moment}"
        places = prepared(root)
        if upgrade:
            install(places, old)
        if not killed_at(moment, lambda places=places: install(places, new)):  # type: ignore[misc]
            break
        there = files(root)
        assert there["opt/cni/bin/calico"] == "somebody's"
        assert there["opt/cni/bin/bridge"] in WHOLE | (set() if upgrade else {"the reference"})
        assert "the reference" in there.values()
        others = [name for name in NAMES if name != "bridge"]
        assert all(there[path] in WHOLE for name in others if (path := f"opt/cni/bin/{name}") in there)
        if moment % 2:
            install(places, new)
            assert len({(root / "opt/cni/bin" / name).stat().st_ino for name in NAMES}) == 1
        uninstall(places)
        there = {name: text for name, text in files(root).items() if "/.cni-plugins-" not in f"/{name}"}
        assert {name: there[name] for name in FOREIGN} == FOREIGN
        assert upgrade or moment % 2 == 0 or there == FOREIGN
        moment += 1
    assert moment > 30


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_an_uninstall_killed_at_any_moment_can_be_finished(tmp_path: Path, suite: Suite) -> None:
    source = suite("a")
    moment = 0
    while True:
        root = tmp_path / f"image-{moment}"
        places = prepared(root)
        install(places, source)
        killed = killed_at(moment, lambda places=places: uninstall(places))  # type: ignore[misc]
        uninstall(places)
        assert files(root) == FOREIGN
        if not killed:
            break
        moment += 1
    assert moment > 8


def test_a_full_disk_leaves_every_name_as_it_was(tmp_path: Path) -> None:
    script = f"""
        set -e
        mount -t tmpfs -o size=1m tmpfs /mnt
        mkdir -p /mnt/opt/cni/bin {tmp_path}/dist
        echo reference > /mnt/opt/cni/bin/bridge
        for name in {" ".join(NAMES)} cnictl; do head -c 700000 /dev/zero > {tmp_path}/dist/$name; done
        {sys.executable} -m cni_plugins.cli.main install --destdir /mnt --from {tmp_path}/dist && exit 9
        find /mnt -type f
        mount -o remount,ro /mnt
        {sys.executable} -m cni_plugins.cli.main install --destdir /mnt --from {tmp_path}/dist && exit 9
        exit 0
    """
    done = subprocess.run(
        ["unshare", "-m", "--propagation", "private", "sh", "-c", script],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["/mnt/opt/cni/bin/bridge"]
    full, read_only = done.stderr.splitlines()
    assert full == "cnictl: /mnt/usr/local/bin: No space left on device"
    assert read_only.startswith("cnictl: /mnt/")
    assert read_only.endswith(": Read-only file system")


def test_many_installs_and_uninstalls_at_once_end_whole(tmp_path: Path, suite: Suite) -> None:
    root = tmp_path / "image"
    prepared(root)
    sources = [suite(build) for build in "ab"]
    crowd = []
    for number in range(12):
        words = ["uninstall"] if number % 4 == 3 else ["install", "--from", str(sources[number % 2])]
        line = [sys.executable, "-m", "cni_plugins.cli.main", *words, "--destdir", str(root)]
        crowd.append(subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True))
    said = [process.communicate()[1] for process in crowd]
    assert [process.returncode for process in crowd] == [0] * 12, said
    places = prepared_places(root)
    install(places, sources[0])
    uninstall(places)
    assert files(root) == FOREIGN


def prepared_places(root: Path) -> Places:
    return Places(str(root), "/usr/local", "/opt/cni/bin")


def test_a_mix_with_plain_installs_ends_whole(tmp_path: Path, suite: Suite) -> None:
    """`make install` and an image build do not wait for each other."""
    script = Path(__file__).parents[3] / "packaging" / "install.py"
    target = tmp_path / "bin"
    sources = [suite(build) for build in "ab"]
    crowd = [subprocess.Popen([sys.executable, script, sources[n % 2], target]) for n in range(8)]
    assert [process.wait() for process in crowd] == [0] * 8
    assert {path.name for path in target.iterdir()} == set(NAMES)
    assert all((target / name).read_text() in WHOLE for name in NAMES)
