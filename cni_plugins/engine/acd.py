"""Reserves addresses that nobody on the container's wire has (`acd`, RFC 5227).

The container's link exists by then, and has no address. An address that somebody answers for goes back to
the IPAM plugin, which is asked for another one.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from cni_plugins.contract.ipam import IpamPlugin
from cni_plugins.errors import CniError, PoolExhausted
from cni_plugins.protocol.args import parse_args
from cni_plugins.protocol.fields import IPAddress, get, parse_address
from cni_plugins.protocol.request import Request
from cni_plugins.protocol.result import Result

_TRIES = 8
_MARK = "acd"

Probe = Callable[[Sequence[IPAddress]], Mapping[IPAddress, str]]
"""Returns the addresses that others have, and their MAC addresses."""


def reserve(ipam: IpamPlugin, request: Request, probe: Probe) -> Result:
    """Reserve addresses, and have others instead of those that are in use.

    :raises PoolExhausted: when one that was asked for is in use, or all that were tried are.
    """
    asked, refused = frozenset(_asked(request)), dict[IPAddress, str]()
    held: list[tuple[Request, Result]] = []
    try:
        while len(refused) < _TRIES and not asked & refused.keys():
            lease = _reserve(ipam, request, refused)
            is_known = bool(refused.keys() & _addresses(lease))
            try:
                if not is_known and _is_free(lease, refused, probe):
                    return lease
            except BaseException:
                ipam.take_back(request, lease)
                raise
            ipam.take_back(request, lease)  # round robin comes to another address next
            if is_known and not _hold(ipam, request, lease, held):
                break
    finally:
        for owner, lease in held:
            ipam.take_back(owner, lease)
    raise _in_use(refused, asked)


def _reserve(ipam: IpamPlugin, request: Request, refused: Mapping[IPAddress, str]) -> Result:
    try:
        return ipam.reserve(request)
    except CniError as err:
        for address, mac in refused.items():
            err.add_note(f"{address} is in use by {mac}")
        raise


def _is_free(lease: Result, refused: dict[IPAddress, str], probe: Probe) -> bool:
    """Say whether nobody has the addresses of a lease; add those that somebody has."""
    addresses = _addresses(lease)
    found = probe(addresses) if addresses else {}
    refused.update(found)
    return not found


def _hold(ipam: IpamPlugin, request: Request, known: Result, held: list[tuple[Request, Result]]) -> bool:
    """Have an address that is in use given out to another owner, so that the attachment gets the next one.

    That is for plugins that always give out the first free one. False: it is given out all the same.
    """
    if any(set(_addresses(lease)) & set(_addresses(known)) for _, lease in held):
        return False
    name = f"{_MARK}{len(held)}-{request.attachment.tag}"
    owner = request._replace(container_id=name, environment={**request.environment, "CNI_CONTAINERID": name})
    held.append((owner, ipam.reserve(owner)))
    return True


def _addresses(lease: Result) -> list[IPAddress]:
    return [ip.address.ip for ip in lease.ips]


def _in_use(refused: Mapping[IPAddress, str], asked: frozenset[IPAddress]) -> PoolExhausted:
    listed = [f"{address} is in use by {mac}" for address, mac in refused.items()]
    address, mac = next(((a, m) for a, m in refused.items() if a in asked), [*refused.items()][-1])
    which = "requested IP address" if address in asked else "IP address"
    return PoolExhausted(
        f"{which} {address} is in use: {mac} answers for it on the container's link", "; ".join(listed)
    )


def _asked(request: Request) -> Iterator[IPAddress]:
    """Yield the addresses that the runtime asks for; the IPAM plugin has validated them."""
    args, runtime_config = get(request.conf, "args"), get(request.conf, "runtimeConfig")
    texts: list[Any] = [parse_args(request.args).get("IP", "")]
    for section in (get(args, "cni") if isinstance(args, dict) else None, runtime_config):
        given = get(section, "ips") if isinstance(section, dict) else None
        texts += given if isinstance(given, list) else ()
    for text in texts:
        try:
            yield parse_address(text.partition("/")[0] if isinstance(text, str) else text)
        except ValueError:
            continue
