"""Imports all that a request may need before the first one comes, so that no caller waits for it."""

import gc
import importlib

from cni_plugins.engine import registry

# Imported by functions on their first call. A test compares this list with the modules there are.
_LATE = (
    "cni_plugins.engine.lifecycle",
    "cni_plugins.ipam_hostlocal.config",
    "cni_plugins.ipam_static.config",
    "cni_plugins.kernel.capabilities",
    "cni_plugins.kernel.ip.route_lookup",
    "cni_plugins.kernel.netlink.pyroute",
    "cni_plugins.vxlan.backends.multicast",
    "cni_plugins.vxlan.backends.static",
    "ctypes",
    "subprocess",
    "shutil",
    "shlex",
    "traceback",
)


def preload() -> None:
    """Import every plugin, and keep what was imported from being copied into each worker."""
    for name in registry.IPAM_PLUGINS:
        registry.ipam(name)
    for name in registry.PLUGINS:
        registry.plugin(name)
    for name in _LATE:
        importlib.import_module(name)
    from cni_plugins.kernel import dispatch

    dispatch.load_all()
    gc.collect()
    gc.freeze()
    gc.enable()  # a plugin does without; a worker lives on
