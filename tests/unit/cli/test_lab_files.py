"""The files of a lab."""

import stat
from pathlib import Path

import pytest

from cni_plugins.cli.failure import Failed
from cni_plugins.cli.lab import files
from cni_plugins.cli.lab.files import Place
from cni_plugins.cli.lab.topology import LabOptions, plan

# A name that no lab has while tests run: namespaces are looked for by it.
NAME = "unittestlab"


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "labs" / NAME)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_an_order_is_read_as_it_was_written(place: Place) -> None:
    lab = plan(LabOptions(NAME, mode="l2", bum="head-end", dual_stack=True))
    with files.claimed(place):
        files.write_order(place, lab, Path("/opt/cni/bin"))
    assert files.read_order(place) == (lab, Path("/opt/cni/bin"))


def test_nobody_else_can_read_what_is_written(place: Place) -> None:
    lab = plan(LabOptions(NAME))
    with files.claimed(place):
        files.write(place.conf(lab.hosts[0]), {})
    assert mode(place.directory) == mode(place.conf(lab.hosts[0]).parent) == 0o700
    assert mode(place.conf(lab.hosts[0])) == 0o600


@pytest.mark.parametrize("content", [{}, {"options": {"colour": "red"}, "plugins": "/"}, {"options": {}}, 7])
def test_an_order_of_another_version_is_as_good_as_none(place: Place, content: object) -> None:
    files.write(place.order, content)
    assert files.read_order(place) is None


def test_no_order_is_none(place: Place) -> None:
    assert files.read_order(place) is None
    assert place.is_empty()


def test_a_second_lab_of_the_name_is_refused_while_and_after_the_first_is_built(place: Place) -> None:
    with (
        files.claimed(place),
        pytest.raises(Failed, match=f"named {NAME} already.*cnictl lab down --name {NAME}"),
        files.claimed(place),
    ):
        pass
    with pytest.raises(Failed, match="already"), files.claimed(place):
        pass
    assert not place.is_empty()


def test_a_lab_that_is_being_built_is_left_to_its_builder(place: Place) -> None:
    with files.claimed(place), pytest.raises(Failed, match="by another command"), files.held(place):
        pass
    with files.held(place):
        pass


def test_a_place_that_cannot_be_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(Failed, match="choose a directory with --dir"),
        files.claimed(Place(tmp_path / "file" / NAME)),
    ):
        pass
