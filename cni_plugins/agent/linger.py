"""Leaves a process behind that answers the next calls, where no agent is installed.

packaging/handoff.c has decided that this call is the first, and listens already: those that come meanwhile
wait in its queue. The process that stays is a child of this one, as the runtime waits for the answer and
the end of the one it has started. It is the agent with a time after which it ends, and it keeps nothing of
the caller but the cgroup: no descriptor, session, directory, environment, signal disposition or protection
from the OOM killer. Where something is forbidden to the caller that is not forbidden to the host's first
process, nothing stays.
"""

import os
import signal
import socket
from contextlib import suppress

_NAME = "cni-lingering"  # in /proc/PID/comm, which has room for 15 characters
_OOM_SCORE = 500  # the caller's may be -999; this process is not missed
_PRIVILEGES = ("CapEff:", "CapBnd:", "NoNewPrivs:", "Seccomp:")


def leave_behind(lock: int, listener: int, seconds: int) -> None:
    """Fork the process that stays; return in the caller's own process only.

    :param lock: a descriptor of the locked file beside the socket; it is locked as long as that process
        lives.
    :param listener: the listening socket, which has a name.
    :param seconds: how long it stays without a call.
    """
    try:
        is_caller = not _is_like_the_first_process() or os.fork() != 0
    except OSError:  # those that wait are told when the socket is closed
        is_caller = True
    if is_caller:
        os.close(lock)
        os.close(listener)
        return
    try:
        _detach({lock, listener})
        from cni_plugins.agent import serve

        serve.linger(socket.socket(fileno=listener), lock, seconds)
    finally:
        os._exit(0)


def _is_like_the_first_process() -> bool:
    """Whether nothing is forbidden to this process but what is on the host: it is to serve all callers."""
    return _privileges("self") == _privileges("1")


def _privileges(process: str) -> list[str]:
    with open(f"/proc/{process}/status") as file:
        return [line for line in file if line.startswith(_PRIVILEGES)]


def _take_limits_of_the_first_process() -> None:
    """The caller's may be those of one command: niceness, processors, limits, groups."""
    import resource

    with suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 1))
        os.sched_setaffinity(0, os.sched_getaffinity(1))
    for name in dir(resource):
        if name.startswith("RLIMIT_"):
            with suppress(OSError, ValueError):
                limit = getattr(resource, name)
                resource.setrlimit(limit, resource.prlimit(1, limit))
    with suppress(OSError):
        os.setgroups([])
        os.setgid(0)


def _detach(kept: set[int]) -> None:
    os.setsid()
    os.chdir("/")
    os.umask(0o077)
    os.environ.clear()
    for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGKILL, signal.SIGSTOP}:
        with suppress(OSError, ValueError):  # the C library keeps some for itself
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    _take_limits_of_the_first_process()
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for fd in (0, 1, 2):  # the runtime reads the caller's to their end
        os.dup2(null, fd)
    os.close(null)
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # our own are close-on-exec, and all others came from the caller
            if (fd := int(name)) > 2 and fd not in kept and os.get_inheritable(fd):  # noqa: PLR2004
                os.close(fd)
    with suppress(OSError, ValueError), open("/proc/self/oom_score_adj", "r+") as file:
        if int(file.read()) < _OOM_SCORE:
            file.write(str(_OOM_SCORE))
    with suppress(OSError), open("/proc/self/comm", "w") as file:
        file.write(_NAME)
