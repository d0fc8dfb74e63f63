"""The IPAM plugin behind a main plugin: called in this process when it is our own program, run otherwise."""

import os

from cni_plugins.contract.ipam import IpamPlugin
from cni_plugins.delegate import run as delegate
from cni_plugins.engine import registry
from cni_plugins.engine.program import Program
from cni_plugins.errors import InvalidNetworkConfig
from cni_plugins.protocol.request import Request
from cni_plugins.protocol.result import Result


def of(name: str, request: Request, program: Program | None) -> IpamPlugin:
    """Return the IPAM plugin a config names.

    :raises InvalidNetworkConfig: when CNI_PATH does not have it, or it is a main plugin.
    """
    executable = delegate.find(name, request.path)
    ours = registry.ipam(name)
    if ours is None and name in registry.NAMES:  # it would find itself in the same config, without end
        raise InvalidNetworkConfig(f"{name} is not an IPAM plugin", f"ipam.type is {name}")
    return ours if ours and _is(executable, program) else _delegated(name, executable)


def needs_link(name: str) -> bool:
    """Say whether an IPAM plugin of this name talks to a server over the container's own link."""
    return name == "dhcp"


def none() -> IpamPlugin:
    """Return what stands for "no IPAM": it reserves nothing and always succeeds."""
    return IpamPlugin("", lambda _: Result(), _nothing, _nothing_of, _nothing, _nothing, _nothing)


def _nothing(_request: Request) -> None:
    pass


def _nothing_of(_request: Request, _lease: Result) -> None:
    pass


def _is(executable: str, program: Program | None) -> bool:
    status = os.stat(executable)
    return program is not None and (program.device, program.inode) == (status.st_dev, status.st_ino)


def _delegated(name: str, executable: str) -> IpamPlugin:
    return IpamPlugin(
        name,
        reserve=lambda request: delegate.reserve(executable, request),
        release=lambda request: delegate.call(executable, request, "DEL"),
        take_back=lambda request, _: delegate.call(executable, request, "DEL"),
        check=lambda request: delegate.call(executable, request, "CHECK"),
        gc=lambda request: delegate.call(executable, request, "GC"),
        status=lambda request: delegate.call(executable, request, "STATUS"),
        is_exact=False,
        needs_link=needs_link(name),
    )
