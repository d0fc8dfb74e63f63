"""Reports never wait and never fail; what is counted has a bound; addresses are loopback or a path."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from cni_plugins.agent import protocol
from cni_plugins.agent.journal import ServedRequest
from cni_plugins.agent.listener import CannotListen
from cni_plugins.agent.metrics import address as addresses
from cni_plugins.agent.metrics.address import MetricsAddress
from cni_plugins.agent.metrics.channel import Channel, RequestReport
from cni_plugins.agent.metrics.exporter import AgentCollector, LabelValues, RequestCounts
from cni_plugins.agent.metrics.http import listener
from cni_plugins.agent.scoreboard import Scoreboard
from cni_plugins.keeper import overview
from tests.unit.agent import calls

DONE = ServedRequest("bridge", "ADD", "net1", "c1", "eth0", 0, "", 0.0123)
PLAIN = RequestReport("bridge", "ADD", "net1", 0, 0.0123, 0, "")


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("unix:/run/m.sock", (socket.AF_UNIX, "/run/m.sock")),
        ("127.0.0.1:9100", (socket.AF_INET, ("127.0.0.1", 9100))),
        ("127.8.8.8:0", (socket.AF_INET, ("127.8.8.8", 0))),
        ("[::1]:65535", (socket.AF_INET6, ("::1", 65535))),
    ],
)
def test_usable_addresses(address: str, expected: object) -> None:
    assert addresses.parse(address) == expected


@pytest.mark.parametrize(
    "address",
    [
        "", ":", "9100", ":9100", "unix:", "unix:run/m.sock", "unix:/" + "x" * 107, "unix:/a\0b",
        "0.0.0.0:9100", "10.0.0.1:9100", "[::]:9100", "[fe80::1]:9100", "[::1%lo]:9100", "/run/m.sock",
        "[::ffff:127.0.0.1]:9100",
        "::1:9100", "[127.0.0.1]:9100", "localhost:9100", "127.0.0.1", "127.0.0.1:", "127.0.0.1:-1",
        "127.0.0.1:65536", "127.0.0.1:99999999999", "127.0.0.1:http", "127.0.0.1: 1", "127.0.0.1:\u0661",
        "[::1]", "127.1:9100", "http://127.0.0.1:9100",
    ],
)  # fmt: skip
def test_other_addresses_are_refused_in_one_sentence(address: str) -> None:
    with pytest.raises(CannotListen) as caught:
        addresses.parse(address)
    assert str(caught.value).startswith(f"--metrics {address}: ")


@contextmanager
def opened() -> Iterator[Channel]:
    """Open a channel that does not live as long as its process."""
    channel = Channel()
    try:
        yield channel
    finally:
        channel._near.close()
        channel._far.close()


@pytest.fixture
def channel() -> Iterator[Channel]:
    with opened() as found:
        yield found


def told(channel: Channel, conf: Any = None, record: ServedRequest = DONE) -> None:
    text = conf if isinstance(conf, bytes) else json.dumps(conf).encode()
    with calls.descriptors(text) as fds:
        channel.report(record, protocol.parse(calls.message(), fds, calls.BUILD, calls.HERE))


def reports(channel: Channel) -> list[RequestReport]:
    return list(iter(channel.receive, None))


def hostlocal(**ipam: Any) -> dict[str, Any]:
    return {
        "cniVersion": "1.0.0",
        "name": "net1",
        "ipam": {"type": "host-local", "subnet": "10.1.0.0/24", **ipam},
    }


def test_a_report_arrives(channel: Channel) -> None:
    told(channel)
    assert reports(channel) == [PLAIN]


def test_a_pool_is_told_once_whatever_the_runtime_adds(channel: Channel) -> None:
    told(channel, hostlocal())
    told(channel, {**hostlocal(), "prevResult": {}, "args": {"cni": {"ips": []}}})
    first, second = reports(channel)
    assert json.loads(first.pool)["ipam"]["subnet"] == "10.1.0.0/24"
    assert second.pool == ""


def test_a_changed_pool_is_told_again(channel: Channel) -> None:
    for subnet in ("10.1.0.0/24", "10.2.0.0/24", "10.1.0.0/24"):
        told(channel, hostlocal(subnet=subnet))
    assert [bool(report.pool) for report in reports(channel)] == [True, True, False]


@pytest.mark.parametrize(
    "conf",
    [
        b"", b"{", b"[" * 100_000, b'{"ipam":' * 90_000 + b"1" + b"}" * 90_000, [], {}, {"ipam": 1},
        {"ipam": {"type": "static"}}, {"ipam": {"type": ["host-local"]}}, hostlocal(ranges=["x" * 10_000]),
    ],
)  # fmt: skip
def test_a_config_without_a_pool_of_ours_is_counted_all_the_same(channel: Channel, conf: object) -> None:
    told(channel, conf)
    assert reports(channel) == [PLAIN]


_values = st.text(st.characters(), max_size=400)


@given(_values, _values, _values, st.integers())
def test_any_record_makes_a_report_of_bounded_size(
    plugin: str, command: str, network: str, code: int
) -> None:
    with opened() as channel:
        told(channel, hostlocal(), ServedRequest(plugin, command, network, "c", "i", code, "", 1.0))
        (report,) = reports(channel)
    assert len(json.dumps(report)) < 16 << 10
    counted(report)


def test_a_full_channel_loses_reports_and_says_how_many(channel: Channel) -> None:
    for _ in range(20_000):
        told_plainly(channel)
    kept = len(reports(channel))
    assert 100 < kept < 20_000
    told_plainly(channel)
    assert [report.lost for report in reports(channel)] == [20_000 - kept]
    told_plainly(channel)
    assert [report.lost for report in reports(channel)] == [0]


def told_plainly(channel: Channel) -> None:
    with open(os.devnull) as null:
        descriptors = protocol.Descriptors(null.fileno(), 0, 0)
        channel.report(DONE, protocol.Call("bridge", {}, 0o22, descriptors))


def test_a_pool_in_a_lost_report_is_told_again(channel: Channel) -> None:
    for _ in range(20_000):
        told_plainly(channel)
    told(channel, hostlocal())
    reports(channel)
    told(channel, hostlocal())
    assert [bool(report.pool) for report in reports(channel)] == [True]


def test_nobody_at_the_other_end_is_no_error(channel: Channel) -> None:
    channel._far.close()
    told(channel)


def counted(*given_reports: RequestReport, table: Scoreboard | None = None) -> dict[str, float]:
    """Return the page that these reports make, as sample to value."""
    registry = CollectorRegistry()
    counts = RequestCounts(registry)
    registry.register(AgentCollector(table or Scoreboard(2), counts))
    for report in given_reports:
        counts.add(report)
    found = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


def test_requests_are_counted_by_what_they_are() -> None:
    page = counted(PLAIN, PLAIN, PLAIN._replace(command="DEL", code=7), PLAIN._replace(seconds=70, lost=3))
    assert page["cni_requests_total{command=ADD,network=net1,plugin=bridge}"] == 3
    assert page["cni_request_failures_total{code=7,command=DEL,network=net1,plugin=bridge}"] == 1
    assert page["cni_request_duration_seconds_bucket{command=ADD,le=0.01,plugin=bridge}"] == 0
    assert page["cni_request_duration_seconds_bucket{command=ADD,le=0.02,plugin=bridge}"] == 2
    assert page["cni_request_duration_seconds_bucket{command=ADD,le=60.0,plugin=bridge}"] == 2
    assert page["cni_request_duration_seconds_count{command=ADD,plugin=bridge}"] == 3
    assert page["cni_agent_reports_lost_total{}"] == 3


def test_repairs_are_counted() -> None:
    table = Scoreboard(1)
    for steps, failures in ((0, 0), (3, 1)):
        table.repairs.looked(steps, failures)
    page = counted(table=table)
    found = {name: page[f"cni_{name}_total{{}}"] for name in ("repair_looks", "repairs", "repaired_steps")}
    assert found == {"repair_looks": 2, "repairs": 1, "repaired_steps": 3}
    assert page["cni_repair_failures_total{}"] == 1


def test_the_table_is_looked_at_when_asked() -> None:
    table = Scoreboard(3)
    table.slots[0].busy()
    table.slots[1].refused("build")
    table.slots[1].recycled()
    page = counted(table=table)
    assert page["cni_agent_workers{}"] == 3
    assert page["cni_agent_workers_busy{}"] == 1
    assert page["cni_agent_workers_replaced_total{}"] == 1
    assert page["cni_agent_refusals_total{reason=build}"] == 1
    assert page["cni_agent_refusals_total{reason=left}"] == 0
    assert page["cni_agent_build_info{build=unfrozen}"] == 1
    assert page["cni_agent_start_time_seconds{}"] == pytest.approx(table.started)


def test_there_is_a_bound_to_labels() -> None:
    reported = [PLAIN._replace(network=f"net{number}", code=1 + number % 500) for number in range(3000)]
    page = counted(*reported, *(PLAIN._replace(plugin=f"p{n}", command=f"c{n}") for n in range(100)))
    networks = [name for name in page if name.startswith("cni_requests_total{command=ADD,")]
    assert len(networks) == 1001
    assert page["cni_requests_total{command=ADD,network=other,plugin=bridge}"] == 2000
    assert page["cni_requests_total{command=other,network=net1,plugin=other}"] == 100
    assert len([name for name in page if "_failures_total" in name]) <= 1001 + 101


@pytest.mark.parametrize("name", ["x" * 256, "a\nb", "\udcff", "\x1b[31m", "\u202e"])
def test_a_name_that_is_long_or_no_text_is_one_of_the_others(name: str) -> None:
    names = LabelValues(10)
    assert names.label(name) == "other"
    assert names.label("x" * 255) == "x" * 255


def pool(tmp_path: Path, name: str = "net1", **ipam: Any) -> RequestReport:
    with opened() as channel:
        told(channel, {**hostlocal(dataDir=str(tmp_path), **ipam), "name": name})
        return reports(channel)[0]


def leases(page: dict[str, float], network: str = "net1") -> tuple[float | None, float | None]:
    used, free = (page.get(f"cni_leases_{kind}{{network={network}}}") for kind in ("used", "free"))
    return used, free


def lease(tmp_path: Path, *names: str, network: str = "net1") -> None:
    (tmp_path / network).mkdir(exist_ok=True)
    for name in ("lock", "last_reserved_ip.0", *names):
        (tmp_path / network / name).touch()


def test_leases_are_counted_as_they_are_when_asked(tmp_path: Path) -> None:
    assert leases(counted(pool(tmp_path))) == (0, 253)
    lease(tmp_path, "10.1.0.2", "10.1.0.9")
    assert leases(counted(pool(tmp_path))) == (2, 251)


def test_the_figures_are_of_the_set_with_the_fewest_free(tmp_path: Path) -> None:
    lease(tmp_path, "10.1.0.2", "10.9.0.2", "fd00::2", "fd00::3")
    six = [{"subnet": "fd00::/64"}]
    assert leases(counted(pool(tmp_path, ranges=[six]))) == (1, 252)
    assert leases(counted(pool(tmp_path, subnet=None, ranges=[six]))) == (2, pytest.approx(2**64))


def test_what_the_runtime_hands_out_by_counts(channel: Channel, tmp_path: Path) -> None:
    told(
        channel,
        {**hostlocal(dataDir=str(tmp_path)), "runtimeConfig": {"ipRanges": [[{"subnet": "10.9.0.0/30"}]]}},
    )
    lease(tmp_path, "10.9.0.2")
    assert leases(counted(*reports(channel))) == (1, 0)


def test_the_newest_pool_of_a_network_counts(tmp_path: Path) -> None:
    page = counted(pool(tmp_path), pool(tmp_path, subnet="10.1.0.0/25"))
    assert leases(page) == (0, 125)


def test_a_broken_config_leaves_the_last_good_one(tmp_path: Path) -> None:
    assert leases(counted(pool(tmp_path), pool(tmp_path, subnet="10.1.0.1/25"))) == (0, 253)


@pytest.mark.parametrize("name", ["../net1", "", ".", "a/b", "x" * 256, "a b", "other"])
def test_a_network_that_is_none_has_no_leases(tmp_path: Path, name: str) -> None:
    lease(tmp_path, "10.1.0.2")
    assert not [sample for sample in counted(pool(tmp_path, name)) if sample.startswith("cni_leases")]


def test_a_directory_that_cannot_be_listed_has_no_figure(tmp_path: Path) -> None:
    (tmp_path / "net1").write_text("")
    assert leases(counted(pool(tmp_path))) == (None, None)


def test_there_is_a_bound_to_networks_with_leases(tmp_path: Path) -> None:
    page = counted(*(pool(tmp_path, f"net{number}") for number in range(1010)))
    assert len([sample for sample in page if sample.startswith("cni_leases_used")]) == 1000


def address(path: Path) -> MetricsAddress:
    return addresses.parse(f"unix:{path}")


def test_the_page_is_for_this_user_and_its_stale_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "run" / "m.sock"
    for _ in range(2):
        with listener(address(path)):
            assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET])
def test_somebody_elses_socket_is_not_replaced(tmp_path: Path, kind: socket.SocketKind) -> None:
    path = tmp_path / "m.sock"
    with socket.socket(socket.AF_UNIX, kind) as living:
        living.bind(str(path))
        living.listen()
        with pytest.raises(OSError):
            listener(address(path))
        assert path.is_socket()


def test_a_file_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("data")
    with pytest.raises(OSError):
        listener(address(tmp_path / "precious"))
    assert (tmp_path / "precious").read_text() == "data"


def test_only_what_a_range_offers_is_leased_or_free(tmp_path: Path) -> None:
    lease(
        tmp_path, "10.1.0.1", "10.1.0.10", "10.1.0.30", "10.2.0.2", "10.3.0.2", "1.2.3.999", "fd00::2", "note"
    )
    first = {"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.10", "rangeEnd": "10.1.0.19"}
    second = {"subnet": "10.2.0.0/29", "gateway": "10.2.0.3"}
    page = counted(pool(tmp_path, subnet=None, ranges=[[first, second]]))
    assert leases(page) == (2, 9 + 4)


def test_networks_in_stores_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        {
            "network": "blue",
            "registry": "etcd",
            "state": "following",
            "peers": 5,
            "silentCount": 1,
            "applied": 3,
        },
        {"network": "red", "registry": "consul", "state": "held", "confirmed": 1.0},
    ]
    monkeypatch.setattr(overview, "states", lambda: found)
    values = counted()
    assert values["cni_network_state{network=blue,registry=etcd,state=following}"] == 1
    assert values["cni_network_state{network=red,registry=consul,state=held}"] == 1
    assert values["cni_network_peers{network=blue}"] == 5
    assert values["cni_network_silent_peers{network=blue}"] == 1
    assert values["cni_network_changes_applied_total{network=blue}"] == 3
    assert values["cni_network_confirmed_seconds{network=red}"] > 1e9
    assert "cni_network_confirmed_seconds{network=blue}" not in values
