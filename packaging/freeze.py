"""Build the plugins as one executable, hard-linked under every plugin name: `freeze.py`.

Two halves. The bootloader is PyInstaller's own, compiled from the sdist of exactly the installed version
with the C files of this directory added (launch.c says why). The rest is PyInstaller as usual, run on
suite.spec. Each half is skipped when nothing it is made from has changed. The installed PyInstaller is not
touched: suite.spec is told which bootloader to use.

Without a C compiler, or without a way to get the sdist, PyInstaller's ready-made bootloader does: same
program, but it unpacks into /tmp whether that allows execution or not, and leaves a directory behind when
killed.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path

import PyInstaller  # type: ignore[import-untyped]
from install import place

from cni_plugins.engine.registry import NAMES

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
BUNDLED = ("pydantic", "pydantic_core", "pyroute2", "netaddr")


class Failed(Exception):
    """A tool is missing or gave up; the message says which."""


def digest(files: Iterable[Path], *words: str) -> str:
    total = hashlib.sha256("\0".join(words).encode())
    for file in sorted(files):
        total.update(f"\0{file.relative_to(ROOT)}\0".encode() + file.read_bytes())
    return total.hexdigest()[:16]


def run(command: Sequence[str | Path], log: Path, cwd: Path = ROOT, **env: str) -> None:
    """:raises Failed: naming the log that holds everything the command said"""
    with log.open("w") as said:
        done = subprocess.run(
            command, cwd=cwd, env={**os.environ, **env}, stdout=said, stderr=said, check=False
        )
    if done.returncode:
        raise Failed(f"{' '.join(map(str, command[:4]))} … failed, see {log}")


def sdist(work: Path) -> Path:
    """The source of the very PyInstaller that is installed, unpacked."""
    version = PyInstaller.__version__
    tree = work / f"pyinstaller-{version}"
    if not tree.exists():
        archive = work / f"{tree.name}.tar.gz"
        if not archive.exists():
            # To learn the name of what it got, pip builds it: hence the zlib choice, which is the one below.
            pip: list[str | Path] = [
                sys.executable,
                "-m",
                "pip",
                "download",
                "--quiet",
                "--disable-pip-version-check",
            ]
            pip += ["--no-deps", "--no-binary", "pyinstaller", "--dest", work, f"pyinstaller=={version}"]
            run(pip, work / "pip.log", PYI_STATIC_ZLIB="1")
        with tarfile.open(archive) as source:
            source.extractall(work, filter="data")
    return tree / "bootloader"


def bootloader(work: Path) -> Path:
    """PyInstaller's bootloader with our constructors in it."""
    sources = sorted(HERE.glob("*.c"))
    compiler = os.environ.get("CC") or next(filter(shutil.which, ("cc", "gcc", "clang")), "")
    if not compiler:
        raise Failed("no C compiler")
    built = work / f"bootloader-{digest(sources, PyInstaller.__version__, compiler)}"
    if not built.exists():
        tree = sdist(work)
        for source in sources:
            shutil.copy(source, tree / "src")
        # The sdist brings a zlib of its own: no development package is needed, and a node needs no libz.
        waf: list[str | Path] = [sys.executable, "waf", "distclean", "configure", "build_release"]
        run(waf, work / "waf.log", cwd=tree, CC=compiler, PYI_STATIC_ZLIB="1")
        shutil.copy(tree / "build" / "release" / "run", work / "bootloader.new")
        (work / "bootloader.new").replace(built)
    return built


def freeze(loader: Path, work: Path) -> Path:
    """:return: the executable"""
    sources = [*(ROOT / "cni_plugins").rglob("*.py"), *HERE.glob("*.py"), HERE / "suite.spec", loader]
    versions = [f"{name} {metadata.version(name)}" for name in BUNDLED]
    program = work / f"program-{digest(sources, sys.version, PyInstaller.__version__, *versions)}"
    if not program.exists():
        for old in work.glob("program-*"):
            old.unlink()
        # PyInstaller compares its own lists of inputs, and what suite.spec does beside them is not on those.
        shutil.rmtree(work / "pyinstaller", ignore_errors=True)
        command: list[str | Path] = [
            sys.executable,
            "-m",
            "PyInstaller",
            "--noconfirm",
            "--log-level",
            "ERROR",
        ]
        command += [
            "--distpath",
            work / "program.new",
            "--workpath",
            work / "pyinstaller",
            HERE / "suite.spec",
        ]
        command += ["--", "--name", "program", "--bootloader", loader]
        command += ["--strip"] if shutil.which("strip") else []
        run(
            command,
            work / "pyinstaller.log",
            PYINSTALLER_CONFIG_DIR=str(work / "cache"),
            PYTHONPATH=str(ROOT),
        )
        (work / "program.new" / "program").replace(program)
    return program


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the single-file executables.")
    parser.add_argument("--dist", type=Path, default=ROOT / "dist", help="where the executables go")
    parser.add_argument("--work", type=Path, default=ROOT / "build", help="kept only to save time")
    options = parser.parse_args()
    work = options.work.resolve() / "freeze"
    work.mkdir(parents=True, exist_ok=True)
    try:
        loader = bootloader(work)
    except Failed as why:
        print(f"freeze: using PyInstaller's own bootloader: {why}", file=sys.stderr)
        loader = Path(PyInstaller.__file__).parent / "bootloader" / PyInstaller.PLATFORM / "run"
    try:
        program = freeze(loader, work)
    except Failed as why:
        sys.exit(f"freeze: {why}")
    place(program, options.dist, NAMES)
    print(f"{options.dist}: {' '.join(NAMES)}, one file of {program.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
