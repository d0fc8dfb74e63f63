"""What a kernel without routes, or without IPv6, says to whoever looks one up."""

import errno
from ipaddress import ip_address
from typing import Any, cast

import pytest

from cni_plugins.kernel.ip import route_lookup
from cni_plugins.kernel.netlink.socket import Refused
from cni_plugins.kernel.session.session import Session


class Refusing:
    """Stands for a session whose kernel refuses every question."""

    def __init__(self, number: int) -> None:
        self.number = number

    def rtnl(self, _where: Any) -> Any:
        return self

    def ask(self, _message: Any) -> Any:
        raise Refused(self.number, "", 0)


@pytest.mark.parametrize(
    "number", [errno.ENETUNREACH, errno.EACCES, errno.EINVAL, errno.EOPNOTSUPP, errno.EAFNOSUPPORT]
)
def test_where_there_is_no_route_none_is_found(number: int) -> None:
    """EOPNOTSUPP is the answer of a kernel that was booted with ipv6.disable=1."""
    session = cast("Session", Refusing(number))
    assert route_lookup.routes_to(session, (ip_address("3fff::1"), ip_address("203.0.113.1"))) == {}
    assert route_lookup._default_routes6(session, "host") == []


def test_other_refusals_are_passed_on() -> None:
    with pytest.raises(Refused):
        route_lookup.routes_to(cast("Session", Refusing(errno.ENOMEM)), (ip_address("3fff::1"),))
