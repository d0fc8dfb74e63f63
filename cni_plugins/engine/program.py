"""Describes the running process, and what it keeps for all its requests."""

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # IPAM plugins must not import the kernel package
    from cni_plugins.kernel.session.session import Residence


class Program(NamedTuple):
    """The executable file of this process; hard links and copies are the same program under other names.

    :param build: its build id, empty if it is not frozen.
    :param residence: what it keeps between requests, if it serves more than one.
    """

    device: int
    inode: int
    residence: "Residence | None" = None
    build: str = ""
