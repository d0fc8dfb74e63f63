"""Start the program inside the executable, and end it without taking the interpreter apart.

Which program that is, suite.spec says: it writes the module `program`.
"""

import gc
import os
import sys

import importer

# The process is gone before a collection could pay for itself; importing pydantic alone would run dozens.
gc.disable()
importer.install()
# What the bootloader told itself must not reach the IPAM plugins and iptables we start. launch.c sets no
# LD_LIBRARY_PATH; PyInstaller's own bootloader does, and keeps the caller's value aside.
for name in [name for name in os.environ if name.startswith("_PYI_")]:
    del os.environ[name]
if hasattr(sys, "_MEIPASS") and os.environ.get("LD_LIBRARY_PATH", "").startswith(sys._MEIPASS):  # noqa: SLF001
    del os.environ["LD_LIBRARY_PATH"]
    if "LD_LIBRARY_PATH_ORIG" in os.environ:
        os.environ["LD_LIBRARY_PATH"] = os.environ.pop("LD_LIBRARY_PATH_ORIG")


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
    except BaseException:  # noqa: BLE001 - the interpreter's last resort, which os._exit() below leaves out
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


code = run()
for stream in filter(None, (sys.stdout, sys.stderr)):
    try:
        stream.flush()
    except OSError:
        code = code or 1
os._exit(code)
