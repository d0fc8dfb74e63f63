"""Counts the requests that workers report, and serves metrics to Prometheus, in a process of its own.

Requests are counted as they are reported; workers and leases are read at each scrape. Callers send the names,
so the number of different label values is limited. The library's own process and platform collectors are left
out: they would describe this process, and users would take that for the agent.
"""

import os
import select
import signal
import threading
import time
from collections.abc import Iterable
from contextlib import suppress

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from cni_plugins.agent.metrics.address import MetricsAddress
from cni_plugins.agent.metrics.channel import LONGEST, Channel, RequestReport
from cni_plugins.agent.metrics.http import MetricsServer
from cni_plugins.agent.scoreboard import Scoreboard
from cni_plugins.engine.build import BUILD
from cni_plugins.engine.registry import NAMES
from cni_plugins.errors import CniError
from cni_plugins.ipam_hostlocal.config import HostLocal
from cni_plugins.ipam_hostlocal.config import parse as parse_pool
from cni_plugins.ipam_hostlocal.usage import usage
from cni_plugins.keeper import overview
from cni_plugins.protocol import request as requests

OTHER = "other"
_COMMANDS = ("ADD", "DEL", "CHECK", "GC", "STATUS")
_NETWORKS = 1000
_CODES = 100
_BUCKETS = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
_AT_ONCE = 256  # reports, between two checks of the lifeline
_ANY_DEL = {"CNI_COMMAND": "DEL", "CNI_CONTAINERID": "any", "CNI_IFNAME": "any", "CNI_PATH": "/"}


def run(channel: Channel, address: MetricsAddress, scoreboard: Scoreboard, lifeline: int) -> None:
    """Count and serve until the lifeline is closed."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the parent acts on them
    os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)  # with it the library would count in files
    disable_created_metrics()  # type: ignore[no-untyped-call]  # the library has no annotations here
    registry = CollectorRegistry()
    counts = RequestCounts(registry)
    registry.register(AgentCollector(scoreboard, counts))
    server = MetricsServer(address, registry)
    # Scrapers may be slow, so other threads serve them, while this one keeps the channel's buffer empty.
    threading.Thread(target=server.serve, daemon=True).start()
    events = select.poll()
    events.register(channel, select.POLLIN)
    events.register(lifeline, 0)
    while lifeline not in (ready for ready, _ in events.poll()):
        for _ in range(_AT_ONCE):
            report = channel.receive()
            if report is None:
                break
            counts.add(report)
    server.close()


class LabelValues:
    """Maps names sent by callers to label values, of which there are few enough, short and printable."""

    def __init__(self, most: int, known: Iterable[str] = ()) -> None:
        self._most = most
        self._known = {OTHER, *known}

    def label(self, name: str) -> str:
        """Return the name; OTHER if it is too long, unprintable, or one too many."""
        if name in self._known:
            return name
        if len(self._known) > self._most or len(name) > LONGEST or not name.isprintable():
            return OTHER
        self._known.add(name)
        return name


class RequestCounts:
    """Counters of all reported requests, and the newest pool of each network."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.pools: dict[str, HostLocal] = {}
        self._plugins, self._commands = LabelValues(0, NAMES), LabelValues(0, _COMMANDS)
        self._networks, self._codes = LabelValues(_NETWORKS), LabelValues(_CODES)
        call = ("plugin", "command")
        self._requests = Counter(
            "cni_requests_total",
            "Requests that the agent answered.",
            (*call, "network"),
            registry=registry,
        )
        self._failures = Counter(
            "cni_request_failures_total",
            "Requests answered with an error, by its CNI code.",
            (*call, "network", "code"),
            registry=registry,
        )
        self._seconds = Histogram(
            "cni_request_duration_seconds",
            "Time from a request's arrival to its answer.",
            call,
            registry=registry,
            buckets=_BUCKETS,
        )
        self._lost = Counter(
            "cni_agent_reports_lost_total",
            "Requests missing in these counts, because their reports were dropped.",
            registry=registry,
        )

    def add(self, report: RequestReport) -> None:
        call = (self._plugins.label(report.plugin), self._commands.label(report.command))
        network = self._networks.label(report.network)
        self._requests.labels(*call, network).inc()
        self._seconds.labels(*call).observe(report.seconds)
        if report.code:
            self._failures.labels(*call, network, self._codes.label(str(report.code))).inc()
        self._lost.inc(report.lost)
        if report.pool:
            self._remember(report.pool.encode())

    def _remember(self, text: bytes) -> None:
        """Keep the newest pool of a network, if host-local accepts it."""
        with suppress(CniError):
            # DEL requires the fewest keys of a config; channel.py has removed the others.
            request = requests.parse(_ANY_DEL, lambda limit: text[:limit])
            if self._networks.label(request.network) == request.network != OTHER:
                self.pools[request.network] = parse_pool(request)


class AgentCollector(Collector):
    """Collects, at each scrape, the workers' state from the scoreboard and leases from their directories."""

    def __init__(self, scoreboard: Scoreboard, counts: RequestCounts) -> None:
        self._scoreboard = scoreboard
        self._counts = counts

    def collect(self) -> Iterable[Metric]:
        yield from self._agent()
        yield from self._repairs()
        yield from _networks()
        yield from self._leases()

    def describe(self) -> Iterable[Metric]:
        """Return nothing, so that registering does not collect: no other collector has these names."""
        return ()

    def _agent(self) -> Iterable[Metric]:
        slots = self._scoreboard.slots
        yield InfoMetricFamily("cni_agent_build", "Build of the running agent.", value={"build": BUILD})
        yield GaugeMetricFamily(
            "cni_agent_start_time_seconds", "Unix time of the agent's start.", self._scoreboard.started
        )
        yield GaugeMetricFamily("cni_agent_workers", "Processes that serve requests.", len(slots))
        busy = sum(slot.busy_since > 0 for slot in slots)
        yield GaugeMetricFamily("cni_agent_workers_busy", "Workers with a request under way.", busy)
        replaced = sum(slot.status()["recycled"] for slot in slots)
        yield CounterMetricFamily(
            "cni_agent_workers_replaced", "Workers that ended, planned or not.", replaced
        )
        refusals = CounterMetricFamily(
            "cni_agent_refusals", "Calls refused and left to the executable, by reason.", labels=["reason"]
        )
        for reason, count in self._scoreboard.refusals().items():
            refusals.add_metric([reason], count)
        yield refusals

    def _repairs(self) -> Iterable[Metric]:
        count = self._scoreboard.repairs.status()
        what = "Times that something was repaired which another program had removed."
        yield CounterMetricFamily("cni_repairs", what, count["repairs"])
        what = "Times that all attachments were looked at."
        yield CounterMetricFamily("cni_repair_looks", what, count["looks"])
        yield CounterMetricFamily("cni_repaired_steps", "Differences that were repaired.", count["steps"])
        yield CounterMetricFamily(
            "cni_repair_failures", "Attachments and networks that could not be repaired.", count["failures"]
        )

    def _leases(self) -> Iterable[Metric]:
        used = GaugeMetricFamily("cni_leases_used", "Leased addresses of a network.", labels=["network"])
        free = GaugeMetricFamily("cni_leases_free", "Free addresses of a network.", labels=["network"])
        for network, pool in self._counts.pools.copy().items():
            with suppress(OSError):  # no value is better than a wrong one
                found = usage(pool, network)
                used.add_metric([network], found.used)
                free.add_metric([network], found.free)
        yield used
        yield free


def _networks() -> Iterable[Metric]:
    """Yield how the keeper stands with the store of each network."""
    state = GaugeMetricFamily(
        "cni_network_state",
        "1 for the state that a network in a store is in: following, broken, held or refused.",
        labels=["network", "registry", "state"],
    )
    peers = GaugeMetricFamily("cni_network_peers", "Other hosts of a network.", labels=["network"])
    silent = GaugeMetricFamily("cni_network_silent_peers", "Those that show no life.", labels=["network"])
    age = GaugeMetricFamily(
        "cni_network_confirmed_seconds",
        "Time since the store last confirmed the peers.",
        labels=["network"],
    )
    applied = CounterMetricFamily(
        "cni_network_changes_applied", "Times that the kernel was brought in line.", labels=["network"]
    )
    for one in overview.states():
        name = [one["network"]]
        state.add_metric([*name, one.get("registry", OTHER), one["state"]], 1)
        peers.add_metric(name, one.get("peers", 0))
        silent.add_metric(name, one.get("silentCount", 0))
        if one.get("confirmed"):
            age.add_metric(name, max(0.0, time.time() - one["confirmed"]))
        applied.add_metric(name, one.get("applied", 0))
    yield from (state, peers, silent, age, applied)
