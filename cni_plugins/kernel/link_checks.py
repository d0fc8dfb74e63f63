"""How links differ from what steps make of them; the questions of CHECK."""

from cni_plugins.kernel import links
from cni_plugins.kernel.link import IFF_PROMISC, OPER_UP, Link
from cni_plugins.kernel.session import Session
from cni_plugins.steps.links import AddVeth, AttachPort, EnsureBridge
from cni_plugins.steps.places import HOST, SANDBOX, Place


def _missing(where: Place, name: str) -> str:
    return f"link {name} is missing in the {where}"


def bridge_differs(session: Session, step: EnsureBridge) -> str:
    link = links.find(session, HOST, step.name)
    if link is None:
        return _missing(HOST, step.name)
    if link.kind != "bridge":
        return f"link {step.name} is not a bridge"
    if step.mac and link.mac != step.mac:
        return f"bridge {step.name} has address {link.mac}, not {step.mac}"
    if step.vlan_filtering and not link.vlan_filtering:
        return f"bridge {step.name} does not filter VLANs"
    return ""


def up_differs(session: Session, where: Place, name: str) -> str:
    link = links.find(session, where, name)
    if link is None:
        return _missing(where, name)
    return "" if link.up else f"link {name} in the {where} is down"


def promisc_differs(session: Session, name: str, *, on: bool) -> str:
    link = links.find(session, HOST, name)
    if link is None:
        return _missing(HOST, name)
    if bool(link.flags & IFF_PROMISC) == on:
        return ""
    return f"link {name} is {'not ' if on else ''}in promiscuous mode"


def veth_differs(session: Session, step: AddVeth) -> str:
    link = links.find(session, SANDBOX, step.ifname)
    if link is None:
        return _missing(SANDBOX, step.ifname)
    if link.kind != "veth":
        return f"link {step.ifname} in the sandbox is not a veth"
    # Its mtu is not compared: the reference's tuning plugin changes that end alone, and does not say so.
    return _mac_differs(link, step.mac) or _host_end_differs(session, step, link)


def _host_end_differs(session: Session, step: AddVeth, link: Link) -> str:
    host_end = links.find(session, HOST, step.host_end)
    if host_end is None:
        return _missing(HOST, step.host_end)
    if host_end.ifindex != link.peer:
        return f"link {step.host_end} is not the other end of {step.ifname}"
    if step.mtu and host_end.mtu != step.mtu:
        return f"link {step.host_end} has mtu {host_end.mtu}, not {step.mtu}"
    if step.alias and host_end.alias != step.alias:
        return f"link {step.host_end} has lost the alias by which GC knows it"
    return _mac_differs(host_end, step.host_mac)


def _mac_differs(link: Link, mac: str) -> str:
    return f"link {link.name} has address {link.mac}, not {mac}" if mac and link.mac != mac else ""


def port_differs(session: Session, step: AttachPort) -> str:
    link, bridge = links.find(session, HOST, step.link), links.find(session, HOST, step.bridge)
    if link is None or bridge is None:
        return _missing(HOST, step.link if link is None else step.bridge)
    if link.master != bridge.ifindex:
        return f"link {step.link} is not a port of {step.bridge}"
    for name, has, wants in (
        ("hairpin", link.hairpin, step.hairpin),
        ("isolated", link.isolated, step.isolated),
    ):
        if has != wants:
            return f"port {step.link} has {name} {'on' if has else 'off'}"
    return "" if link.up else f"port {step.link} is down"


def operational_differs(session: Session, name: str) -> str:
    link = links.find(session, HOST, name)
    if link is None:
        return _missing(HOST, name)
    return (
        ""
        if link.operstate == OPER_UP
        else f"link {name} is not operational (state {link.operstate} of RFC 2863)"
    )
