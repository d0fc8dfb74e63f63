"""Addresses of a link that vanishes while it is looked at."""

import errno
from typing import Any

import pytest

from cni_plugins.kernel.ip import addresses
from cni_plugins.kernel.netlink.socket import Refused
from cni_plugins.steps.step import HOST


class Kernel:
    """A session whose kernel refuses every dump."""

    def __init__(self, number: int) -> None:
        self.number = number

    def rtnl(self, _where: Any) -> Any:
        return self

    def dump(self, _message: object) -> None:
        raise Refused(self.number, "", 0)


def test_a_link_that_is_gone_has_no_addresses() -> None:
    kernel: Any = Kernel(errno.ENODEV)
    assert addresses.on_link(kernel, HOST, 7) == []


def test_another_refusal_is_an_error() -> None:
    kernel: Any = Kernel(errno.ENOMEM)
    with pytest.raises(Refused):
        addresses.on_link(kernel, HOST, 7)
