"""socket without names for its numbers, for which the genuine one imports enum and makes classes of hundreds.

AF_UNIX and the others are plain integers here. What is not here comes from the genuine module.
"""

import _socket
import sys
from _socket import *  # noqa: F403 - that is what socket does


class socket(_socket.socket):
    __slots__ = ("__weakref__",)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def accept(self):
        fd, address = self._accept()
        accepted = socket(self.family, self.type, self.proto, fileno=fd)
        if getdefaulttimeout() is None and self.gettimeout():  # noqa: F405
            accepted.setblocking(True)
        return accepted, address


def _genuine():
    return sys.meta_path[-1].genuine(__name__)


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return getattr(_genuine(), name)
