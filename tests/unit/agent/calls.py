"""Messages as the executables send them, and the descriptors that come with them."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from cni_plugins.agent.protocol import CALL, Descriptors

BUILD = "0123456789abcdef"
HERE = "4:1 4:2 4:3 8:2"
SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


def message(
    *variables: str,
    protocol: bytes = CALL,
    build: str = BUILD,
    here: str = HERE,
    umask: str = "22",
    name: str = "bridge",
) -> bytes:
    texts = [protocol, *map(os.fsencode, (f"@build-id:{build}", here, umask, name, *variables))]
    return b"".join(text + b"\0" for text in texts)


def memfd(text: bytes = b"{}", seals: int = SEALS) -> int:
    fd = os.memfd_create("stdin", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(fd, text)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


@contextmanager
def descriptors(stdin: bytes = b"{}") -> Iterator[Descriptors]:
    """Open what a caller of ours passes."""
    with ExitStack() as owned:
        fds = (
            memfd(stdin),
            os.open("/proc/self/exe", os.O_PATH),
            os.open("/", os.O_PATH | os.O_DIRECTORY),
        )
        for fd in fds:
            owned.callback(os.close, fd)
        yield Descriptors(*fds)
