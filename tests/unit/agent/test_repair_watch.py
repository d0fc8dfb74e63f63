"""What the process that watches the ruleset does beside waiting."""

from pathlib import Path

import pytest

from cni_plugins.agent.repair import watch
from cni_plugins.upkeep.repair import Scope


def test_the_options_of_the_agent_say_where_to_look() -> None:
    assert watch.scope((), (), "") == Scope()
    given = watch.scope(("/a", "/b"), ("/p",), "/c")
    assert given == Scope((Path("/a"), Path("/b")), (Path("/p"),), Path("/c"))


@pytest.mark.parametrize(
    ("contents", "has_some"), [((), False), (("",), False), (("nat\n",), True), (("", "filter\n"), True)]
)
def test_iptables_legacy_is_known_by_its_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, contents: tuple[str, ...], *, has_some: bool
) -> None:
    paths = [tmp_path / name for name in ("4", "6")]
    for path, content in zip(paths, contents, strict=False):
        path.write_text(content)
    monkeypatch.setattr(watch, "_LEGACY", tuple(map(str, paths)))
    assert watch._has_legacy_tables() is has_some


def test_own_processes_are_known_by_the_names_that_the_kernel_keeps() -> None:
    assert {"bridge", "cnictl", "cni-lingering"} <= watch._OWN_NAMES
    assert not [name for name in watch._OWN_NAMES if len(name) > 15]
