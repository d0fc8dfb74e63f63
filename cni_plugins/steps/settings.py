"""Words for kernel settings under /proc/sys/net."""

from typing import NamedTuple

from cni_plugins.steps.places import Place


class EnsureSysctl(NamedTuple):
    """A setting has a value; the key is its path below /proc/sys/net, in parts, as link names may hold dots.

    An optional one is skipped where the kernel does not have it (no IPv6, for example), or it is read-only.
    """

    where: Place
    key: tuple[str, ...]
    value: str
    optional: bool = False


class EnableForwarding(NamedTuple):
    """The host routes packets of these address families (4, 6)."""

    families: tuple[int, ...]
