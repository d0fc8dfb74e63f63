"""
Run shell scripts under the distribution's own kernel, in qemu, all of them in one boot.

All the guest has lies in its initramfs: busybox, the programs named, with the libraries they load, kernel
modules and files; no disk, no network, no share of the machine's file system. Its second serial port is the
way back.
"""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.lab.tools import kernel_image, program

INIT = r"""#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C
mount -t devtmpfs dev /dev; mount -t proc proc /proc; mount -t sysfs sys /sys
mount -t tmpfs tmpfs /run; mount -t tmpfs tmpfs /tmp; mkdir -p /run/netns /run/lock /root /var/lib/cni
ln -s /proc/self/fd /dev/fd
while read -r module; do insmod "$module" || echo "insmod $module failed"; done </modules
ip link set lo up
stty -F /dev/ttyS1 raw
sh /service </dev/null >/service.log 2>&1 &
for part in /parts/*; do
    ln -sfn $part/conf /conf
    PART=${part##*/} sh $part/script </dev/null >/dev/ttyS1 2>&1
    sh /clean >/dev/console 2>&1
done
echo 'END' >/dev/ttyS1
reboot -f
"""
CLEAN = r"""
for netns in $(ls /run/netns); do /usr/bin/ip netns del $netns; done
for link in $(ls /sys/class/net); do [ $link = lo ] || /usr/bin/ip link del $link; done
/usr/bin/nft flush ruleset
echo 0 >/proc/sys/net/ipv4/ip_forward
echo 0 >/proc/sys/net/ipv6/conf/all/forwarding
rm -rf /var/lib/cni/* /tmp/*
"""
SHELL = r"""
ip() { /usr/bin/ip "$@"; } # busybox would take its own before any on PATH
cni() { # COMMAND CONTAINER CONF-FILE [NETNS]
    CNI_COMMAND=$1 CNI_CONTAINERID=$2 CNI_NETNS=${4-/run/netns/$2} CNI_IFNAME=eth0 CNI_PATH=/opt/cni/bin \
        /opt/cni/bin/$PLUGIN <"$3"
}
without_agent() { CNI_PLUGINS_AGENT= "$@"; }
wait_for_agent() { until [ -S /run/cni-plugins/agent.sock ]; do sleep 0.2; done; }
step() { # NAME COMMAND…
    name=$1; shift
    "$@" >/tmp/out 2>/tmp/err; code=$?
    echo "=== $PART/$name $code"; tee "/tmp/out-$name" </tmp/out; echo; echo "=== stderr"; cat /tmp/err
}
with_key() { # KEY FILE-OF-VALUE CONF-FILE
    printf '{"%s":' "$1"; cat "$2"; printf ','; sed '1s/{//' "$3"
}
leases() { find /var/lib/cni/networks -type f ! -name lock ! -name 'last_reserved_ip.*' ! -path '*/.*'; }
ping_from() { ip netns exec "$1" ping -c1 -W2 "$2"; }
address_of() { ip -n "$1" -4 -o addr show eth0 | sed 's/.* inet \([0-9.]*\).*/\1/'; }
"""
KVM_IN_CPUINFO = re.compile(r"\s(vmx|svm)\s")
HEADER = "070701" + "%08X" * 13


@dataclass(frozen=True)
class Part:
    """
    What one test module has done in the guest, which is cleaned afterwards.

    `files`: by the name in the guest, a file of the machine, executable if that is, or a text. What lies in
    `conf/` is the part's own.
    """

    name: str
    script: str
    programs: Sequence[str]
    modules: Sequence[str]
    files: Mapping[str, Path | str]


@dataclass(frozen=True)
class Guest:
    """A machine for all parts."""

    parts: Sequence[Part]
    service: str
    """A shell script that runs beside all of them."""

    def run(self, work: Path, timeout: float) -> dict[str, Steps]:
        """Boot, run one part after the other, and return what the steps of each wrote."""
        steps = parse(self._output(work, timeout))
        return {
            part.name: {
                name.removeprefix(f"{part.name}/"): step
                for name, step in steps.items()
                if name.startswith(f"{part.name}/")
            }
            for part in self.parts
        }

    def _output(self, work: Path, timeout: float) -> str:
        kernel = kernel_image()
        assert kernel is not None
        (work / "initramfs").write_bytes(b"".join(_archive(self._entries(kernel))))
        output, console = work / "output", work / "console"
        done = subprocess.run(
            _qemu(kernel, work / "initramfs", console, output),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        text = output.read_text(errors="replace").replace("\r\n", "\n") if output.exists() else ""
        if not text.endswith("END\n"):
            told = console.read_text(errors="replace")[-3000:] if console.exists() else ""
            raise AssertionError(f"the guest did not finish: {done.stderr}\n{told}\n{text}")
        return text.removesuffix("END\n")

    def _entries(self, kernel: Path) -> Iterator[Entry]:
        modules = _with_dependencies(
            dict.fromkeys(module for part in self.parts for module in part.modules),
            kernel.name.removeprefix("vmlinuz-"),
        )
        yield Entry("init", INIT.encode(), executable=True)
        yield Entry("clean", CLEAN.encode())
        yield Entry("service", self.service.encode())
        yield Entry("modules", "".join(f"{path}\n" for path in modules).encode())
        for directory in ("dev", "proc", "sys", "tmp", "run"):
            yield Entry(directory, None)
        paths = {path: Path(path) for path in modules} | {"bin/busybox": Path(program("busybox") or "")}
        names = dict.fromkeys(("ip", "nft", *(name for part in self.parts for name in part.programs)))
        executables = [Path(program(name) or name) for name in names]
        paths |= {f"usr/bin/{path.name}": path for path in executables}
        given: dict[str, Path] = {}
        for part in self.parts:
            yield Entry(f"parts/{part.name}/script", (SHELL + part.script).encode())
            for name, content in part.files.items():
                where = f"parts/{part.name}/{name}" if name.startswith("conf/") else name
                if isinstance(content, str):
                    yield Entry(where, content.encode())
                else:
                    given[where] = content
        for library in _libraries([*executables, *given.values()]):
            paths[str(library)] = library
        yield from _with_hard_links(paths | given)


@dataclass(frozen=True)
class Step:
    """What one `step` of a script said."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        assert self.code == 0, self
        return json.loads(self.out)


Steps = Mapping[str, Step]


def parse(text: str) -> Steps:
    """`=== NAME CODE`, the output, `=== stderr`, what went there; then the next step."""
    parts = [part.partition("\n") for part in text.split("=== ")[1:]]
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return {head.split()[0]: Step(int(head.split()[1]), out, err) for (head, _, out), (_, _, err) in pairs}


@dataclass(frozen=True)
class Entry:
    """A file of the archive, or, without data, a directory."""

    name: str
    data: bytes | None
    executable: bool = False
    inode: int = 0
    """The same on every name of one file; the first of them has the data."""
    names: int = 1


def _qemu(kernel: Path, initramfs: Path, console: Path, output: Path) -> list[str]:
    # A KVM device on a CPU without virtualisation flags is a paravirtual one: no stock kernel boots on it.
    has_flags = KVM_IN_CPUINFO.search(Path("/proc/cpuinfo").read_text())
    kvm = has_flags and os.access("/dev/kvm", os.R_OK | os.W_OK)
    # Emulation is quicker without AVX, which the C library would use for every string.
    engine, cpu = ("kvm", "host") if kvm else ("tcg,thread=multi", "qemu64")
    return [
        program("qemu-system-x86_64") or "",
        *("-accel", engine, "-cpu", cpu),
        *("-machine", "q35,graphics=off", "-m", "1024", "-smp", "2", "-nodefaults", "-no-user-config"),
        *("-display", "none", "-no-reboot", "-net", "none", "-device", "virtio-rng-pci"),
        *("-kernel", str(kernel), "-initrd", str(initramfs)),
        *("-append", "console=ttyS0 quiet panic=-1 mitigations=off random.trust_cpu=on audit=0"),
        *("-serial", f"file:{console}", "-serial", f"file:{output}"),
    ]


def _with_dependencies(modules: Iterable[str], release: str) -> list[str]:
    """Paths of the modules in an order in which they can be inserted."""
    order: dict[str, None] = {}
    for module in modules:
        listed = subprocess.run(
            [program("modprobe") or "", "-S", release, "--show-depends", module],
            capture_output=True,
            text=True,
            check=True,
        )
        insertions = (line.split() for line in listed.stdout.splitlines())
        order |= dict.fromkeys(words[1] for words in insertions if words[0] == "insmod")
    return list(order)


def _libraries(executables: Iterable[Path]) -> set[Path]:
    """
    The shared libraries of the executables, by their names as the loader looks them up.

    A frozen program carries its own but for those of the C library, some of which only what it carries loads.
    """
    found: set[Path] = set()
    for executable in executables:
        listed = subprocess.run(["ldd", str(executable)], capture_output=True, text=True, check=False).stdout
        found |= {Path(path) for path in re.findall(r"(/\S+) \(0x", listed)}
    for directory in {path.parent for path in found if path.name.startswith("libc.so")}:
        for name in ("libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "libutil.so.1", "libz.so.1"):
            found |= {path for path in [directory / name] if path.exists()}
    return found


def _with_hard_links(paths: Mapping[str, Path]) -> Iterator[Entry]:
    inodes: dict[tuple[int, int], int] = {}
    times: dict[tuple[int, int], int] = {}
    identities = {name: (path.stat().st_dev, path.stat().st_ino) for name, path in paths.items()}
    for identity in identities.values():
        times[identity] = times.get(identity, 0) + 1
    for name, path in paths.items():
        identity = identities[name]
        data = b"" if identity in inodes else path.read_bytes()
        inode = inodes.setdefault(identity, 1_000_000 + len(inodes))
        yield Entry(name, data, bool(path.stat().st_mode & stat.S_IXUSR), inode, times[identity])


def _archive(entries: Iterable[Entry]) -> Iterator[bytes]:
    """A cpio archive, as the kernel's buffer-format.rst has it, with the directories its files need."""
    made: set[str] = set()
    number = 1
    for entry in [*entries, Entry("TRAILER!!!", b"")]:
        name = entry.name.lstrip("/")
        parents = [str(parent) for parent in reversed(Path(name).parents[:-1])]
        directories = [parent for parent in parents if parent not in made]
        made |= set(directories)
        for directory in directories:
            yield _member(Entry(directory, None), number)
            number += 1
        if name not in made:
            yield _member(Entry(name, entry.data, entry.executable, entry.inode, entry.names), number)
            made |= {name} if entry.data is None else set()
            number += 1


def _member(entry: Entry, number: int) -> bytes:
    kind = stat.S_IFDIR if entry.data is None else stat.S_IFREG
    mode = kind | (0o755 if entry.executable or entry.data is None else 0o644)
    data, name = entry.data or b"", entry.name.encode() + b"\0"
    fields = (entry.inode or number, mode, 0, 0, entry.names, 0, len(data), 0, 0, 0, 0, len(name), 0)
    head = (HEADER % fields).encode() + name
    return _padded(head) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
