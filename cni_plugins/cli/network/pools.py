"""Chooses subnets that nobody uses, from pools such as Docker's, and refuses given ones that are in use."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from ipaddress import IPv6Network, ip_network
from itertools import chain

from cni_plugins.cli.failure import Failed
from cni_plugins.protocol.fields import IPNetwork
from cni_plugins.upkeep.networks.taken import Taken, clash

_IPV4, _IPV6 = 4, 6
_ULA = 0xFD << 120  # RFC 4193
_ATTEMPTS = 64

# Pool, and prefix length of the subnets from it. Docker's defaults.
ONE_HOST = (*((f"172.{n}.0.0/16", 16) for n in range(17, 32)), ("192.168.0.0/16", 20))
# An overlay has a subnet for each host, or one subnet over all of them.
ROUTED_OVERLAY = (("10.128.0.0/9", 16), ("10.0.0.0/9", 16))
STRETCHED_OVERLAY = (("10.128.0.0/9", 20), ("10.0.0.0/9", 20))

Pools = Sequence[tuple[str, int]]


def settle(
    given: Sequence[IPNetwork],
    versions: Iterable[int],
    taken: Sequence[Taken],
    pools: Pools,
    draw: Callable[[int], int],
    length6: int = 64,
) -> tuple[IPNetwork, ...]:
    """Return the subnets of a network: those given, and free ones for the IP versions that have none.

    :param draw: returns a random number of so many bits.
    :raises Failed: naming who has a given one, or that there is no free one.
    """
    for subnet in given:
        other = clash(subnet, taken)
        if other is not None:
            raise Failed(f"--subnet {subnet} overlaps {other.by}")
    missing = [version for version in versions if all(subnet.version != version for subnet in given)]
    return (*given, *(_free(version, taken, pools, draw, length6) for version in missing))


def _free(
    version: int, taken: Sequence[Taken], pools: Pools, draw: Callable[[int], int], length6: int
) -> IPNetwork:
    candidates = _private(pools) if version == _IPV4 else _unique_local(draw, length6)
    found = next((subnet for subnet in candidates if clash(subnet, taken) is None), None)
    if found is None:
        raise Failed(f"every IPv{version} subnet to choose from overlaps one that is in use: give --subnet")
    return found


def _private(pools: Pools) -> Iterator[IPNetwork]:
    return chain.from_iterable(ip_network(pool).subnets(new_prefix=length) for pool, length in pools)


def _unique_local(draw: Callable[[int], int], length: int) -> Iterator[IPNetwork]:
    for _ in range(_ATTEMPTS):
        yield IPv6Network((_ULA | draw(40) << 80, length))
