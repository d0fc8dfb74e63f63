"""Holds the store in memory, with which others are tested, to the contract of the real ones."""

from __future__ import annotations

import pytest

from tests.memory_store import MemoryCluster
from tests.store_contract import Opener, StoreContract


class TestMemoryStore(StoreContract):
    shortest_hold = 0.4

    @pytest.fixture
    def opened(self) -> Opener:
        return MemoryCluster().store
