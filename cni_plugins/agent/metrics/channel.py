"""Sends reports from the workers to the metrics process: one datagram for each request, after its answer.

Reporting must never delay or fail a request. When the socket buffer is full a report is dropped, and the next
one carries the number of lost reports. exporter.py counts in a separate process, so that no worker spends
memory on the Prometheus library and HTTP.
"""

import json
import socket
import time
from typing import Any, NamedTuple

from cni_plugins.agent.journal import ServedRequest
from cni_plugins.agent.protocol import Call
from cni_plugins.protocol import json_text
from cni_plugins.protocol.fields import Conf, get

LONGEST = 255  # characters of a name; protocol/request.py allows no longer name for a network
_LARGEST = 16 << 10  # bytes of a report
_ROOM = 1 << 20  # bytes of the send buffer; the kernel limits it to net.core.wmem_max
_REMEMBERED = 1000  # reported pools of which the time is remembered
_REPEAT = 60.0  # seconds after which a pool is reported again, as the exporter may have been restarted
_RANGE_KEYS = ("type", "dataDir", "subnet", "rangeStart", "rangeEnd", "gateway", "ranges")


class RequestReport(NamedTuple):
    """A worker's report of one request.

    :param lost: how many reports of this worker were dropped before this one.
    :param pool: the keys of the config that define host-local's ranges, as JSON; empty if reported recently.
    """

    plugin: str
    command: str
    network: str
    code: int
    seconds: float
    lost: int
    pool: str


class Channel:
    """A socket pair from all workers to the exporter, created before they are forked."""

    def __init__(self) -> None:
        # On a socket pair, datagrams are limited by the send buffer and not by net.unix.max_dgram_qlen.
        self._near, self._far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _ROOM)
        self._near.settimeout(0)
        self._far.settimeout(0)
        self._lost = 0
        self._pools: dict[str, float] = {}

    def report(self, record: ServedRequest, call: Call) -> None:
        """Report one request, or count it as lost if the buffer is full; never waits and never fails."""
        pool = self._if_due(_pool(call))
        report = RequestReport(
            plugin=record.plugin[:LONGEST],
            command=record.command[:LONGEST],
            # One character more than a name may have, so that the exporter recognises one that is too long.
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

    def _if_due(self, pool: str) -> str:
        """Return the pool, or an empty text if it was reported less than _REPEAT seconds ago."""
        if len(self._pools) >= _REMEMBERED:
            self._pools.clear()
        return pool if time.monotonic() - self._pools.get(pool, -_REPEAT) >= _REPEAT else ""

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when a report arrives."""
        return self._far.fileno()

    def receive(self) -> RequestReport | None:
        """Return the next report, or None."""
        try:
            return RequestReport(*json.loads(self._far.recv(2 * _LARGEST)))
        except BlockingIOError:
            return None


def _pool(call: Call) -> str:
    try:
        conf = json_text.load(call.read(1 << 20))
        ipam = get(conf, "ipam") if isinstance(conf, dict) else None
        if not isinstance(ipam, dict) or get(ipam, "type") != "host-local":
            return ""
        text = json.dumps(_pool_config(conf, ipam))
    except (OSError, ValueError):
        return ""
    return text if len(text) < _LARGEST // 2 else ""


def _pool_config(conf: Conf, ipam: Conf) -> dict[str, Any]:
    """Return the config without the keys that differ between attachments."""
    runtime = get(conf, "runtimeConfig")
    ranges = get(runtime, "ipRanges") if isinstance(runtime, dict) else None
    return {
        "cniVersion": get(conf, "cniVersion"),
        "name": get(conf, "name"),
        "ipam": {key: get(ipam, key) for key in _RANGE_KEYS},
        "runtimeConfig": {"ipRanges": ranges},
    }
