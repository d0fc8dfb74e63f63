from cni_plugins.keeper.silence import Silence

NODES = ("h1", "h2", "h3", "h4")


def watch(silence: Silence, live: tuple[str, ...], times: range) -> None:
    for now in times:
        silence.observe(NODES, live, "h1", float(now))


def test_a_silent_node_is_counted_by_own_observation() -> None:
    silence = Silence({})
    watch(silence, ("h1", "h2", "h3"), range(0, 101, 20))
    assert silence.silent() == ["h4"]
    assert silence.seconds["h4"] == 100.0
    assert silence.reclaimable(100, NODES) == ["h4"]
    assert silence.reclaimable(101, NODES) == []
    assert silence.reclaimable(0, NODES) == []


def test_a_node_that_shows_life_begins_anew() -> None:
    silence = Silence({"h4": 1000})
    silence.observe(NODES, NODES, "h1", 0.0)
    assert silence.silent() == []


def test_time_in_which_nothing_was_seen_does_not_count() -> None:
    silence = Silence({"h4": 50})
    silence.observe(NODES, ("h1", "h2", "h3"), "h1", 0.0)
    silence.observe(NODES, ("h1", "h2", "h3"), "h1", 100_000.0)
    assert silence.seconds["h4"] == 50 + 60


def test_a_host_that_is_not_seen_itself_concludes_nothing() -> None:
    silence = Silence({})
    watch(silence, (), range(0, 1001, 20))
    assert silence.silent() == []


def test_nobody_is_reclaimed_while_most_are_silent() -> None:
    silence = Silence({})
    watch(silence, ("h1",), range(0, 1001, 20))
    assert silence.silent() == ["h2", "h3", "h4"]
    assert silence.reclaimable(10, NODES) == []


def test_what_strangers_wrote_into_the_file_does_no_harm() -> None:
    assert Silence({"h2": "x", "h3": None, "h4": True}).silent() == []
