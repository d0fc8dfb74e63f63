"""The vxlan plugin's declaration: what it asks, plans, answers and reports."""

from cni_plugins.contract.facts import Asks, Facts
from cni_plugins.contract.plan_parts import require_rules
from cni_plugins.contract.plugin import Plugin
from cni_plugins.errors import CniError, LimitedConnectivity, NotAvailable
from cni_plugins.protocol.fields import IPAddress
from cni_plugins.protocol.request import Request
from cni_plugins.vxlan import addressing, local_host
from cni_plugins.vxlan.config import Overlay, parse
from cni_plugins.vxlan.host_plan import require_no_clash
from cni_plugins.vxlan.peer_entries import peer_entries
from cni_plugins.vxlan.plan import admit, collect, decide, delete


def asks(request: Request, overlay: Overlay | None) -> Asks:
    """Return the questions of each command; DEL and GC need nothing of the config."""
    if request.command == "GC":
        return Asks(owned=True)
    if request.command == "DEL" or overlay is None:
        return Asks(host=(request.attachment.host_end,), sandbox=(request.ifname,))
    asked = asks_of_host(overlay)
    own = tuple(filter(None, (overlay.vxlan, overlay.bridge)))
    if request.command == "STATUS":
        return asked._replace(
            host=own,
            kinds=("vxlan",),
            unsupported_kinds=("vxlan",) if overlay.vxlan else (),
            udp_port=overlay.config.port if overlay.vxlan else 0,
            nf_tables=True,
        )
    host = (request.attachment.host_end, *own) if request.command == "ADD" else ()
    return asked._replace(host=host, sandbox=(request.ifname,))


def asks_of_host(overlay: Overlay) -> Asks:
    """Return the questions about this host's place in the overlay, and the ways to its peers."""
    addresses: tuple[IPAddress, ...] = ()
    if overlay.config.direct_routing != "off":
        addresses = tuple(record.vtep for record in overlay.roster.records or ())
    wish = overlay.config.underlay
    if wish.can_reach is not None:
        addresses = (*addresses, wish.can_reach)
    return Asks(addressed=True, default_route=overlay.roster.records is None, routes_to=addresses)


def ipam_request(request: Request, overlay: Overlay | None, facts: Facts | None) -> Request:
    here = local_host.find(overlay, facts) if overlay is not None and facts is not None else None
    return addressing.ipam_request(request, overlay, here)


def status(_request: Request, overlay: Overlay, facts: Facts) -> None:
    """Say what is in the way.

    :raises NotAvailable: when this host has no place in the overlay, or other things have it.
    :raises LimitedConnectivity: when it has, and its underlay is down.
    """
    require_rules(facts, "the overlay's packet filter needs it")
    if facts.unsupported_kinds:
        raise NotAvailable("this kernel has no VXLAN links", f"network {overlay.network}")
    try:
        here = local_host.find(overlay, facts)
        require_no_clash(overlay, facts)
        peer_entries(overlay, here, facts.routes_to)
    except CniError as err:
        raise NotAvailable(err.msg, err.details) from err
    _require_free(overlay, facts)
    if not here.up:
        raise LimitedConnectivity(
            f"the underlay's link {here.link} is down", f"network {overlay.network}, address {here.local}"
        )


def _require_free(overlay: Overlay, facts: Facts) -> None:
    wanted = (overlay.vni, overlay.config.port)
    for link in facts.of_kinds:
        if overlay.vxlan and link.vxlan == wanted and link.name != overlay.vxlan:
            raise NotAvailable(
                f"VNI {overlay.vni} and port {overlay.config.port} are those of link {link.name}",
                f"network {overlay.network}; the kernel has each pair once",
            )
    if facts.udp_port_taken:
        raise NotAvailable(
            f"UDP port {overlay.config.port} is in use by another socket", f"network {overlay.network}"
        )
    for name, kind in ((overlay.vxlan, "vxlan"), (overlay.bridge, "bridge")):
        found = facts.host.get(name)
        if found is not None and (found.kind != kind or not local_host.is_of(found, overlay.network)):
            raise NotAvailable(
                f'"{name}" already exists but is not the {kind} of network {overlay.network}',
                f"its kind is {found.kind or 'a device'}, its alias {found.alias!r}",
            )


PLUGIN = Plugin(
    name="vxlan",
    decide=decide,
    parse=parse,
    ipam_type=addressing.ipam_type,
    asks=asks,
    admit=admit,
    delete=delete,
    collect=collect,
    status=status,
    ipam_request=ipam_request,
)
