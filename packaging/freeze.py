"""Builds the plugins as one executable under every plugin's name, and cnictl as another: `freeze.py`.

There are two steps. The first compiles PyInstaller's bootloader from the sdist of exactly the installed
version, with the C files of this directory added (launch.c says why). The second runs PyInstaller on
suite.spec. Each step is skipped if its inputs have not changed. The installed PyInstaller is not modified:
suite.spec gets the path of the bootloader as an option.

Without a C compiler, or if the sdist cannot be downloaded, PyInstaller's prebuilt bootloader is used. The
program is the same, but it always unpacks into /tmp, even if that is mounted noexec, and leaves a directory
behind when it is killed.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import PyInstaller  # type: ignore[import-untyped]

from cni_plugins.cli.install.replace import place
from cni_plugins.engine.registry import NAMES

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PROGRAMS = (("plugins", "cni_plugins.front.main"), ("cnictl", "cni_plugins.cli.main"))
SOURCES = ("cni_plugins/**/*.py", "packaging/*.*", "packaging/systemd/*", "conf/10-bridge.conflist")
BUNDLED = (
    "annotated-doc",
    "annotated-types",
    "netaddr",
    "prometheus_client",
    "pydantic",
    "pydantic_core",
    "pyroute2",
    "rich",
    "shellingham",
    "typer",
    "typing-inspection",
    "typing_extensions",
)


class Failed(Exception):
    """A tool is missing or has failed; the message says which."""


def digest(files: Iterable[Path], *words: str) -> str:
    total = hashlib.sha256("\0".join(words).encode())
    for file in sorted(files):
        total.update(f"\0{file.relative_to(ROOT)}\0".encode() + file.read_bytes())
    return total.hexdigest()[:16]


def run(command: Sequence[str | Path], log: Path, cwd: Path = ROOT, **env: str) -> None:
    """:raises Failed: naming the log with the output of the command"""
    with log.open("w") as output:
        done = subprocess.run(
            command, cwd=cwd, env={**os.environ, **env}, stdout=output, stderr=output, check=False
        )
    if done.returncode:
        raise Failed(f"{' '.join(map(str, command[:4]))} … failed, see {log}")


def sdist(work: Path) -> Path:
    """Download and unpack the source of the installed PyInstaller; return its bootloader directory."""
    version = PyInstaller.__version__
    tree = work / f"pyinstaller-{version}"
    if not tree.exists():
        archive = work / f"{tree.name}.tar.gz"
        if not archive.exists():
            # pip builds the metadata, and with it the bootloader: hence the same zlib option as below.
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
            # Python 3.11.2 has no filters; what pip downloads is what the index vouches for.
            source.extraction_filter = getattr(tarfile, "data_filter", None)
            source.extractall(work)  # noqa: S202
    return tree / "bootloader"


def bootloader(work: Path) -> Path:
    """Compile PyInstaller's bootloader with our constructors in it."""
    sources = sorted(HERE.glob("*.c"))
    compiler = os.environ.get("CC") or next(filter(shutil.which, ("cc", "gcc", "clang")), "")
    if not compiler:
        raise Failed("no C compiler")
    built = work / f"bootloader-{digest(sources, PyInstaller.__version__, compiler)}"
    if not built.exists():
        tree = sdist(work)
        for source in sources:
            shutil.copy(source, tree / "src")
        # The sdist contains a zlib: no development package is needed to build, and no libz on the node.
        waf: list[str | Path] = [sys.executable, "waf", "distclean", "configure", "build_release"]
        run(waf, work / "waf.log", cwd=tree, CC=compiler, PYI_STATIC_ZLIB="1")
        shutil.copy(tree / "build" / "release" / "run", work / "bootloader.new")
        (work / "bootloader.new").replace(built)
    return built


def identity(loader: Path) -> str:
    """Return a digest of all inputs of both programs: an agent serves only programs of its own build."""
    sources = [path for pattern in SOURCES for path in ROOT.glob(pattern)]
    versions = [f"{name} {metadata.version(name)}" for name in BUNDLED]
    tools = (sys.version, PyInstaller.__version__, f"strip {bool(shutil.which('strip'))}")
    return digest(sources, hashlib.sha256(loader.read_bytes()).hexdigest(), *tools, *versions)


def freeze(name: str, main: str, build: str, loader: Path, work: Path) -> Path:
    """:return: the executable"""
    program = work / f"{name}-{build}"
    if not program.exists():
        for old in work.glob(f"{name}-*"):
            old.unlink()
        own = work / f"pyinstaller-of-{name}"
        # PyInstaller's cache compares its own inputs only, which do not include all those of suite.spec.
        shutil.rmtree(own, ignore_errors=True)
        own.mkdir()
        command: list[str | Path] = [
            sys.executable,
            "-m",
            "PyInstaller",
            "--noconfirm",
            "--log-level",
            "ERROR",
        ]
        command += ["--distpath", own, "--workpath", own, HERE / "suite.spec", "--"]
        command += ["--name", name, "--main", main, "--build", build, "--bootloader", loader]
        command += ["--strip"] if shutil.which("strip") else []
        environment = {"PYINSTALLER_CONFIG_DIR": str(own / "cache"), "PYTHONPATH": str(ROOT)}
        run(command, work / f"{name}.log", **environment)
        (own / name).replace(program)
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
    build = identity(loader)
    try:
        # In parallel, as each build uses mostly one processor.
        with ThreadPoolExecutor() as pool:
            plugins, cnictl = pool.map(lambda program: freeze(*program, build, loader, work), PROGRAMS)
    except Failed as why:
        sys.exit(f"freeze: {why}")
    place(plugins, options.dist, NAMES)
    place(cnictl, options.dist, ["cnictl"])
    size, more = (program.stat().st_size / 1e6 for program in (plugins, cnictl))
    print(
        f"{options.dist}: {' '.join(NAMES)}, one file of {size:.1f} MB; cnictl, {more:.1f} MB; build {build}"
    )
    if identity(loader) != build:
        # The programs may be of different sources but have the same build id: do not reuse them.
        plugins.unlink()
        cnictl.unlink()
        print("freeze: sources have changed during the build: run make freeze again", file=sys.stderr)


if __name__ == "__main__":
    main()
