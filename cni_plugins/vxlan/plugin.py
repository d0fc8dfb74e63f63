"""Declares the vxlan plugin: the facts it needs, its plans, and STATUS."""

from cni_plugins.contract.facts import Asks, Facts
from cni_plugins.contract.plan_parts import require_port, require_rules
from cni_plugins.contract.plugin import Plugin, Probing
from cni_plugins.errors import CniError, InvalidNetworkConfig, LimitedConnectivity, NotAvailable
from cni_plugins.protocol.fields import IPAddress
from cni_plugins.protocol.request import Request
from cni_plugins.steps.step import HOST
from cni_plugins.vxlan import addressing, local_host
from cni_plugins.vxlan.config import Overlay, doubt, newest, parse
from cni_plugins.vxlan.forwarded import flows
from cni_plugins.vxlan.host_plan import require_no_clash
from cni_plugins.vxlan.peer_entries import peer_entries
from cni_plugins.vxlan.plan import admit, collect, decide, delete


def asks(request: Request, overlay: Overlay | None) -> Asks:
    """Return the facts that each command needs; DEL and GC do without the config."""
    if request.command == "GC":
        return Asks(owned=True)
    if request.command == "DEL" or overlay is None:
        return Asks(host=(request.attachment.host_end,), sandbox=(request.ifname,))
    common = asks_of_host(overlay)
    own = tuple(filter(None, (overlay.vxlan, overlay.bridge)))
    if request.command == "STATUS":
        return common._replace(
            host=own,
            kinds=("vxlan",),
            unsupported_kinds=("vxlan",) if overlay.vxlan else (),
            udp_port=overlay.config.port if overlay.vxlan else 0,
            full=overlay.bridge,
            nf_tables=True,
            filters_frames=overlay.guarded,
            forwarded=flows(overlay),
        )
    host = (request.attachment.host_end, *own) if request.command == "ADD" else ()
    return common._replace(host=host, sandbox=(request.ifname,))


def asks_of_host(overlay: Overlay) -> Asks:
    """Return the facts needed to find this host's underlay, and the routes to its peers."""
    addresses: tuple[IPAddress, ...] = ()
    if overlay.config.direct_routing != "off":
        addresses = tuple(record.vtep for record in overlay.roster.records or ())
    underlay = overlay.config.underlay
    if underlay.can_reach is not None:
        addresses = (*addresses, underlay.can_reach)
    return Asks(addressed=True, default_route=overlay.roster.records is None, routes_to=addresses)


def ipam_request(request: Request, overlay: Overlay | None, facts: Facts | None) -> Request:
    host = local_host.find(overlay, facts) if overlay is not None and facts is not None else None
    return addressing.ipam_request(request, overlay, host)


def status(_request: Request, overlay: Overlay, facts: Facts) -> None:
    """Report what would make an ADD fail, or leave containers without connectivity.

    :raises NotAvailable: when this host is not part of the overlay, or a name, address or port is in use.
    :raises LimitedConnectivity: when only its underlay link is down, a filter drops what is forwarded, or the
        peers may be out of date.
    """
    require_rules(facts, "the overlay's packet filter needs it")
    if not facts.filters_frames:
        raise NotAvailable(
            "this kernel cannot filter frames of bridges in nf_tables",
            f"network {overlay.network}: containers' sources cannot be checked; set sourceGuard to false",
        )
    if facts.unsupported_kinds:
        raise NotAvailable("this kernel has no VXLAN links", f"network {overlay.network}")
    try:
        host = local_host.find(overlay, facts)
        require_no_clash(overlay, facts)
        peer_entries(overlay, host, facts.routes_to)
    except CniError as err:
        raise NotAvailable(err.msg, err.details) from err
    _require_free(overlay, facts)
    require_port(facts, overlay.bridge)
    if not host.up:
        raise LimitedConnectivity(
            f"the underlay's link {host.link} is down", f"network {overlay.network}, address {host.local}"
        )
    if facts.dropped_by:
        raise LimitedConnectivity(
            f"another program's filter drops what is forwarded in network {overlay.network}",
            "; ".join(facts.dropped_by),
        )
    why = doubt(overlay)
    if why:
        raise LimitedConnectivity(
            f"the peers of network {overlay.network} may be out of date: {why}",
            "containers are connected to the peers that the last snapshot lists",
        )


def _require_free(overlay: Overlay, facts: Facts) -> None:
    wanted = (overlay.vni, overlay.config.port)
    for link in facts.of_kinds:
        if overlay.vxlan and link.vxlan == wanted and link.name != overlay.vxlan:
            raise NotAvailable(
                f"VNI {overlay.vni} with port {overlay.config.port} is in use by link {link.name}",
                f"network {overlay.network}; the kernel allows each pair only once",
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


def probes(_request: Request, overlay: Overlay, facts: Facts) -> Probing | None:
    """Return where to probe: from the host, as the bridge floods no frame from no address to other hosts.

    :raises InvalidNetworkConfig: when the host has no address of its own; all hosts have the gateway's.
    """
    if not overlay.config.acd:
        return None
    blocks = local_host.find(overlay, facts).own.blocks
    nodes = [addressing.node_address(overlay, blocks, subnet) for subnet in overlay.config.within]
    sources = tuple(node.ip for node in nodes if node is not None)
    if not sources:
        raise InvalidNetworkConfig(
            "acd is true, and this host has no address of its own to ask from", "its peer record has no block"
        )
    return Probing(HOST, overlay.bridge, sources)


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
    probes=probes,
    ipam_request=ipam_request,
    shares=lambda _request, overlay: overlay.network,
    newest=newest,
)
