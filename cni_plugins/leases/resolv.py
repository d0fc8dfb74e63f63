"""Parses the file named by `resolvConf` into DNS settings, line by line as the reference plugin does."""

import os
import stat

from cni_plugins.errors import IoFailed
from cni_plugins.protocol.result import DNS

_LIMIT = 1 << 16  # bytes; a resolv.conf is a few lines


def read(path: str) -> DNS:
    """:raises IoFailed: when the file cannot be read, or is not a regular file."""
    if not path:
        return DNS()
    try:
        return parse(_contents(path))
    except (OSError, ValueError) as err:
        reason = getattr(err, "strerror", None) or str(err)
        raise IoFailed(f"open {path}: {reason}", f"ipam.resolvConf is {path}") from err


def parse(text: str) -> DNS:
    found: dict[str, list[str]] = {"nameserver": [], "domain": [], "search": [], "options": []}
    for line in text.splitlines():
        word, *values = line.split() or [""]
        if word in found:
            found[word] += values if word in ("search", "options") else values[:1]
    domain = found["domain"][-1:]
    return DNS(tuple(found["nameserver"]), "".join(domain), tuple(found["search"]), tuple(found["options"]))


def _contents(path: str) -> str:
    # O_NONBLOCK: opening a fifo without a writer would block for ever.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ValueError("not a regular file")
        data = os.read(fd, _LIMIT + 1)
    finally:
        os.close(fd)
    if len(data) > _LIMIT:
        raise ValueError(f"larger than {_LIMIT} bytes")
    return data.decode(errors="replace")
