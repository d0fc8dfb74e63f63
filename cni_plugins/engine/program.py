"""What the running process is, and what it has for all its requests."""

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # IPAM plugins do without the kernel room
    from cni_plugins.kernel.wire import Socket


class Program(NamedTuple):
    """The running program's file; hard links of it under other names are the same program.

    :param nft: an nf_tables socket of a process that stays, in the namespace it stays in; see
        kernel.session.nft_socket.
    """

    device: int
    inode: int
    nft: "Socket | None" = None
