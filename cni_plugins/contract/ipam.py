"""What an IPAM plugin declares: five functions of the request, no kernel and no plan."""

from collections.abc import Callable
from typing import NamedTuple

from cni_plugins.spec.request import Request
from cni_plugins.spec.result import Result


class Ipam(NamedTuple):
    """An IPAM plugin.

    `reserve` answers with ips, routes and dns, and leaves nothing behind when it raises. `release` succeeds
    for an attachment it does not know, and needs no more of the config than where the leases are. `take_back`
    frees what one `reserve` answered with, and nothing the attachment had before; `is_exact` is False for one
    that cannot tell, and frees all the attachment has. `gc` releases all but `request.valid_attachments`.
    `needs_link` is True for one that looks for addresses on the attachment's own link, which has to be up
    when it is asked, and still be there when it releases.
    `check` raises StateDrifted, `status` raises NotAvailable.
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
