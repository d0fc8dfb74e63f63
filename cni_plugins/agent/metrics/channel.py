"""Reports of the workers to the metrics process: one datagram for each request, after its answer.

Nothing here may delay or fail a request. A report that finds no room is dropped, and the next one says so.
Counting is exporter.py's, in a process of its own: no worker pays for Prometheus' library and HTTP in memory.
"""

import json
import socket
import time
from typing import Any, NamedTuple

from cni_plugins.agent.journal import ServedRequest
from cni_plugins.agent.protocol import Call
from cni_plugins.protocol.fields import Conf, get

LONGEST = 255  # characters of a name; spec/request.py allows no more for a network
_LARGEST = 16 << 10  # bytes of a report
_ROOM = 1 << 20  # bytes for reports under way; the kernel cuts it to net.core.wmem_max
_REMEMBERED = 1000  # pools that were reported
_REPEAT = 60.0  # seconds after which a pool is reported again, to an exporter that may be a new one
_RANGE_KEYS = ("type", "dataDir", "subnet", "rangeStart", "rangeEnd", "gateway", "ranges")


class RequestReport(NamedTuple):
    """What a worker tells of one request.

    :param lost: reports of this worker that were dropped before this one.
    :param pool: what host-local hands out addresses by, as a config of JSON; empty if told a moment ago.
    """

    plugin: str
    command: str
    network: str
    code: int
    seconds: float
    lost: int
    pool: str


class Channel:
    """From all workers to the exporter; made before they are forked."""

    def __init__(self) -> None:
        # A pair: its datagrams are bounded by the sender's buffer and not by net.unix.max_dgram_qlen.
        self._near, self._far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _ROOM)
        self._near.settimeout(0)
        self._far.settimeout(0)
        self._lost = 0
        self._pools: dict[str, float] = {}

    def tell(self, record: ServedRequest, call: Call) -> None:
        """Report one request, if there is room; never waits and never fails."""
        pool = self._news(_pool(call))
        report = RequestReport(
            plugin=record.plugin[:LONGEST],
            command=record.command[:LONGEST],
            # One character more than a name can have, for a longer one to be known as none.
            network=record.network[: LONGEST + 1],
            code=int(record.code) if abs(record.code) < 1 << 31 else -1,
            seconds=record.seconds,
            lost=self._lost,
            pool=pool,
        )
        try:
            self._near.send(json.dumps(report).encode())
        except OSError:
            self._lost += 1
            return
        self._lost = 0
        if pool:
            self._pools[pool] = time.monotonic()

    def _news(self, pool: str) -> str:
        """Return the pool unless it was reported a moment ago."""
        if len(self._pools) >= _REMEMBERED:
            self._pools.clear()
        return pool if time.monotonic() - self._pools.get(pool, -_REPEAT) >= _REPEAT else ""

    def fileno(self) -> int:
        """Return the descriptor that is readable when there is a report."""
        return self._far.fileno()

    def receive(self) -> RequestReport | None:
        """Return the next report, None when there is none."""
        try:
            return RequestReport(*json.loads(self._far.recv(2 * _LARGEST)))
        except BlockingIOError:
            return None


def _pool(call: Call) -> str:
    try:
        conf = json.loads(call.read(1 << 20))
        ipam = get(conf, "ipam") if isinstance(conf, dict) else None
        if not isinstance(ipam, dict) or get(ipam, "type") != "host-local":
            return ""
        text = json.dumps(_host_locals(conf, ipam))
    except (OSError, ValueError, RecursionError):
        return ""
    return text if len(text) < _LARGEST // 2 else ""


def _host_locals(conf: Conf, ipam: Conf) -> dict[str, Any]:
    """Leave out what differs from one attachment to the next."""
    runtime = get(conf, "runtimeConfig")
    ranges = get(runtime, "ipRanges") if isinstance(runtime, dict) else None
    return {
        "cniVersion": get(conf, "cniVersion"),
        "name": get(conf, "name"),
        "ipam": {key: get(ipam, key) for key in _RANGE_KEYS},
        "runtimeConfig": {"ipRanges": ranges},
    }
