"""Builds the plugins as one executable under every plugin's name, and cnictl as another: `freeze.py`.

There are two steps. The first compiles the bootloader: inside.c with the interpreter's static library,
where there is one; otherwise PyInstaller's, from the sdist of exactly the installed version, with the C
files of this directory added (launch.c says why). The second runs PyInstaller on suite.spec, which gets the
path of the bootloader as an option. Each step is skipped if its inputs have not changed.

Without a C compiler, or if the sdist cannot be downloaded, PyInstaller's prebuilt bootloader is used. The
program is the same, but it always unpacks into /tmp, even if that is mounted noexec, and leaves a directory
behind when it is killed.
"""

import argparse
import hashlib
import json
import marshal
import os
import platform
import re
import shutil
import struct
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import PyInstaller  # type: ignore[import-untyped]

from cni_plugins.cli.install.replace import place
from cni_plugins.engine.registry import NAMES
from cni_plugins.front.main import VERSIONS
from cni_plugins.front.main import __file__ as answers

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PROGRAMS = (("plugins", "cni_plugins.front.main"), ("cnictl", "cni_plugins.cli.main"))
SOURCES = (
    "cni_plugins/**/*.py",
    "packaging/*.*",
    "packaging/lean/*.py",
    "packaging/systemd/*",
    "conf/10-bridge.conflist",
)
_PT_INTERP, _HIDDEN_INTERP = 3, 0x6E637069  # elf.h; front.c
BUNDLED = (
    "annotated-doc",
    "annotated-types",
    "netaddr",
    "prometheus_client",
    "pydantic",
    "pydantic_core",
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


def c_compiler() -> str:
    """:raises Failed: when there is none"""
    found = os.environ.get("CC") or next(filter(shutil.which, ("cc", "gcc", "clang")), "")
    if not found:
        raise Failed("no C compiler")
    return found


def frozen_first() -> str:
    """Return as C what is imported before the archive can be read, or reads it."""
    stdlib = Path(sysconfig.get_path("stdlib"), "encodings")
    modules = {
        "encodings": stdlib / "__init__.py",
        "encodings.aliases": stdlib / "aliases.py",
        "encodings.utf_8": stdlib / "utf_8.py",
        "importer": HERE / "importer.py",
        "entry": HERE / "entry.py",
    }
    arrays, rows = [], []
    for number, (name, source) in enumerate(modules.items()):
        code = compile(source.read_bytes(), f"{name}.py", "exec", dont_inherit=True, optimize=2)
        content = marshal.dumps(code)
        arrays.append(f"static const unsigned char code_{number}[] = {{{','.join(map(str, content))}}};")
        is_package = int(source.name == "__init__.py")
        rows.append(f'    {{"{name}", code_{number}, {len(content)}, {is_package}}},')
    table = ["static const struct _frozen first_modules[] = {", *rows, "    {0}};", ""]
    return "\n".join([*arrays, *table])


def builtin_modules(config: str) -> str:
    """Return the interpreter's table of built-in modules without those that need libraries."""
    unwanted = re.compile(r"PyInit_(_elementtree|_statistics|_symtable|pyexpat|spwd|unicodedata|xxsubtype)\b")
    return "\n".join(line for line in config.splitlines() if not unwanted.search(line))


def interpreter(work: Path) -> Path:
    """Link the interpreter into one program with our own main().

    :raises Failed: when its static library or headers are missing, or the linker refuses them.
    """
    config = Path(sysconfig.get_config_var("LIBPL") or "/nonexistent", "config.c")
    version = sysconfig.get_config_var("LDVERSION") or ""
    named = (config.with_name(f"libpython{version}{kind}.a") for kind in ("-pic", ""))
    library = next(filter(Path.exists, named), None)
    headers = Path(sysconfig.get_path("include"))
    if library is None or not config.exists() or not (headers / "Python.h").exists():
        raise Failed("this Python has no static library, or no headers")
    compiler = c_compiler()
    sources = [HERE / name for name in ("inside.c", "place.c")]
    inputs = [*HERE.glob("*.[ch]"), HERE / "importer.py", HERE / "entry.py", Path(__file__), Path(answers)]
    state = library.stat()
    words = (sys.version, compiler, str(library), str(state.st_size), str(state.st_mtime_ns))
    built = work / f"inside-{digest(inputs, *words)}"
    if not built.exists():
        (work / "first.h").write_text(frozen_first())
        (work / "builtin.c").write_text(builtin_modules(config.read_text()))
        # Position-independent, and with all of the interpreter's names for extension modules.
        how = ["-O2", "-fPIE", "-pie", "-rdynamic", "-s", f"-I{headers}", f"-I{work}", f"-I{HERE}"]
        how += ["-DNDEBUG", "-DPy_BUILD_CORE_BUILTIN", "-DLINGERS"]
        command: list[str | Path] = [compiler, *how, "-o", work / "inside.new", *sources, work / "builtin.c"]
        if platform.machine() == "x86_64":  # elsewhere it is a usual program, which needs a loader
            # Others look for the build id at the beginning of the file (engine/build.py).
            named = f"/lib64/ld-linux-x86-64.so.2:@build-id:{'0' * 16}"
            command += [front(compiler, work), "-Wl,-e,front", f"-Wl,--dynamic-linker={named}"]
        else:
            command += [HERE / "handoff.c"]
        # A node may lack zlib, which binascii of some Pythons uses.
        zlib = ["-l:libz.a"] if "PyInit_zlib" in config.read_text() else []
        run([*command, library, *zlib, "-lm", "-ldl", "-lpthread", "-lutil"], work / "inside.log")
        if platform.machine() == "x86_64":
            hide_interpreter(work / "inside.new")
        (work / "inside.new").replace(built)
    return built


def front(compiler: str, work: Path) -> Path:
    """Compile what runs before there is a C library."""
    target = work / "front.o"
    texts = [f'"{version}"' for version in VERSIONS]
    longest = max(map(len, texts)) - 1
    as_json = json.dumps(",".join(texts))
    lines = [f"VERSIONS {', '.join(texts)}", f"VERSIONS_AS_JSON {as_json}", f"VERSION_LENGTH {longest}"]
    (work / "versions.h").write_text("".join(f"#define {line}\n" for line in lines))
    how = [f"-I{work}", "-O2", "-fPIE", "-DLINGERS", "-ffreestanding", "-fno-builtin", "-fno-stack-protector"]
    how += ["-fcf-protection=none", "-fno-asynchronous-unwind-tables", "-fno-tree-loop-distribute-patterns"]
    run([compiler, *how, "-c", "-o", target, HERE / "front.c"], work / "front.log")
    if shutil.which("nm"):
        listed = subprocess.run(["nm", "-u", target], capture_output=True, text=True, check=True).stdout
        calls = set(listed.split()) - {"U", "_start"}
        if calls:  # a compiler may call memcpy() for an assignment
            raise Failed(f"{compiler} makes front.c call {', '.join(sorted(calls))}, which is not there yet")
    return target


def hide_interpreter(program: Path) -> None:
    """Change the type of the header PT_INTERP, so that the kernel starts the program itself; see front.c."""
    content = bytearray(program.read_bytes())
    [start] = struct.unpack_from("<Q", content, 32)  # e_phoff
    size, count = struct.unpack_from("<HH", content, 54)  # e_phentsize, e_phnum
    for at in range(start, start + size * count, size):
        if struct.unpack_from("<I", content, at) == (_PT_INTERP,):
            struct.pack_into("<I", content, at, _HIDDEN_INTERP)
    program.write_bytes(content)
    program.chmod(0o755)


def bootloader(work: Path) -> Path:
    """Compile PyInstaller's bootloader with our constructors in it."""
    sources = [*HERE.glob("*.h"), *(HERE / name for name in ("handoff.c", "launch.c", "place.c"))]
    compiler = c_compiler()
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


def loader_of(work: Path) -> Path:
    """Compile the best bootloader that can be had here."""
    try:
        return interpreter(work)
    except Failed as why:
        print(f"freeze: the interpreter stays a library, which is slower: {why}", file=sys.stderr)
    try:
        return bootloader(work)
    except Failed as why:
        print(f"freeze: using PyInstaller's own bootloader: {why}", file=sys.stderr)
    return Path(PyInstaller.__file__).parent / "bootloader" / PyInstaller.PLATFORM / "run"


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
        command += ["--inside"] if loader.name.startswith("inside-") else []
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
    loader = loader_of(work)
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
