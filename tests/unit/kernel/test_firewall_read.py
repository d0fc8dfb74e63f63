"""Removals of rules on kernels that have none."""

import errno
from typing import Any

import pytest

from cni_plugins.kernel.firewall import read
from cni_plugins.kernel.netlink.socket import Refused
from cni_plugins.steps.step import UNCHANGED


class Kernel:
    """A session whose netfilter socket opens, or does not, and refuses every question."""

    def __init__(self, opened: int, answered: int) -> None:
        self.opened, self.answered = opened, answered

    def nft(self) -> Any:
        if self.opened:
            raise OSError(self.opened, "")
        return self

    def ask(self, _message: object) -> None:
        if self.answered:
            raise Refused(self.answered, "", 0)


def refused(_session: Any, _step: Any) -> None:
    raise Refused(errno.EINVAL, "", 0)


@pytest.mark.parametrize(
    "kernel", [Kernel(errno.EPROTONOSUPPORT, 0), Kernel(errno.EAFNOSUPPORT, 0), Kernel(0, errno.EINVAL)]
)
def test_there_is_nothing_to_remove_without_netfilter_or_nf_tables(kernel: Any) -> None:
    assert read.where_there_are_rules(refused)(kernel, None) == UNCHANGED
    assert not read.usable(kernel)


def test_a_refusal_by_nf_tables_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "generation", lambda _session: 1)
    with pytest.raises(Refused):
        read.where_there_are_rules(refused)(Kernel(0, 0), None)  # type: ignore[arg-type]
