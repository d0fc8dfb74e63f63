"""What packaging/needs.sh says and installs, on machines whose programs are stubs."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "packaging" / "needs.sh"
TOOLS = (
    "cc",
    "unshare",
    "nsenter",
    "ip",
    "bridge",
    "tc",
    "conntrack",
    "nft",
    "ping",
    "iptables-restore",
    "mount",
    "objdump",
)
APT_GET = r"""
echo "$*" >>log
case $1 in
update) : >lists ;;
install)
    [ -e lists ] || { echo "E: Unable to locate package"; exit 100; }
    for package; do
        case $package in nftables) name=nft ;; iputils-ping) name=ping ;; *) name=$package ;; esac
        echo "#!/bin/sh" >"$BIN/$name"
        /bin/chmod 755 "$BIN/$name"
    done
    ;;
esac
"""
INSTALL = "apt-get install -y --no-install-recommends"


@dataclass(frozen=True)
class Machine:
    """A machine with all tools and a Python of the distribution, until a test takes some away."""

    home: Path

    @property
    def bin(self) -> Path:
        return self.home / "bin"

    def has(self, name: str, text: str = "") -> None:
        """Install a program, by its shell script."""
        (self.bin / name).write_text(f"#!/bin/sh\n{text}\n")
        (self.bin / name).chmod(0o755)

    def lacks(self, *names: str) -> None:
        for name in names:
            (self.bin / name).unlink()

    def has_python(self, *said: str, name: str = "python3") -> None:
        self.has(name, f"echo {' '.join(said)}")

    def needs(self, *targets: str, python: str = "python3") -> tuple[int, list[str]]:
        """Run the script; return its exit code and its lines."""
        done = subprocess.run(
            ["/bin/sh", self.home / "packaging" / "needs.sh", *targets],
            env={"PATH": str(self.bin), "BIN": str(self.bin), "PYTHON": python},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return done.returncode, done.stdout.splitlines()

    def installed(self) -> list[str]:
        """Return the calls of apt-get."""
        log = self.home / "log"
        return log.read_text().splitlines() if log.exists() else []


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    machine = Machine(tmp_path)
    for directory in ("bin", "packaging"):
        (tmp_path / directory).mkdir()
    shutil.copy(SCRIPT, tmp_path / "packaging")
    for name in TOOLS:
        machine.has(name)
    machine.has("id", "echo 1000")
    machine.has_python("3.11", "/usr")
    return machine


def test_nothing_is_said_where_all_is_there(machine: Machine) -> None:
    assert machine.needs("test", "demo", "demo-overlay", "install", "check") == (0, [])


@pytest.mark.parametrize(
    ("manager", "command"),
    [
        ("apt-get", f"{INSTALL} nftables iputils-ping"),
        ("dnf", "dnf install -y nftables iputils"),
        ("apk", "apk add nftables iputils"),
    ],
)
def test_a_user_gets_the_one_command_to_run(machine: Machine, manager: str, command: str) -> None:
    machine.lacks("nft", "ping")
    machine.has(manager, APT_GET)
    said = ["make test: not installed: nft, ping. As root, run:", command]
    assert machine.needs("test") == (1, said)
    assert machine.installed() == []


@pytest.mark.parametrize("manager", ["dnf", "apk"])
def test_root_of_another_distribution_gets_it_too(machine: Machine, manager: str) -> None:
    machine.lacks("nft")
    machine.has("id", "echo 0")
    machine.has(manager, APT_GET)
    code, said = machine.needs("test")
    assert (code, len(said)) == (1, 2)
    assert machine.installed() == []


def test_without_a_package_manager_what_is_missing_is_named(machine: Machine) -> None:
    machine.lacks("nft", "cc")
    assert machine.needs("test") == (1, ["make test: not installed: cc, headers, nft"])


def test_root_of_debian_installs_it_once(machine: Machine) -> None:
    machine.lacks("nft", "ping")
    machine.has("id", "echo 0")
    machine.has("apt-get", APT_GET)
    install = "install -y --no-install-recommends nftables iputils-ping"
    said = [f"make test: not installed: nft, ping. Running apt-get {install}"]
    assert machine.needs("test") == (0, said)
    assert machine.installed() == [install, "update", install]  # there were no lists of packages
    assert machine.needs("test") == (0, [])


def test_what_cannot_be_installed_is_shown(machine: Machine) -> None:
    machine.lacks("nft")
    machine.has("id", "echo 0")
    machine.has("apt-get", "echo no network; exit 100")
    code, said = machine.needs("test")
    assert code == 1
    assert said[1:] == ["no network", f"make test: failed: {INSTALL} nftables"]


def test_a_package_that_does_not_bring_it_is_not_installed_for_ever(machine: Machine) -> None:
    machine.lacks("nft")
    machine.has("id", "echo 0")
    machine.has("apt-get", "exit 0")
    code, said = machine.needs("test")
    assert code == 1
    assert said[-2:] == ["make test: not installed: nft. As root, run:", f"{INSTALL} nftables"]


def test_a_target_needs_no_more_than_its_own(machine: Machine) -> None:
    machine.lacks(*TOOLS)
    assert machine.needs("check") == (0, [])
    assert machine.needs("test-unit") == (0, [])
    assert machine.needs("freeze") == (1, ["make freeze: not installed: objdump, cc, headers"])


def test_packages_of_python_are_those_of_its_version(machine: Machine) -> None:
    machine.has("apt-get", APT_GET)
    machine.has_python("3.12", "/usr", "venv", "libpython")
    assert machine.needs("demo")[1][1] == f"{INSTALL} python3.12-venv libpython3.12"
    assert machine.needs("check")[1][1] == f"{INSTALL} python3.12-venv"


def test_without_python_its_version_is_left_to_the_distribution(machine: Machine) -> None:
    machine.has("apt-get", APT_GET)
    machine.lacks("python3")
    said = ["make demo: not installed: python3, venv, libpython. As root, run:"]
    assert machine.needs("demo") == (1, [*said, f"{INSTALL} python3 python3-venv libpython3-dev"])


def test_a_python_of_its_own_is_not_completed_by_packages(machine: Machine) -> None:
    machine.has("id", "echo 0")
    machine.has("apt-get", APT_GET)
    machine.has_python("3.12", "/opt/python", "libpython", name="python3.12")
    assert machine.needs("check", python="python3.12") == (0, [])
    code, said = machine.needs("demo", python="python3.12")
    assert code == 1
    assert said[0].startswith("make demo: python3.12 has no libpython, and packages complete only")
    assert machine.installed() == []


def test_an_old_python_is_refused(machine: Machine) -> None:
    machine.has("apt-get", APT_GET)
    machine.has_python("3.9", "/usr", "old", "venv")
    said = ["make check: Python 3.11.2 or newer is needed, python3 is 3.9: choose another with PYTHON=…"]
    assert machine.needs("check") == (1, said)


def test_a_chosen_python_that_is_not_there_is_named(machine: Machine) -> None:
    machine.has("apt-get", APT_GET)
    assert machine.needs("check", python="python9") == (1, ["make check: python9 does not run"])


def test_a_user_without_user_namespaces_is_told(machine: Machine) -> None:
    machine.has("unshare", "exit 1")
    assert machine.needs("check") == (0, [])
    said = ["make demo: this user may not create user namespaces; run it as root"]
    assert machine.needs("demo") == (1, said)


def test_a_real_python_answers(machine: Machine) -> None:
    assert machine.needs("check", python=sys.executable) == (0, [])
    assert os.access(SCRIPT, os.X_OK)
