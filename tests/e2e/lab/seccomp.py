"""A system call that the kernel refuses, as a node's security module or a runtime's profile may have it."""

from __future__ import annotations

import ctypes
import errno
import platform
import struct

MEMFD_CREATE = {"x86_64": 319, "aarch64": 279}
_SET_NO_NEW_PRIVS, _SET_SECCOMP, _MODE_FILTER = 38, 22, 2  # linux/prctl.h, linux/seccomp.h
_LOAD, _IF_EQUAL, _RETURN = 0x20, 0x15, 0x06  # linux/bpf_common.h
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def refuse_memory_files() -> None:
    """Have memfd_create() fail with EPERM in this process and its children; for `preexec_fn`."""
    steps = [
        (_LOAD, 0, 0, 0),
        (_IF_EQUAL, 0, 1, MEMFD_CREATE[platform.machine()]),
        (_RETURN, 0, 0, _ERRNO | errno.EPERM),
        (_RETURN, 0, 0, _ALLOW),
    ]
    code = b"".join(struct.pack("=HBBI", *step) for step in steps)
    program = _Program(len(steps), code)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
        _SET_SECCOMP, _MODE_FILTER, ctypes.byref(program)
    ):
        raise OSError(ctypes.get_errno(), "prctl")
