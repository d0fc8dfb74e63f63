"""Imports every module that a request may need, before the first one arrives, so that no caller waits."""

import gc
import importlib
import os
from collections.abc import Sequence

from cni_plugins.engine import registry

# Imported by functions on their first call. A test compares these lists with the modules that exist.
USUAL = (
    "cni_plugins.engine.lifecycle",
    "cni_plugins.ipam_hostlocal.config",
    "cni_plugins.ipam_static.config",
    "cni_plugins.kernel.capabilities",
    "cni_plugins.kernel.firewall.forward_facts",
    "cni_plugins.kernel.ip.route_lookup",
    "cni_plugins.tuning.duplicates",
    "cni_plugins.tuning.regexp",
    "cni_plugins.vxlan.backends.multicast",
    "cni_plugins.vxlan.backends.static",
    "cni_plugins.vxlan.backends.stored",
)
# For iptables and for internal errors; without os.setns(), which is of Python 3.12, also for all
# calls.
_SELDOM = (
    *(() if hasattr(os, "setns") else ("ctypes",)),
    "subprocess",
    "shutil",
    "shlex",
    "traceback",
)


ALL = (*USUAL, *_SELDOM)
# For the process beside the workers that repairs; here, so that it shares their pages.
FOR_REPAIR = ("cni_plugins.agent.repair.watch",)
FOR_KEEPER = ("cni_plugins.agent.keeping",)


def preload(late: Sequence[str] = ALL) -> None:
    """Import every plugin, and freeze the heap so that forked workers go on sharing its pages."""
    for name in registry.IPAM_PLUGINS:
        registry.ipam(name)
    for name in registry.PLUGINS:
        registry.plugin(name)
    for name in late:
        importlib.import_module(name)
    from cni_plugins.kernel import dispatch

    dispatch.load_all()
    gc.collect()
    gc.freeze()
    gc.enable()  # executables run without garbage collection; a worker lives on
