"""Which file the running program is."""

from typing import NamedTuple


class Program(NamedTuple):
    """The running program's file; hard links of it under other names are the same program."""

    device: int
    inode: int
