"""The metrics page of a running agent."""

import http.client
import json
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.agent.rig import BUILD, Agent, call
from tests.integration.conftest import Bed

Start = Callable[..., Agent]


class Unix(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=10)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def fetched(connection: http.client.HTTPConnection, path: str = "/metrics") -> tuple[int, bytes]:
    connection.request("GET", path)
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    return answer.status, data


def scraped(connection: http.client.HTTPConnection) -> dict[str, float]:
    """Return the page as sample to value; its descriptions and types must be right."""
    status, data = fetched(connection)
    assert status == 200
    found = {}
    for family in text_string_to_metric_families(data.decode()):
        for sample in family.samples:
            labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


def conf(tmp_path: Path, **keys: Any) -> bytes:
    ipam = {"type": "host-local", "subnet": "10.1.0.0/29", "dataDir": str(tmp_path / "leases")}
    whole = {"cniVersion": "1.1.0", "name": "net1", "type": "host-local", "ipam": ipam, **keys}
    return json.dumps(whole).encode()


@pytest.fixture
def served(start: Start, tmp_path: Path) -> Agent:
    agent = start(metrics=f"unix:{tmp_path / 'run' / 'metrics.sock'}")
    agent.wait("metrics at")
    return agent


def unix(agent: Agent) -> Unix:
    return Unix(agent.socket.parent / "metrics.sock")


def test_a_page_over_a_unix_socket(served: Agent, warm: Path, tmp_path: Path) -> None:
    assert (tmp_path / "run" / "metrics.sock").stat().st_mode & 0o777 == 0o600
    for container in ("c1", "c2"):
        answer = call(
            warm / "host-local", "ADD", conf(tmp_path), **served.variables(), CNI_CONTAINERID=container
        )
        assert answer.code == 0
    call(warm / "host-local", "ADD", conf(tmp_path, name="a b"), **served.variables())
    call(warm / "host-local", "ADD", b"{}", CNI_NETNS="/proc/self/ns/net", **served.variables())
    page = scraped(unix(served))
    labels = "command=ADD,network=net1,plugin=host-local"
    assert page[f"cni_requests_total{{{labels}}}"] == 2
    assert page["cni_request_failures_total{code=7,command=ADD,network=a b,plugin=host-local}"] == 1
    assert page["cni_request_duration_seconds_count{command=ADD,plugin=host-local}"] == 3
    assert page["cni_leases_used{network=net1}"] == 2
    assert page["cni_leases_free{network=net1}"] == 3
    assert page["cni_agent_refusals_total{reason=place}"] == 1
    assert page["cni_agent_workers{}"] == 2
    assert page[f"cni_agent_build_info{{build={BUILD}}}"] == 1
    assert not [name for name in page if name.startswith(("python_", "process_")) or "_created" in name]
    call(warm / "host-local", "DEL", conf(tmp_path), **served.variables(), CNI_CONTAINERID="c2")
    assert scraped(unix(served))["cni_leases_used{network=net1}"] == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_a_page_over_tcp(bed: Bed, start: Start, warm: Path, tmp_path: Path, host: str) -> None:
    if ":" in host and not bed.host.run("ip", "-6", "address", "show", "dev", "lo"):
        pytest.skip("there is no IPv6 here")
    inside = ["nsenter", f"--net={bed.host.path}"]
    agent = start(inside=inside, metrics=f"{host}:0")
    shown, port = agent.wait("metrics at").removeprefix("metrics at ").rsplit(":", 1)
    assert shown == host
    call(warm / "host-local", "STATUS", conf(tmp_path), inside=inside, **agent.variables())
    counter = "cni_requests_total{command=STATUS,network=net1,plugin=host-local}"
    with bed.inside():
        for _ in range(100):  # a request is reported after its answer
            page = scraped(http.client.HTTPConnection(host.strip("[]"), int(port), timeout=10))
            if counter in page:
                break
            time.sleep(0.05)
    assert page[counter] == 1


@pytest.mark.parametrize(
    ("path", "status"), [("/metrics", 200), ("/metrics?x=1", 200), ("/", 404), ("/metrics/x", 404)]
)
def test_the_page_has_one_place(served: Agent, path: str, status: int) -> None:
    assert fetched(unix(served), path)[0] == status


@pytest.mark.parametrize("method", ["POST", "PUT", "NONSENSE"])
def test_nothing_can_be_sent(served: Agent, method: str) -> None:
    connection = unix(served)
    connection.request(method, "/metrics", b"x")
    assert connection.getresponse().status == 501
    connection.close()


def test_slow_scrapers_keep_neither_reports_nor_others_waiting(
    served: Agent, warm: Path, tmp_path: Path
) -> None:
    slow = [socket.socket(socket.AF_UNIX) for _ in range(3)]
    for one in slow:
        one.connect(str(tmp_path / "run" / "metrics.sock"))
        one.send(b"GET /metrics HTTP/1.0\r\n")
    for _ in range(20):
        call(warm / "host-local", "STATUS", conf(tmp_path), **served.variables())
    page = scraped(unix(served))
    assert page["cni_requests_total{command=STATUS,network=net1,plugin=host-local}"] == 20
    assert page["cni_agent_reports_lost_total{}"] == 0
    for one in slow:
        one.close()


def test_too_many_scrapers_are_turned_away_and_dawdlers_hung_up_on(served: Agent, tmp_path: Path) -> None:
    slow = [socket.socket(socket.AF_UNIX) for _ in range(10)]
    for one in slow:
        one.settimeout(20)
        one.connect(str(tmp_path / "run" / "metrics.sock"))
    begun = time.monotonic()
    turned_away = [one for one in slow if one.recv(1) == b""]
    assert turned_away == slow
    assert 5 < time.monotonic() - begun < 15
    for one in slow:
        one.close()
    assert scraped_in_time(served)
    assert len(served.journal()) == 2


def scraped_in_time(agent: Agent) -> dict[str, float]:
    """Return the page as soon as a thread that hung up on its scraper makes room for another."""
    end = time.monotonic() + 10
    while True:
        try:
            return scraped(unix(agent))
        except OSError:
            assert time.monotonic() < end, "nobody is served any more"
            time.sleep(0.1)


def test_an_exporter_that_was_killed_comes_back(served: Agent, warm: Path, tmp_path: Path) -> None:
    time.sleep(1)
    os.kill(exporter(served), signal.SIGKILL)
    served.wait("metrics at", 2)
    call(warm / "host-local", "STATUS", conf(tmp_path), **served.variables())
    page = scraped(unix(served))
    assert page["cni_requests_total{command=STATUS,network=net1,plugin=host-local}"] == 1


def exporter(agent: Agent) -> int:
    workers = {worker["pid"] for worker in agent.page()["workers"]}
    pid = agent.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    (found,) = set(map(int, children)) - workers
    return found


def test_it_ends_with_the_agent_and_takes_its_socket_away(served: Agent, tmp_path: Path) -> None:
    begun = time.monotonic()
    assert served.stop() == 0
    assert time.monotonic() - begun < 5
    assert not (tmp_path / "run" / "metrics.sock").exists()


def test_it_is_there_again_after_a_hangup(served: Agent) -> None:
    served.process.send_signal(signal.SIGHUP)
    served.wait("metrics at", 2)
    assert scraped(unix(served))["cni_agent_workers{}"] == 2


def test_requests_are_served_while_the_address_is_not_to_be_had(
    start: Start, warm: Path, tmp_path: Path
) -> None:
    path = tmp_path / "metrics.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        agent = start(metrics=f"unix:{path}")
        assert "Address already in use" in agent.wait("metrics: cannot listen")
        assert call(warm / "host-local", "STATUS", conf(tmp_path), **agent.variables()).code == 0
    agent.wait("metrics at")
    assert scraped(Unix(path))["cni_requests_total{command=STATUS,network=net1,plugin=host-local}"] == 1


def test_an_address_for_everybody_is_refused(start: Start) -> None:
    agent = start(metrics="0.0.0.0:9100")
    assert agent.process.wait(20) == 1
    assert agent.journal() == [
        "agent: --metrics 0.0.0.0:9100: neither unix:/PATH, 127.0.0.1:PORT nor [::1]:PORT"
    ]
