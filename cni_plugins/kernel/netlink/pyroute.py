"""Provides pyroute2's route message class, with which CHECK reads the many forms of a route.

pyroute2's package `__init__` imports every protocol it supports (110 ms), so the package is registered
without running that. Import this module inside functions: it costs 60 ms.
"""
# ruff: noqa: E402 (the package is registered first)

import sys
from importlib.util import find_spec
from types import ModuleType


def _register_bare_package(name: str) -> None:
    """Register a package so that its submodules can be imported without running its `__init__`."""
    if name in sys.modules:
        return
    spec = find_spec(name)
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError(f"{name} is not installed")
    package = ModuleType(name)
    package.__path__ = list(spec.submodule_search_locations)
    package.__spec__ = spec
    sys.modules[name] = package


_register_bare_package("pyroute2")

from pyroute2.netlink.rtnl.rtmsg import rtmsg

__all__ = ["rtmsg"]
