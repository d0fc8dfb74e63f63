"""Selects the IPAM plugin of a main plugin: called in this process if it is this program, else executed."""

import os
from collections.abc import Callable

from cni_plugins.contract.ipam import IpamPlugin
from cni_plugins.delegate import run as delegate
from cni_plugins.engine import registry
from cni_plugins.engine.build import build_of
from cni_plugins.engine.program import Program
from cni_plugins.errors import InvalidNetworkConfig
from cni_plugins.protocol.request import Request
from cni_plugins.protocol.result import Result


def of(name: str, request: Request, program: Program | None) -> IpamPlugin:
    """Return the IPAM plugin that a config names.

    :raises InvalidNetworkConfig: when it is not on CNI_PATH, or is a main plugin.
    """
    executable = delegate.find(name, request.path)
    ours = registry.ipam(name)
    if ours is None and name in registry.NAMES:  # it would call itself for the same config, without end
        raise InvalidNetworkConfig(f"{name} is not an IPAM plugin", f"ipam.type is {name}")
    return ours if ours and _is(executable, program) else _delegated(name, executable, program)


def needs_link(name: str) -> bool:
    """Say whether an IPAM plugin of this name contacts a server through the container's link."""
    return name == "dhcp"


def none() -> IpamPlugin:
    """Return the plugin for "no IPAM": it reserves nothing and always succeeds."""
    return IpamPlugin("", lambda _: Result(), _nothing, _nothing_of, _nothing, _nothing, _nothing)


def _nothing(_request: Request) -> None:
    pass


def _nothing_of(_request: Request, _lease: Result) -> None:
    pass


def _is(executable: str, program: Program | None) -> bool:
    """Say whether an executable is this program: the same file, or a copy of it.

    Copying without `cp -a`, image layers and many installers lose hard links.
    """
    if program is None:
        return False
    status = os.stat(executable)
    if (program.device, program.inode) == (status.st_dev, status.st_ino):
        return True
    try:
        return program.build != "" and build_of(executable) == program.build
    except OSError:  # it may be executable and not readable
        return False


def _delegated(name: str, executable: str, program: Program | None) -> IpamPlugin:
    residence = program.residence if program else None
    more = (residence.is_wanted,) if residence else ()

    def call(command: str) -> Callable[[Request], None]:
        return lambda request: delegate.call(executable, request, command, *more)

    return IpamPlugin(
        name,
        reserve=lambda request: delegate.reserve(executable, request, *more),
        release=call("DEL"),
        take_back=lambda request, _: call("DEL")(request),
        check=call("CHECK"),
        gc=call("GC"),
        status=call("STATUS"),
        is_exact=False,
        needs_link=needs_link(name),
    )
