"""Reads the request's own interface from prevResult, and passes prevResult on."""

from cni_plugins.errors import InvalidNetworkConfig
from cni_plugins.protocol.fields import IPAddress, IPInterface
from cni_plugins.protocol.request import Request
from cni_plugins.protocol.result import DNS, Interface, Result


def required(request: Request) -> Result:
    """Return prevResult.

    :raises InvalidNetworkConfig: when there is none.
    """
    if request.prev_result is None:
        reason = (
            "CHECK compares with the result of ADD"
            if request.command == "CHECK"
            else "this plugin must be called as chained plugin"
        )
        raise InvalidNetworkConfig("required prevResult missing", reason)
    return request.prev_result


def own_interface(request: Request) -> Interface:
    """Return the interface as ADD or a later plugin of the chain left it.

    :raises InvalidNetworkConfig: when prevResult is absent or does not list the interface.
    """
    listed = required(request).interfaces
    own = next((it for it in listed if (it.name, it.sandbox) == (request.ifname, request.netns)), None)
    if own is None:
        raise InvalidNetworkConfig(
            f"prevResult has no interface {request.ifname} in {request.netns}",
            f"CNI_IFNAME is {request.ifname}, CNI_NETNS is {request.netns}",
        )
    return own


def host_interfaces(request: Request) -> dict[str, Interface]:
    """Return the host's links in prevResult by their names."""
    listed = request.prev_result.interfaces if request.prev_result else ()
    return {item.name: item for item in listed if not item.sandbox}


def host_end(request: Request) -> Interface | None:
    """Return the link of the host that leads to the interface, None if prevResult lists none.

    It is the last one listed before the interface: this suite and the reference list bridges first.
    """
    own = own_interface(request)
    before = required(request).interfaces
    found = [item for item in before[: before.index(own)] if not item.sandbox]
    return found[-1] if found else None


def host_link(request: Request) -> str:
    """Return the name of that link, empty if prevResult lists none, or not even the interface."""
    listed = request.prev_result.interfaces if request.prev_result else ()
    if not any((it.name, it.sandbox) == (request.ifname, request.netns) for it in listed):
        return ""
    found = host_end(request)
    return found.name if found else ""


def reachable_addresses(request: Request) -> tuple[IPInterface, ...]:
    """Return the first IPv4 and the first IPv6 address by which the host reaches the container.

    As the reference has it, one that belongs to no interface counts, or to one that prevResult does not list.
    """
    result = required(request)
    first: dict[int, IPInterface] = {}
    for ip in result.ips:
        listed = 0 <= ip.interface < len(result.interfaces) if ip.interface is not None else False
        owner = result.interfaces[ip.interface] if listed and ip.interface is not None else None
        if owner is None or (owner.name == request.ifname and owner.sandbox):
            first.setdefault(ip.address.version, ip.address)
    return tuple(first[version] for version in sorted(first))


def own_addresses(request: Request) -> tuple[IPAddress, ...]:
    """Return the addresses of the interface, without those of other interfaces in prevResult."""
    result = required(request)
    own = result.interfaces.index(own_interface(request))
    return tuple(ip.address.ip for ip in result.ips if ip.interface in (None, own))


def appended(request: Request, own: Result) -> Result:
    """Return prevResult of an ADD, if there is one, with the result of a main plugin appended.

    SPEC.md, section 4 (ADD): a plugin that is given a prevResult passes it on with what it adds.
    """
    before = request.prev_result if request.command == "ADD" else None
    if before is None:
        return own
    index = len(before.interfaces)
    shifted = (ip if ip.interface is None else ip._replace(interface=ip.interface + index) for ip in own.ips)
    return before._replace(
        interfaces=(*before.interfaces, *own.interfaces),
        ips=(*before.ips, *shifted),
        routes=(*before.routes, *own.routes),
        dns=own.dns if own.dns != DNS() else before.dns,
        extra={**before.extra, **own.extra},
    )


def passed_on(request: Request, *, mac: str = "", mtu: int = 0) -> Result:
    """Return prevResult as a chained plugin's result: with what it changed of the own interface.

    :param mac: the new MAC address, empty: unchanged.
    :param mtu: the new MTU, 0: unchanged.
    :raises InvalidNetworkConfig: as `required`, and as `own_interface` if there are changes.
    """
    result = required(request)
    if not (mac or mtu):
        return result
    own = own_interface(request)
    changed = own._replace(mac=mac or own.mac, mtu=mtu or own.mtu)
    return result._replace(interfaces=tuple(changed if item is own else item for item in result.interfaces))
