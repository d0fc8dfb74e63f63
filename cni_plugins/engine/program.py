"""What the running process is, and what it has for all its requests."""

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # IPAM plugins do without the kernel room
    from cni_plugins.kernel.session.session import Residence


class Program(NamedTuple):
    """The running program's file; hard links of it under other names are the same program.

    :param residence: what it keeps from request to request, if it answers more than one.
    """

    device: int
    inode: int
    residence: "Residence | None" = None
