"""Who is asked, as far as there is room, and what the answers make of it."""

from ipaddress import ip_address

from cni_plugins.cli.lab import ping
from cni_plugins.cli.lab.build import Attached
from cni_plugins.cli.lab.ping import Answers, Count, PingSource
from cni_plugins.cli.lab.topology import Lab, LabOptions, plan


def attached(lab: Lab) -> list[Attached]:
    """Give host n's container c the address 10.0.n.c."""
    return [
        Attached(container, [f"10.0.{number}.{index}"], 0.1)
        for number, host in enumerate(lab.hosts, 1)
        for index, container in enumerate(host.containers, 1)
    ]


def texts(question: PingSource) -> list[str]:
    return [str(address) for address, _ in question.targets]


def test_containers_ask_all_others_and_hosts_all() -> None:
    lab = plan(LabOptions("demo", hosts=2, containers=2))
    asked = {question.netns: texts(question) for question in ping.ping_sources(lab, attached(lab), 1)}
    assert asked == {
        "demo-h1": ["10.0.1.1", "10.0.1.2", "10.0.2.1", "10.0.2.2"],
        "demo-h1-c1": ["10.0.1.2", "10.0.2.1", "10.0.2.2"],
        "demo-h1-c2": ["10.0.1.1", "10.0.2.1", "10.0.2.2"],
        "demo-h2": ["10.0.2.1", "10.0.2.2", "10.0.1.1", "10.0.1.2"],
        "demo-h2-c1": ["10.0.2.2", "10.0.1.1", "10.0.1.2"],
        "demo-h2-c2": ["10.0.2.1", "10.0.1.1", "10.0.1.2"],
    }


def test_with_little_room_each_asks_the_hosts_that_follow() -> None:
    lab = plan(LabOptions(hosts=4))
    by_host = [question for question in ping.ping_sources(lab, attached(lab), 1) if question.is_host]
    assert [{host for _, host in question.targets} for question in by_host] == [
        {0, 1},
        {1, 2},
        {2, 3},
        {3, 0},
    ]


def test_where_neighbours_are_there_for_good_there_is_room_for_all() -> None:
    assert ping.reach(plan(LabOptions(hosts=250)), 1024) == 249
    assert ping.reach(plan(LabOptions(hosts=250, direct_routing="always")), 0) == 249


def test_where_they_are_learned_the_kernels_limit_counts() -> None:
    for options in (LabOptions(mode="l2"), LabOptions(zero_control=True), LabOptions(backend="multicast")):
        hundred = options._replace(hosts=100)
        assert ping.reach(plan(options), 1024) == 2
        few = ping.reach(plan(hundred), 1024)
        assert 1 <= few < 10
        assert ping.reach(plan(hundred._replace(containers=2)), 1024) <= few
        assert ping.reach(plan(hundred), 1 << 20) == 99


def test_the_limit_that_is_named_is_enough_and_not_much_more() -> None:
    for options in (LabOptions(hosts=100, mode="l2"), LabOptions(hosts=7, containers=3, zero_control=True)):
        lab = plan(options)
        assert ping.reach(lab, ping.room_for_all(lab)) == len(lab.hosts) - 1
        assert ping.reach(lab, ping.room_for_all(lab) - 2) < len(lab.hosts) - 1


def test_the_smallest_lab_and_the_least_room_ask_somebody() -> None:
    assert ping.reach(plan(LabOptions(hosts=1, mode="l2")), 1024) == 0
    assert ping.reach(plan(LabOptions(hosts=100, mode="l2")), 1) == 1


def test_a_single_host_asks_its_own_containers_once() -> None:
    lab = plan(LabOptions("demo", hosts=1, containers=2, mode="l2"))
    within = ping.reach(lab, 1024)
    assert [texts(question) for question in ping.ping_sources(lab, attached(lab), within)] == [
        ["10.0.1.1", "10.0.1.2"],
        ["10.0.1.2"],
        ["10.0.1.1"],
    ]


def test_answers_become_a_matrix_of_hosts_and_the_missing_are_named() -> None:
    lab = plan(LabOptions("demo", hosts=2))
    asked = ping.ping_sources(lab, attached(lab), 1)
    every = {ip_address("10.0.1.1"): 0.001, ip_address("10.0.2.1"): 0.002}
    answers = [
        Answers(every, 0),
        Answers({}, 0),
        Answers(every, 1),
        Answers({ip_address("10.0.1.1"): 0.5}, 0),
    ]
    report = ping.report(lab, asked, answers, 1)
    assert report.matrix == ((Count(1, 1), Count(2, 1)), (Count(2, 2), Count(1, 1)))
    assert (report.containers, report.hosts) == (Count(2, 1), Count(4, 4))
    assert report.missing == (("demo-h1-c1", "10.0.2.1"),)
    assert not report.is_whole
    assert (report.late, report.slowest, report.reach) == (1, 0.5, 1)
