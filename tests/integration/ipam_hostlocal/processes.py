"""Processes of the test's own: run in a fork, killed at a chosen line, or the reference's executable."""

import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from cni_plugins.protocol.request import Request
from tests import cni

REFERENCE = Path("/usr/lib/cni/host-local")
ROOMS = ("/cni_plugins/ipam_hostlocal/", "/cni_plugins/leases/")


def request(
    data_dir: Path, container_id: str, subnet: str = "10.1.0.0/24", valid: Iterable[tuple[str, str]] = ()
) -> Request:
    ranges = [[{"subnet": one}] for one in subnet.split(" ")]
    conf = {"cniVersion": "1.0.0", "name": "net", "ipam": {"ranges": ranges, "dataDir": str(data_dir)}}
    return Request(
        "ADD",
        "net",
        container_id,
        "/x",
        "eth0",
        conf=conf,
        valid_attachments=tuple(valid),
        cni_version="1.0.0",
    )


def leased(data_dir: Path) -> dict[str, str]:
    skipped = ("lock", "last_reserved_ip")
    files = (path for path in (data_dir / "net").iterdir() if not path.name.startswith(skipped))
    return {path.name: path.read_bytes().decode() for path in files}


def forked(work: Callable[[], None]) -> int:
    """Start `work` in a child; its exit code is 0 unless it raised."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        work()
        code = 0
    finally:
        os._exit(code)


def ended(pid: int) -> int:
    """Wait for a child and return its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def killed_at(line: int, work: Callable[[], None]) -> bool:
    """Run `work` in a child that is killed at the n-th line it runs in them; say whether it got there."""

    def traced() -> None:
        left = line

        def trace(frame: FrameType, event: str, _argument: object) -> Callable[..., Any] | None:
            nonlocal left
            if not any(room in frame.f_code.co_filename for room in ROOMS):
                return None
            if event == "line":
                left -= 1
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)
            return trace

        sys.settrace(trace)
        work()

    code = ended(forked(traced))
    assert code in (0, -signal.SIGKILL)
    return code != 0


def reference(command: str, asked: Request) -> Mapping[str, Any]:
    """Run the reference; its answer, or its error document, or nothing."""
    variables = cni.environment(command, container=asked.container_id, ifname=asked.ifname)
    answer = cni.run([REFERENCE], asked.conf, variables)
    return answer.document if answer.out else {}
