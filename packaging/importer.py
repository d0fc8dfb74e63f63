"""Finds and loads the frozen modules: PyInstaller's bootstrap, reduced to what this program needs.

This runs before entry.py. It replaces PyInstaller's own import hooks, which import struct, zlib and
zipimport and search paths: a quarter of the start-up of a program that runs for twenty milliseconds. Here a
module name is looked up in one dict, its code is read from the executable with one pread, and no directory
is searched: a module that is not in the executable cannot be injected from elsewhere. Extension modules are
copied one by one when they are imported, so that VERSION does not copy the five megabytes of pydantic: into
memory, or where that may not be executed, and under PyInstaller's bootloader, into a directory.

Code that dataclasses and namedtuple would compile at every start is compiled when the program is frozen: see
rehearse.py. Of some modules the plugins' program has a lean one, which can do what a usual call needs, and
the genuine one beside it.

The archive is `size of the index (8 bytes) | index | code`; see suite.spec for the writer.
"""

import marshal
import posix
import sys
from _frozen_importlib import BuiltinImporter, FrozenImporter, ModuleSpec
from _frozen_importlib_external import ExtensionFileLoader
from builtins import eval as _eval
from builtins import exec as _exec

try:
    import _inside  # type: ignore[import-not-found]  # inside.c
except ImportError:  # PyInstaller's bootloader, which has unpacked by now
    _inside = None

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from importlib.abc import Loader
    from types import CodeType, ModuleType
    from typing import Any, TypeVar

    T = TypeVar("T")

    # Kind, offset (-1: on the road) and length; of an extension also the libraries it needs.
    Entry = tuple[Any, ...]
else:
    Loader = object

PACKAGE, EXTENSION, LIBRARY, FILE = "package", "extension", "library ", "file "
REHEARSED, PATTERNS = "what rehearse.py compiled", "the patterns rehearse.py compiled"
ROAD = "the road"
TRAVELLERS = (
    "bridge",
    "macvlan",
    "portmap",
    "ptp",
    "sbr",
    "tuning",
    "vxlan",
)  # the names of the program that take it
MFD_NOEXEC_SEAL = 8  # it is mapped and never executed; without it, sysctl vm.memfd_noexec may refuse it
GENUINE = "genuine "  # in front of a name of which there is a lean module too


class Archive(Loader):
    """Finds and loads all modules. The file stays open, so that an upgrade in place cannot mix versions."""

    def __init__(self, path: str, offset: int, home: str) -> None:
        self._fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
        size = int.from_bytes(posix.pread(self._fd, 8, offset), "little")
        self._index: dict[str, Entry] = marshal.loads(posix.pread(self._fd, size, offset + 8))  # noqa: S302 - our own file
        self._start = offset + 8 + size
        self._home = home
        self._unpacked: set[str] = set()  # files in the directory that are ours
        self._loaded: set[str] = set()  # libraries
        self._copies = 0  # in memory
        self._on_road: dict[str, CodeType] | None = None
        self._genuine: set[str] = set()  # names of which the genuine module is wanted

    @property
    def is_lean(self) -> bool:
        """Whether models are lean, and so almost nothing is generated."""
        return f"{GENUINE}pydantic" in self._index and "pydantic" not in self._genuine

    def genuine(self, name: str) -> "ModuleType":
        """Replace a lean module by the genuine one, and return that."""
        if name not in self._genuine:
            self._genuine.add(name)
            sys.modules.pop(name, None)
        return __import__(name, fromlist=["*"])

    def forget_lean(self) -> None:
        """Have models imported anew, from the genuine modules, and all that have something of theirs."""
        models = [name for name in self._index if name.startswith((f"{GENUINE}pydantic", f"{GENUINE}cni_"))]
        self._genuine.update(name.removeprefix(GENUINE) for name in models)
        forgotten = self._genuine & sys.modules.keys()
        while forgotten:
            for name in forgotten:
                del sys.modules[name]
                package, _, last = name.rpartition(".")
                vars(sys.modules.get(package, sys)).pop(last, None)
            ours = {name for name in sys.modules if name.startswith("cni_plugins.")}
            forgotten = {name for name in ours if self._has_something_of(vars(sys.modules[name]), forgotten)}
        self._replace_annotations()

    @staticmethod
    def _replace_annotations() -> None:
        """Give modules the types of the genuine typing, as models have them in their annotations."""
        import typing

        lean: Any = sys.modules.get("lean_typing", typing)
        if lean is typing:
            return
        sys.modules["lean_typing"] = typing
        for name in [name for name in sys.modules if name.startswith("cni_plugins.")]:
            content = vars(sys.modules[name])
            content.update(
                {key: lean.genuine(value) for key, value in content.items() if lean.is_form(value)}
            )

    @staticmethod
    def _has_something_of(content: "dict[str, Any]", names: "set[str]") -> bool:
        return any(
            getattr(value, "__module__", "") in names or type(value).__module__ in names
            for value in content.values()
        )

    def _entry(self, name: str) -> "Entry | None":
        entry = self._index.get(GENUINE + name) if name in self._genuine else None
        return entry or self._index.get(name)

    def find_spec(self, name: str, _path: object = None, _target: object = None) -> ModuleSpec | None:
        entry = self._entry(name)
        if entry is None:
            return None
        if entry[0] == EXTENSION:
            return ModuleSpec(name, ExtensionLoader(name, self), origin=name)
        where = f"{self._home}/{name.replace('.', '/')}"
        if entry[0] == PACKAGE:
            spec = ModuleSpec(name, self, origin=f"{where}/__init__.py", is_package=True)
            spec.submodule_search_locations = [where]
        else:
            spec = ModuleSpec(name, self, origin=f"{where}.py")
        spec.has_location = True
        return spec

    def load(self, name: str, load: "Callable[[str], T]") -> "T":
        """Load an extension or a library from a copy, from the next kind of copy if the first is refused."""
        entry = self._index[name]
        kinds = (self._in_memory, self._in_home) if _inside else (self._in_home, self._in_memory)
        try:
            return self._load_once(kinds[0](name, entry), load)
        except (ImportError, OSError):
            return self._load_once(kinds[1](name, entry), load)

    @staticmethod
    def _load_once(copy: "tuple[str, int]", load: "Callable[[str], T]") -> "T":
        path, fd = copy
        try:
            return load(path)
        finally:
            if fd >= 0:
                posix.close(fd)

    def load_libraries_of(self, name: str) -> None:
        """Load what an extension needs beside the C library, which a node may not have or have otherwise."""
        for library in self._index[name][3] if _inside else ():
            if library not in self._loaded:
                self._loaded.add(library)
                self.load(LIBRARY + library, _inside.load)

    def _in_home(self, name: str, entry: "Entry") -> "tuple[str, int]":
        """Copy it into the program's directory; a file that somebody else put there is never loaded."""
        file = f"{_inside.home() if _inside else self._home}/{name}.so"
        try:
            target = posix.open(file, posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC, 0o700)
        except FileExistsError:
            if name in self._unpacked:
                return file, -1
            raise
        try:
            self._copy(target, entry)
            self._unpacked.add(name)
            return file, -1
        except OSError:  # the disk is full
            posix.unlink(file)
            raise
        finally:
            posix.close(target)

    def _in_memory(self, name: str, entry: "Entry") -> "tuple[str, int]":
        """Copy it to where no file is left behind; the descriptor is to be closed after loading."""
        try:
            memory = posix.memfd_create(name, posix.MFD_CLOEXEC | MFD_NOEXEC_SEAL)
        except OSError:  # Linux before 6.3
            memory = posix.memfd_create(name, posix.MFD_CLOEXEC)
        self._copy(memory, entry)
        # The loader takes a path that it knows for the same file, and descriptors have their numbers again.
        self._copies += 1
        return f"/proc/self/fd{'/' * self._copies}{memory}", memory

    def _copy(self, target: int, entry: "Entry") -> None:
        offset, left = entry[1:3]
        while left:
            sent = posix.sendfile(target, self._fd, self._start + offset, left)
            if not sent:
                raise OSError(5, "the program's own file ends too early")
            offset, left = offset + sent, left - sent

    def create_module(self, _spec: ModuleSpec) -> None:
        """Let the import system create an ordinary module object."""

    def exec_module(self, module: "ModuleType") -> None:
        _exec(self.get_code(module.__name__), module.__dict__)  # noqa: S102 - that is what a loader is

    def get_code(self, name: str) -> "CodeType":
        entry = self._entry(name)
        code: CodeType = self._read(entry) if entry and entry[1] >= 0 else self._road()[name]
        return code

    def rehearsed(self) -> "dict[tuple[str, str], CodeType]":
        table: dict[tuple[str, str], CodeType] = self._read(self._index[REHEARSED])
        return table

    def patterns(self) -> "dict[tuple[str | bytes, int], tuple[object, ...]]":
        """Return the arguments of _sre.compile() by pattern and flags."""
        table: dict[tuple[str | bytes, int], tuple[object, ...]] = self._read(self._index[PATTERNS])
        return table

    def take_road(self) -> None:
        """Import what every attachment needs, in the order of road.txt and past the import system.

        One read and one unmarshalling for a hundred modules, and no look-up for any, is a tenth of a call.
        If one of them fails, the import statement for it finds out.
        """
        begun: set[str] = set()  # packages, of which a module is complete before themselves
        for name, code in self._road().items():
            module = self._begin(name, begun)
            if module is None:
                continue
            try:
                _exec(code, vars(module))  # noqa: S102 - that is what a loader does
            except BaseException as err:  # it is raised again by whoever imports the module
                for failed in (name, *begun):
                    sys.modules.pop(failed, None)
                if isinstance(err, KeyboardInterrupt):
                    raise
                return
            begun.discard(name)
            package, _, last = name.rpartition(".")
            if package:
                setattr(sys.modules[package], last, module)

    def _begin(self, name: str, begun: "set[str]") -> "ModuleType | None":
        """Return a module of the road that is to be executed, None if it has been; packages come first."""
        if name in sys.modules:
            return sys.modules[name] if name in begun else None
        is_package = self.is_package(name)
        package = name.rpartition(".")[0]
        if package and package not in sys.modules:
            self._begin(package, begun)
            begun.add(package)
        module: ModuleType = type(sys)(name)
        vars(module).update(
            __loader__=self, __package__=name if is_package else package, __file__=f"{name}.py"
        )
        if is_package:
            module.__path__ = [f"{self._home}/{name.replace('.', '/')}"]
        sys.modules[name] = module
        return module

    def _road(self) -> "dict[str, CodeType]":
        """Return the code of all modules of the road, in their order."""
        if self._on_road is None:
            self._on_road = self._read(self._index[ROAD]) if ROAD in self._index else {}
        return self._on_road

    def _read(self, entry: "Entry | None") -> "Any":  # noqa: ANN401 - whatever was stored
        return marshal.loads(self._bytes(entry))  # noqa: S302 - our own file

    def _bytes(self, entry: "Entry | None") -> bytes:
        offset, length = entry[1:3]  # type: ignore[index] # there is one
        return posix.pread(self._fd, length, self._start + offset)

    def content(self, name: str) -> bytes:
        """Return a file that was stored beside the modules."""
        return self._bytes(self._index[FILE + name])

    def get_source(self, _name: str) -> None:
        """Return None, which inspect and traceback accept: there is no source."""

    def is_package(self, name: str) -> bool:
        return (self._entry(name) or ("",))[0] == PACKAGE


class ExtensionLoader(ExtensionFileLoader):
    """Loads an extension from a copy that the archive makes."""

    def __init__(self, name: str, archive: Archive) -> None:
        super().__init__(name, name)
        self._archive = archive

    def create_module(self, spec: ModuleSpec) -> "ModuleType":
        self._archive.load_libraries_of(spec.name)

        def load(path: str) -> "ModuleType":
            spec.origin = path
            return super(ExtensionLoader, self).create_module(spec)

        return self._archive.load(spec.name, load)


_table: "dict[tuple[str, str], CodeType]" = {}


def _compiled(mode: str, text: str) -> "str | CodeType":
    if archive().is_lean:  # the few that are left are compiled sooner than the table is read
        return text
    if not _table:
        _table.update(archive().rehearsed())
    return _table.get((mode, text), text)


def execute(text: str, *spaces: "dict[str, object]") -> None:
    """Replace exec() in dataclasses."""
    _exec(_compiled("exec", text), *spaces)  # noqa: S102 - dataclasses would


def evaluate(text: str, *spaces: "dict[str, object]") -> object:
    """Replace eval() in collections."""
    return _eval(_compiled("eval", text), *spaces)  # noqa: S307 - namedtuple would


class NoSignature:
    """Replaces inspect in dataclasses, which would generate a docstring from the signature of every class."""

    @staticmethod
    def signature(_class: type, **_options: object) -> str:
        return "()"

    def __getattr__(self, name: str) -> object:
        """Return attributes of the real module: Python 3.13 unwraps methods of classes with slots."""
        import inspect

        return getattr(inspect, name)


no_signature = NoSignature()


def archive() -> Archive:
    """Return the archive of this program, once it is installed."""
    found: Archive = sys.meta_path[-1]  # type: ignore[assignment]
    return found


def nest() -> "tuple[int, int, int] | None":
    """Return what handoff.c leaves to a process that is to stay: lock, listening socket, seconds."""
    found: tuple[int, int, int] | None = _inside.nest() if _inside else None
    return found


def install() -> None:
    path, _, offset = sys._pyinstaller_pyz.rpartition("?")  # type: ignore[attr-defined] # noqa: SLF001 - set by the bootloader
    found = Archive(path, int(offset), sys._MEIPASS)  # type: ignore[attr-defined] # noqa: SLF001
    sys.meta_path[:] = [BuiltinImporter, FrozenImporter, found]
    sys.path_hooks[:] = []
    sys.path_importer_cache.clear()
    sys.path[:] = []
    sys.frozen = True  # type: ignore[attr-defined]
    if _inside and not hasattr(posix, "setns"):  # os is not imported yet: it will have them
        posix.setns, posix.unshare = _inside.setns, _inside.unshare  # type: ignore[attr-defined]
