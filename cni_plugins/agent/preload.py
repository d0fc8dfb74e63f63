"""Imports all that a request may need, so that no worker does it while somebody waits."""

import gc
import importlib

from cni_plugins.engine import registry

# Imported by functions on their first call; a module is listed here when a frozen program has it at all.
_LATE = (
    "cni_plugins.engine.lifecycle",
    "cni_plugins.kernel.macvlan_words",
    "cni_plugins.kernel.messages",
    "cni_plugins.kernel.overlay_words",
    "cni_plugins.kernel.underlay",
    "cni_plugins.vxlan.backends.static",
    "ctypes",
    "subprocess",
    "shutil",
    "shlex",
    "traceback",
)


def preload() -> None:
    """Import every plugin, and keep what was imported from being copied into each worker."""
    for name in registry.NAMES:
        if registry.ipam(name) is None:
            registry.plugin(name)
    for name in _LATE:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    gc.enable()  # a plugin does without; a worker lives on
