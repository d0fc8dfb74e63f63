"""What the frozen program loads on each road: a module that sneaks in costs every pod its milliseconds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.lab.host import Host
from tests.e2e.lab.roads import LISTS, OURS, ROAD, ROADS, common, walk

pytestmark = pytest.mark.needs("ip", "nsenter", "unshare")


def test_every_road_loads_what_it_is_known_to_load(node: Host, tmp_path: Path) -> None:
    """Our own modules exactly; of others nothing new, as releases of Python differ in what they need."""
    known = {name: set(modules.split()) for name, modules in json.loads(LISTS.read_text()).items()}
    assert known.keys() == ROADS.keys()
    walked = walk(node, tmp_path)
    assert set(ROAD.read_text().split()) == set(common(walked)), "write the road anew (lab/roads.py)"
    found = {name: set(modules) - {"|"} for name, modules in walked.items()}
    sneaked = {name: sorted(found[name] - known[name]) for name in ROADS}
    gone = {name: sorted(m for m in known[name] - found[name] if m.startswith(OURS)) for name in ROADS}
    assert not any(sneaked.values()), f"write the lists anew if this is meant (lab/roads.py): {sneaked}"
    assert not any(gone.values()), f"no longer loaded, write the lists anew (lab/roads.py): {gone}"
