"""Starts the program in the executable, and exits without finalising the interpreter.

suite.spec generates the module `program`, which determines the program.
"""

import gc
import sys

import importer

# The process ends before garbage collection would be worth it; importing pydantic alone would run dozens.
gc.disable()
importer.install()
import os  # noqa: E402 - with what importer adds to it

# IPAM plugins and iptables must not inherit the bootloader's variables. launch.c sets no LD_LIBRARY_PATH, but
# PyInstaller's own bootloader does, and saves the caller's value.
for name in [name for name in os.environ if name.startswith("_PYI_")]:
    del os.environ[name]
# What front.c preloads on a node whose own C library is too old.
if os.environ.get("LD_PRELOAD", "").startswith("/proc/self/fd/"):
    del os.environ["LD_PRELOAD"]
if hasattr(sys, "_MEIPASS") and os.environ.get("LD_LIBRARY_PATH", "").startswith(sys._MEIPASS):  # noqa: SLF001
    del os.environ["LD_LIBRARY_PATH"]
    if "LD_LIBRARY_PATH_ORIG" in os.environ:
        os.environ["LD_LIBRARY_PATH"] = os.environ.pop("LD_LIBRARY_PATH_ORIG")


def leave_behind() -> None:
    """Leave a process behind that answers the next calls, if handoff.c has found this call the first."""
    nest = importer.nest()
    if not nest:
        return
    try:
        from cni_plugins.agent import linger

        linger.leave_behind(*nest)
    except Exception:  # noqa: BLE001, S110 - this call does not depend on it, and those that wait are told at its end
        pass


def takes_road() -> bool:
    """Whether this call is about an attachment."""
    name = os.path.basename(sys.argv[0])
    return os.environ.get("CNI_COMMAND", "VERSION") not in ("", "VERSION") and name in importer.TRAVELLERS


def run() -> int:
    """:return: the exit code, by the rules of sys.exit()"""
    from program import main

    try:
        main()
    except SystemExit as end:
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
            return 1
        return end.code or 0
    except BaseException:  # noqa: BLE001 - what the interpreter would do, without the os._exit() below
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


if takes_road():
    importer.archive().take_road()
leave_behind()
code = run()
for stream in filter(None, (sys.stdout, sys.stderr)):
    try:
        stream.flush()
    except OSError:
        code = code or 1
os._exit(code)
