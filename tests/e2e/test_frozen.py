"""What the executable does before Python starts and after it ends: what it loads from where, what it leaves.

It unpacks nothing, but where memory files are refused; the tests of that have them refused.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cni_plugins.engine import registry
from tests import cni
from tests.e2e.lab.seccomp import refuse_memory_files
from tests.e2e.lab.tools import REPOSITORY, missing
from tests.servers.certificates import Certificates
from tests.servers.clusters import cluster_of

pytestmark = pytest.mark.needs("unshare", "mount")

NAMES = ("bridge", "host-local", "static", "loopback")
LIMIT = 24_000_000
PLACES = ("/run", "/var/lib")  # in the order in which they are tried
SHARED = ("/tmp", "/var/tmp", "/dev/shm")  # not by root of the host
# The program is copied to /mnt: /tmp, where a test's files usually are, is among what gets mounted over.
STAGE = """
mount -t tmpfs tmpfs /mnt
cp "$PROGRAM" /mnt/bridge
cd /
"""
NOEXEC = STAGE + "".join(
    f"mount -t tmpfs -o noexec,mode={1777 if place in SHARED else 755} tmpfs {place}\n"
    for place in (*PLACES, *SHARED)
)
# With a text that only Python understands, and an extension module of it.
ODD = ' {"cniVersion": "1.0.0"}'
VERSION = f"echo '{ODD}' | env -i CNI_COMMAND=VERSION \"$@\" /mnt/bridge\n"


# What Python needs of a node: the loader and the parts of the C library, which are one since glibc 2.34.
GLIBC = (
    "ld-linux-x86-64.so.2",
    *(f"lib{part}" for part in ("c.so.6", "m.so.6", "dl.so.2", "rt.so.1", "pthread.so.0")),
)
ALONE = """
mount -t proc proc "$ROOT/proc"
mount -t sysfs sysfs "$ROOT/sys"
mount --rbind /dev "$ROOT/dev"
ip link set lo up
chroot "$ROOT" "$@"
"""


@pytest.fixture(scope="module")
def bare_root(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A node that has our executables, the C library, and nothing else: no zlib, no shell."""
    root = tmp_path_factory.mktemp("bare")
    for directory in ("bin", "dev", "etc", "lib64", "proc", "run", "sys", "tmp", "var/lib"):
        (root / directory).mkdir(parents=True)
    for name in GLIBC:
        for place in ("/lib64", "/lib/x86_64-linux-gnu", "/usr/lib64"):
            if Path(place, name).exists():
                (root / place[1:]).mkdir(parents=True, exist_ok=True)
                shutil.copy(Path(place, name).resolve(), root / place[1:] / name)
    for name in (*registry.NAMES, "cnictl"):
        shutil.copy(dist / name, root / "bin" / name)
    return root


def alone(root: Path, *command: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    isolated = ["unshare", "-mn", "--propagation", "private", "sh", "-ec", ALONE, "sh", *command]
    variables = {"ROOT": str(root), "PATH": os.environ["PATH"], "LD_LIBRARY_PATH": "", **environment}
    return subprocess.run(isolated, env=variables, input=stdin, capture_output=True, text=True, timeout=60)


PREV_RESULT = {
    "interfaces": [{"name": "eth0", "sandbox": "/proc/1/ns/net"}],
    "ips": [{"address": "10.1.0.2/24", "interface": 0}],
}
BARE_KEYS: dict[str, dict[str, Any]] = {
    "macvlan": {"master": "lo"},
    "firewall": {"prevResult": PREV_RESULT},
    "portmap": {
        "runtimeConfig": {"portMappings": [{"hostPort": 80, "containerPort": 80, "protocol": "udp"}]},
        "prevResult": {"cniVersion": "1.0.0", "ips": [{"address": "10.1.0.2/24"}]},
    },
    "sbr": {"prevResult": PREV_RESULT},
    "tuning": {
        "sysctl": {"net.core.somaxconn": "500"},
        "mtu": 1400,
        "prevResult": {"cniVersion": "1.0.0", "interfaces": [{"name": "eth0"}]},
    },
    "vxlan": {
        "network": "10.9.0.0/16",
        "mtu": 1400,
        "backend": {"type": "static", "peers": [{"node": "h", "vtep": "192.0.2.1", "subnet": "10.9.1.0/24"}]},
    },
}


@pytest.mark.parametrize("library_path", ["", "/nowhere:relative:"], ids=["plain", "rubbish"])
@pytest.mark.parametrize("name", registry.NAMES)
def test_a_node_needs_the_c_library_alone(bare_root: Path, name: str, library_path: str) -> None:
    """Each command of each plugin takes its road to the end, whatever the kernel says there."""
    ipam = {"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64"}]]}
    if name == "static":
        ipam = {"type": "static", "addresses": [{"address": "10.1.0.2/24"}]}
    conf = {"cniVersion": "1.1.0", "name": "n", "type": name, "ipam": ipam, **BARE_KEYS.get(name, {})}
    text = "\N{ZERO WIDTH NO-BREAK SPACE}" + json.dumps(conf)
    for command in ("VERSION", "STATUS", "ADD", "CHECK", "DEL", "GC"):
        attachment = {"CNI_CONTAINERID": "c1", "CNI_IFNAME": "eth0", "CNI_NETNS": "/proc/1/ns/net"}
        if command == "GC":
            attachment = {}
            text = json.dumps({**conf, "cni.dev/valid-attachments": []})
        done = alone(
            bare_root,
            f"/bin/{name}",
            stdin=text,
            CNI_COMMAND=command,
            CNI_PATH="/bin",
            LD_LIBRARY_PATH=library_path,
            DBUS_SYSTEM_BUS_ADDRESS="unix:path=/nowhere",  # firewall tries it with its library
            **attachment,
        )
        assert "Traceback" not in done.stderr, done.stderr
        answer = json.loads(done.stdout or "{}")
        assert answer.get("code") != 999, answer
        if command in ("VERSION", "DEL", "GC"):
            assert done.returncode == 0, (command, answer, done.stderr)


def test_the_operators_program_needs_the_c_library_alone(bare_root: Path) -> None:
    for words in (["--help"], ["--version"], ["overlay", "sync", "--help"], ["overlay", "status"]):
        done = alone(bare_root, "/bin/cnictl", *words)
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode == 0, done.stderr


@pytest.fixture
def program(dist: Path, tmp_path: Path) -> Path:
    """A copy of our own, so that no other test's processes are taken for ours."""
    copy = tmp_path / "bridge"
    shutil.copy(dist / "bridge", copy)
    return copy


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory to unpack into, given as TMPDIR; it is tried first. Without memory files one is needed."""
    directory = tmp_path / "place"
    directory.mkdir()
    return directory


def run(program: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program], env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20
    )


def unpack(program: Path, place: Path) -> subprocess.CompletedProcess[str]:
    """A call that needs a directory."""
    environment = {"CNI_COMMAND": "VERSION", "TMPDIR": str(place)}
    return subprocess.run(
        [program],
        env=environment,
        input=ODD,
        capture_output=True,
        text=True,
        timeout=20,
        preexec_fn=refuse_memory_files,
    )


def on_a_host(script: str, program: Path, *user: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script with mounts of its own, without memory files; `-r`: as root of a user namespace."""
    command = ["unshare", "-m", *user, "--propagation", "private", "sh", "-ec", script]
    environment = {"PROGRAM": str(program), "PATH": os.environ["PATH"]}
    return subprocess.run(
        command,
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
        preexec_fn=refuse_memory_files,
    )


def is_version(answer: str) -> bool:
    return "1.1.0" in json.loads(answer)["supportedVersions"]


def unpacked(place: Path) -> list[Path]:
    return [*place.glob("cni-plugins*/*"), *place.glob("_MEI*")]


def processes(program: Path) -> list[int]:
    """The processes that run exactly this file."""
    found = []
    for exe in Path("/proc").glob("[0-9]*/exe"):
        try:
            if exe.readlink() == program:
                found.append(int(exe.parent.name))
        except OSError:
            continue
    return found


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return condition()


@pytest.fixture
def waiting(program: Path, place: Path) -> Iterator[subprocess.Popen[bytes]]:
    """An ADD that has unpacked and waits for its configuration."""
    environment = cni.environment("ADD", netns="/proc/self/ns/net", TMPDIR=str(place))
    process = subprocess.Popen(
        [program],
        env={**environment, "CNI_PLUGINS_LINGER": "0"},
        preexec_fn=refuse_memory_files,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    assert wait_for(lambda: unpacked(place), 10)
    time.sleep(0.3)
    assert process.poll() is None
    yield process
    process.kill()
    process.communicate()


def test_all_names_are_one_small_file(dist: Path) -> None:
    files = [(dist / name).stat() for name in NAMES]
    assert len({file.st_ino for file in files}) == 1
    assert files[0].st_size <= LIMIT
    assert all(file.st_mode & 0o777 == 0o755 for file in files)


@pytest.mark.parametrize("name", NAMES)
def test_version_needs_nothing_but_the_command(dist: Path, name: str) -> None:
    answer = run(dist / name, CNI_COMMAND="VERSION")
    assert (answer.returncode, answer.stderr) == (0, "")
    assert is_version(answer.stdout)


@pytest.mark.parametrize(
    ("stdin", "answered"),
    [
        (b'{"cniVersion":"0.4.0"}', "0.4.0"),
        (b'\xef\xbb\xbf{"cniVersion": "0.4.0"}', "0.4.0"),
        ('{"cniVersion": "0.4.0"}'.encode("utf-16"), "1.1.0"),
        ('{"cniVersion": "0.4.0"}'.encode("utf-32"), "1.1.0"),
    ],
)
def test_version_guesses_no_encoding(dist: Path, stdin: bytes, answered: str) -> None:
    """The program contains no codecs but those it needs."""
    environment = {"CNI_COMMAND": "VERSION"}
    answer = subprocess.run([dist / "bridge"], input=stdin, env=environment, capture_output=True, timeout=20)
    assert (answer.returncode, answer.stderr) == (0, b"")
    assert json.loads(answer.stdout)["cniVersion"] == answered


def test_no_command_prints_usage(dist: Path) -> None:
    answer = run(dist / "bridge")
    assert (answer.returncode, answer.stdout) == (0, "")
    assert answer.stderr


@pytest.mark.parametrize("closed", ["<&-", "2>&-", "<&- 2>&-"])
def test_a_closed_descriptor_does_no_harm(program: Path, closed: str) -> None:
    command = ["sh", "-c", f'exec "$0" {closed}', program]
    answer = subprocess.run(
        command,
        env={"CNI_COMMAND": "VERSION"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert (answer.returncode, answer.stderr) == (0, "")
    assert is_version(answer.stdout)


def test_with_every_descriptor_closed_the_exit_code_remains(program: Path) -> None:
    command = ["sh", "-c", 'exec "$0" <&- >&- 2>&-', program]
    done = subprocess.run(command, env={"CNI_COMMAND": "VERSION"}, capture_output=True, timeout=20)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_the_exit_code_is_the_programs(program: Path) -> None:
    answer = run(program, CNI_COMMAND="NONSENSE")
    assert answer.returncode == 1
    assert json.loads(answer.stdout)["code"]


@pytest.mark.parametrize("good", PLACES)
def test_it_finds_the_one_directory_that_allows_execution(program: Path, good: str) -> None:
    script = f"{NOEXEC}mount -o remount,exec {good}\n{VERSION}ls -A {good}/cni-plugins >&2\n"
    answer = on_a_host(script, program)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert is_version(answer.stdout)


@pytest.mark.parametrize("good", SHARED)
def test_root_of_the_host_unpacks_nowhere_that_others_can_write(program: Path, good: str) -> None:
    script = f"{NOEXEC}mount -o remount,exec {good}\nset -- TMPDIR={good}\n{VERSION}"
    answer = on_a_host(f"{script}", program)
    document = json.loads(answer.stdout)
    assert (answer.returncode, document["code"]) == (1, 5)
    assert "TMPDIR: writable by others" in document["details"]
    in_userns = on_a_host(
        f"{NOEXEC}mount -o remount,exec {good}\n{VERSION}ls -A {good}/ >&2\n", program, "-r"
    )
    assert is_version(in_userns.stdout)
    assert in_userns.stderr.startswith("cni-plugins")


@pytest.mark.parametrize("owner", ["-o 12345 -m 755", "-m 777", "-o 65534 -m 755"])
@pytest.mark.parametrize("above", ["/mnt/user", "/mnt/user/root"])
def test_a_directory_below_a_users_is_not_used(program: Path, owner: str, above: str) -> None:
    script = f"{NOEXEC}install -d {owner} /mnt/user\nmkdir -p {above}/place\n"
    answer = on_a_host(f"{script}set -- TMPDIR={above}/place\n{VERSION}", program)
    document = json.loads(answer.stdout)
    assert (answer.returncode, document["code"]) == (1, 5)
    assert "TMPDIR: writable by others" in document["details"]


def test_a_link_to_a_users_directory_is_not_used(program: Path) -> None:
    script = f"{NOEXEC}install -d -o 12345 /mnt/user\nmkdir /mnt/user/place\nln -s user/place /mnt/link\n"
    answer = on_a_host(f"{script}set -- TMPDIR=/mnt/link\n{VERSION}", program)
    assert "TMPDIR: writable by others" in json.loads(answer.stdout)["details"]


def test_tmpdir_comes_first_if_it_fits(program: Path) -> None:
    script = f"{NOEXEC}mkdir /mnt/fits\nset -- TMPDIR=/mnt/fits\n{VERSION}ls -A /mnt/fits >&2\n"
    answer = on_a_host(script, program)
    assert answer.returncode == 0
    assert answer.stderr == "cni-plugins\n"
    assert is_version(answer.stdout)


def test_nowhere_to_unpack_is_one_error_document(program: Path) -> None:
    answer = on_a_host(f"{NOEXEC}set -- TMPDIR=/nowhere\n{VERSION}", program)
    assert (answer.returncode, answer.stderr) == (1, "")
    document = json.loads(answer.stdout)
    assert document["cniVersion"] == "1.1.0"
    assert document["code"] == 5
    assert document["msg"]
    assert all(f"{place}: mounted noexec" in document["details"] for place in PLACES)


def test_a_read_only_root_with_one_tmpfs_is_enough(program: Path) -> None:
    script = f"{STAGE}mount -t tmpfs -o mode=755 tmpfs /run\nmount -t tmpfs -o ro tmpfs /var/lib\n"
    script += f"mount --bind / /\nmount -o remount,bind,ro /\n! touch /read-only 2> /mnt/refused\n{VERSION}"
    answer = on_a_host(script, program)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert is_version(answer.stdout)


def test_a_full_directory_is_passed_over(program: Path) -> None:
    script = f"{STAGE}mount -t tmpfs -o size=1m,mode=755 tmpfs /run\n"
    script += f"mount -t tmpfs -o mode=755 tmpfs /var/lib\n{VERSION}"
    script += "test ! -e /run/cni-plugins\n"
    answer = on_a_host(script, program)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert is_version(answer.stdout)


@pytest.mark.parametrize("squat", ["mkdir -m 777", "install -d -o 12345 -m 700", "ln -s /run", "touch"])
def test_a_directory_somebody_else_made_is_not_used(program: Path, squat: str) -> None:
    script = f"{NOEXEC}mount -o remount,exec /var/lib\n{squat} /var/lib/cni-plugins\n{VERSION}"
    answer = on_a_host(script + "ls -A /var/lib/cni-plugins/ 2> /mnt/refused >&2 || true\n", program)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert is_version(answer.stdout)


def test_a_directory_others_may_swap_is_not_used(program: Path) -> None:
    answer = on_a_host(f"{NOEXEC}mount -o remount,exec /run\nchmod 777 /run\n{VERSION}", program)
    assert answer.returncode == 1
    assert "/run: writable by others" in json.loads(answer.stdout)["details"]


def test_nothing_is_unpacked_where_memory_files_are_allowed(program: Path, place: Path) -> None:
    if not program.read_bytes().endswith(b"CNIFROZE"):
        pytest.skip("frozen with a Python whose library cannot be linked into the program")
    environment = cni.environment("ADD", TMPDIR=str(place), CNI_PLUGINS_LINGER="0")
    answer = subprocess.run(
        [program], env=environment, input="nonsense", capture_output=True, text=True, timeout=20
    )
    assert (answer.returncode, json.loads(answer.stdout)["code"]) == (1, 6)
    assert list(place.iterdir()) == []


def test_it_cleans_up_after_itself(program: Path, place: Path) -> None:
    assert is_version(unpack(program, place).stdout)
    assert (place / "cni-plugins").is_dir()
    assert unpacked(place) == []


def test_sigkill_leaves_no_process_and_the_next_run_no_directory(
    program: Path, place: Path, waiting: subprocess.Popen[bytes]
) -> None:
    assert waiting.pid in processes(program)
    waiting.kill()
    assert wait_for(lambda: not processes(program), 1)
    assert is_version(unpack(program, place).stdout)
    assert unpacked(place) == []


def test_sigterm_ends_the_program_and_not_only_a_parent(
    program: Path, place: Path, waiting: subprocess.Popen[bytes]
) -> None:
    waiting.terminate()
    assert waiting.wait(5) in {-signal.SIGTERM, 1}
    assert wait_for(lambda: not processes(program), 1)
    unpack(program, place)
    assert unpacked(place) == []


def test_the_sweep_spares_the_living(program: Path, place: Path, waiting: subprocess.Popen[bytes]) -> None:
    before = unpacked(place)
    unpack(program, place)
    assert unpacked(place) == before
    waiting.communicate(b"nonsense", timeout=10)
    assert waiting.returncode == 1
    assert unpacked(place) == []


def test_the_sweep_follows_no_link(program: Path, place: Path, tmp_path: Path) -> None:
    treasure = tmp_path / "treasure"
    treasure.mkdir()
    (treasure / "file").touch()
    leftover = place / "cni-plugins" / "_MEI00000001abcdef"
    leftover.mkdir(parents=True)
    leftover.parent.chmod(0o700)
    (leftover / "link").symlink_to(treasure)
    (leftover.parent / "_MEI00000002abcdef").symlink_to(treasure)
    unpack(program, place)
    assert not leftover.exists()
    assert (treasure / "file").exists()


def test_twenty_at_once_leave_nothing(program: Path, place: Path) -> None:
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: unpack(program, place), range(20)))
    assert [answer.returncode for answer in answers] == [0] * 20
    assert all(is_version(answer.stdout) for answer in answers)
    assert unpacked(place) == []


def test_a_delegate_sees_the_environment_of_the_call(program: Path, place: Path, tmp_path: Path) -> None:
    """LD_LIBRARY_PATH above all: the IPAM plugin of somebody else must not load our libraries."""
    spy = tmp_path / "spy"
    spy.write_text(f"#!/bin/sh\nenv > {tmp_path}/seen\n")
    spy.chmod(0o755)
    inherited = {"TMPDIR": str(place), "LD_LIBRARY_PATH": "/of/the/caller", "CNI_PLUGINS_LINGER": "0"}
    environment = cni.environment("DEL", netns="", path=tmp_path, **inherited)
    conf = {
        "cniVersion": "1.0.0",
        "name": "frozen",
        "type": "bridge",
        "bridge": "cniefrz0",
        "ipam": {"type": "spy"},
    }
    subprocess.run(
        ["unshare", "-n", program],
        env=environment,
        input=json.dumps(conf).encode(),
        capture_output=True,
        timeout=20,
    )
    seen = dict(line.split("=", 1) for line in (tmp_path / "seen").read_text().splitlines())
    assert seen["TMPDIR"] == str(place)
    assert seen["LD_LIBRARY_PATH"] == "/of/the/caller"
    assert set(seen) - set(environment) <= {"PWD", "_", "SHLVL", "OLDPWD"}


def test_install_replaces_whole_files_only(dist: Path, tmp_path: Path) -> None:
    target = tmp_path / "opt" / "cni" / "bin"
    command = [sys.executable, REPOSITORY / "packaging" / "install.py", dist, target]
    inodes = []
    for _ in range(2):
        subprocess.run(command, check=True, capture_output=True)
        assert {path.name for path in target.iterdir()} >= set(NAMES)
        assert not [path for path in target.iterdir() if path.name.startswith(".")]
        inodes.append({(target / name).stat().st_ino for name in NAMES})
    assert len(inodes[0]) == len(inodes[1]) == 1
    assert inodes[0] != inodes[1]
    assert is_version(run(target / "bridge", CNI_COMMAND="VERSION").stdout)


@pytest.mark.parametrize("kind", ["etcd", "consul", "zookeeper"])
def test_the_operators_program_reaches_each_kind_of_store(dist: Path, tmp_path: Path, kind: str) -> None:
    if missing((f"server:{kind}",)):
        pytest.skip(f"not installed here: {kind} (.ci/install installs it)")
    certificates = Certificates(tmp_path / "certificates")
    cluster = cluster_of(kind, tmp_path / "servers", tls=certificates)
    files = {"certFile": str(certificates.client_cert), "keyFile": str(certificates.client_key)}
    section = {"type": kind, "endpoints": cluster.endpoints, "caFile": str(certificates.ca), **files}
    try:
        cluster.start()
        prefix = "cni-plugins" if kind == "consul" else "/cni-plugins"
        cluster.put(f"{prefix}/v1/blue/found", b"1")
        done = subprocess.run(
            [str(dist / "cnictl"), "store-check", "v1/blue"],
            input=json.dumps(section),
            capture_output=True,
            text=True,
            env={"PATH": "/usr/bin:/bin"},
        )
    finally:
        cluster.close()
    assert (done.returncode, done.stdout, done.stderr) == (0, "found\n", "")


def test_the_plugins_program_has_no_client_of_a_store(dist: Path) -> None:
    program = (dist / "bridge").read_bytes()
    for module in (b"etcd3gw", b"kazoo", b"urllib3", b"cni_plugins.registries"):
        assert module not in program
    assert b"etcd3gw" in (dist / "cnictl").read_bytes()
