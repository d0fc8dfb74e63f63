"""Declares an IPAM plugin: six functions of the request, without plan and without kernel."""

import os
from collections.abc import Callable, Iterable
from typing import NamedTuple

from cni_plugins.errors import NotAvailable
from cni_plugins.protocol.request import Request
from cni_plugins.protocol.result import Result

_IPV6 = "/proc/sys/net/ipv6"  # absent where the kernel has no IPv6, or was booted with ipv6.disable=1


def require_families(versions: Iterable[int], keys: str) -> None:
    """:raises NotAvailable: when the kernel has no IPv6, and addresses of it would be given out."""
    if 6 in versions and not os.path.isdir(_IPV6):  # noqa: PLR2004
        raise NotAvailable("this kernel has no IPv6", keys)


class IpamPlugin(NamedTuple):
    """An IPAM plugin.

    :param reserve: returns ips, routes and dns; leaves nothing behind when it raises.
    :param release: succeeds for an attachment it does not know, and needs no more of the config than where
        the leases are.
    :param take_back: frees what one `reserve` returned, and nothing the attachment had before.
    :param check: raises StateDrifted.
    :param gc: releases all but `request.valid_attachments`.
    :param status: raises NotAvailable.
    :param is_exact: False for a plugin whose `take_back` cannot tell, and frees all that the attachment has.
    :param needs_link: True for a plugin that looks for addresses on the attachment's own link, which must be
        up when it is called, and must still exist when it releases.
    """

    name: str
    reserve: Callable[[Request], Result]
    release: Callable[[Request], None]
    take_back: Callable[[Request, Result], None]
    check: Callable[[Request], None]
    gc: Callable[[Request], None]
    status: Callable[[Request], None]
    is_exact: bool = True
    needs_link: bool = False
