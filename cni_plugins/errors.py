"""Defines the errors that a caller can see, one class for each CNI error code.

CniError                      999  an unexpected failure
├── IncompatibleVersion         1  cniVersion not supported, or too old for the command
├── UnsupportedField            2  a key this kernel or build cannot serve; details name key and value
├── BadEnvironment              4  CNI_* variables missing or malformed
├── IoFailed                    5  stdin, or a file of ours, could not be read or written
├── DecodingFailed              6  not JSON, or not an object
├── InvalidNetworkConfig        7  an invalid value in the config
├── InvalidNetns                8  CNI_NETNS is not a network namespace, or is the plugin's own
├── TryAgainLater              11  the same call may succeed later
├── NotAvailable               50  STATUS: an ADD would fail now
├── LimitedConnectivity        51  STATUS: attached containers may lose their network
├── KernelRefused             100  the kernel refused a change; details contain the errno text
├── NameTaken                 101  an object of that name exists and must not be used
├── PoolExhausted             102  no address left, or the requested one is taken
├── StateDrifted              103  CHECK found a difference
├── DelegateBroken            104  another plugin could not be run, or printed neither result nor error
└── DelegateFailed            own  another plugin's error document, with its own code if that is valid

Codes 1 to 99 are the specification's (SPEC.md, section "Error"), 100 and above are ours.
"""

import errno
import os

_SHORTAGES = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.ENOSPC, errno.EAGAIN))


class CniError(Exception):
    """An error document for the runtime: a message of one sentence, and details that name key and value."""

    code = 999

    def __init__(self, msg: str, details: str = "") -> None:
        super().__init__(msg)
        self.msg = msg
        self.details = details

    def full_details(self) -> str:
        """Return the details and the notes that were added while the error propagated."""
        return "; ".join(part for part in (self.details, *getattr(self, "__notes__", ())) if part)


def foreseen(err: Exception) -> CniError:
    """Return a CniError unchanged, a shortage as code 11, and any other exception as an internal error."""
    if isinstance(err, CniError):
        return err
    if isinstance(err, MemoryError):
        return TryAgainLater("the host is short of resources: out of memory")
    if isinstance(err, OSError) and err.errno in _SHORTAGES:
        return TryAgainLater(
            f"the host is short of resources: {os.strerror(err.errno)}", f"errno {err.errno}"
        )
    return CniError(f"internal error: {err}", type(err).__name__)


class Unsure(BaseException):
    """Something that a lean module of the frozen plugins leaves to the genuine one, to start over with.

    Raised by packaging/lean, caught by engine/run.py, and no Exception, so that nothing between handles it.
    It is raised before anything was changed: configs are read first.
    """


class IncompatibleVersion(CniError):
    code = 1


class UnsupportedField(CniError):
    code = 2


class BadEnvironment(CniError):
    code = 4


class IoFailed(CniError):
    code = 5


class DecodingFailed(CniError):
    code = 6


class InvalidNetworkConfig(CniError):
    code = 7


class InvalidNetns(CniError):
    code = 8


class TryAgainLater(CniError):
    code = 11


class NotAvailable(CniError):
    code = 50


class LimitedConnectivity(CniError):
    code = 51


class KernelRefused(CniError):
    """The kernel refused a step.

    :param errno: the error number, for callers that react to one kind of refusal.
    """

    code = 100

    def __init__(self, msg: str, details: str = "", errno: int = 0) -> None:
        super().__init__(msg, details)
        self.errno = errno


class NameTaken(CniError):
    code = 101


class PoolExhausted(CniError):
    code = 102


class StateDrifted(CniError):
    code = 103


class DelegateBroken(CniError):
    code = 104


class DelegateFailed(CniError):
    """An IPAM executable failed; its code, message and details are passed on unchanged."""

    def __init__(self, msg: str, details: str = "", code: int = DelegateBroken.code) -> None:
        super().__init__(msg, details)
        self.code = code
