"""The vxlan plugin's declaration: what it asks, plans, answers and reports."""

from cni_plugins.contract.facts import Asks, Facts
from cni_plugins.contract.phrases import require_rules
from cni_plugins.contract.plugin import Plugin
from cni_plugins.errors import CniError, LimitedConnectivity, NotAvailable
from cni_plugins.spec.fields import IPAddress
from cni_plugins.spec.request import Request
from cni_plugins.vxlan import addressing, site
from cni_plugins.vxlan.config import Overlay, parse
from cni_plugins.vxlan.membership import require_no_clash
from cni_plugins.vxlan.picture import picture
from cni_plugins.vxlan.plan import add, admit, collect, delete, result


def asks(request: Request, overlay: Overlay | None) -> Asks:
    """Return the questions of each command; DEL and GC need nothing of the config."""
    if request.command == "GC":
        return Asks(owned=True)
    if request.command == "DEL" or overlay is None:
        return Asks(host=(request.attachment.host_end,), sandbox=(request.ifname,))
    asked = asks_of_site(overlay)
    own = tuple(filter(None, (overlay.vxlan, overlay.bridge)))
    if request.command == "STATUS":
        return asked._replace(
            host=own,
            kinds=("vxlan",),
            makes=("vxlan",) if overlay.vxlan else (),
            udp_port=overlay.config.port if overlay.vxlan else 0,
            nf_tables=True,
        )
    host = (request.attachment.host_end, *own) if request.command == "ADD" else ()
    return asked._replace(host=host, sandbox=(request.ifname,))


def asks_of_site(overlay: Overlay) -> Asks:
    """Return the questions about this host's place in the overlay, and the ways to its peers."""
    ways: tuple[IPAddress, ...] = ()
    if overlay.config.direct_routing != "off":
        ways = tuple(record.vtep for record in overlay.roster.records or ())
    wish = overlay.config.underlay
    if wish.can_reach is not None:
        ways = (*ways, wish.can_reach)
    return Asks(addressed=True, default_route=overlay.roster.records is None, ways=ways)


def ipam_request(request: Request, overlay: Overlay | None, facts: Facts | None) -> Request:
    here = site.find(overlay, facts) if overlay is not None and facts is not None else None
    return addressing.ipam_request(request, overlay, here)


def status(_request: Request, overlay: Overlay, facts: Facts) -> None:
    """Say what is in the way.

    :raises NotAvailable: when this host has no place in the overlay, or other things have it.
    :raises LimitedConnectivity: when it has, and its underlay is down.
    """
    require_rules(facts, "the overlay's packet filter needs it")
    if facts.cannot_make:
        raise NotAvailable("this kernel has no VXLAN links", f"network {overlay.network}")
    try:
        here = site.find(overlay, facts)
        require_no_clash(overlay, facts)
        picture(overlay, here, facts.ways)
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
        if found is not None and (found.kind != kind or not site.is_of(found, overlay.network)):
            raise NotAvailable(
                f'"{name}" already exists but is not the {kind} of network {overlay.network}',
                f"its kind is {found.kind or 'a device'}, its alias {found.alias!r}",
            )


PLUGIN = Plugin(
    name="vxlan",
    parse=parse,
    ipam_type=addressing.ipam_type,
    ipam_request=ipam_request,
    asks=asks,
    admit=admit,
    plan_add=add,
    plan_del=delete,
    plan_gc=collect,
    result=result,
    status=status,
)
