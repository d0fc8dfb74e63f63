"""Finds the function that carries a step out or compares it with the kernel.

Each family of steps is a module of `cni_plugins.steps`. The modules that serve a family are imported when its
first step appears, as most requests need only a few of them.
"""

from cni_plugins.kernel.deed import Deed, Deeds
from cni_plugins.kernel.session.session import Session
from cni_plugins.steps.step import ABSENT, Step

_FAMILIES = (
    "firewall",
    "forwarded",
    "host_guard",
    "forwarding_filter",
    "ip",
    "links",
    "macvlan",
    "neighbours",
    "overlay",
    "policy_routing",
    "port_mappings",
    "shaping",
    "tuning",
)

_known: Deeds = {}


def carry_out(session: Session, step: Step) -> str:
    """Carry out one step; return the previous state (see steps.step)."""
    return find(type(step)).carry_out(session, step) or ABSENT


def differs(session: Session, step: Step) -> str:
    """Say how the kernel differs from what the step creates; empty if it does not."""
    return find(type(step)).differs(session, step)


def is_relied_on(session: Session, step: Step) -> bool:
    """Say whether other attachments use what the step created."""
    return find(type(step)).is_relied_on(session, step)


def load_all() -> None:
    """Import the modules of every family, for a long-running process."""
    for name in _FAMILIES:
        enter(_family(name))


def enter(deeds: Deeds) -> None:
    """Register steps that are defined elsewhere, such as those of a test."""
    _known.update(deeds)


def find(kind: type[Step]) -> Deed:
    """Return the functions for one class of steps."""
    found = _known.get(kind)
    if found is None:
        enter(_family(kind.__module__.rpartition(".")[2]))
        found = _known[kind]
    return found


def _family(name: str) -> Deeds:  # noqa: C901, PLR0911, PLR0912, PLR0915 (one for each family)
    """Import one family; imports are spelled out, as strings would hide them from PyInstaller and mypy."""
    match name:
        case "links":
            from cni_plugins.kernel.links import bridge, links, port_vlans, veth

            return bridge.DEEDS | links.DEEDS | port_vlans.DEEDS | veth.DEEDS
        case "ip":
            from cni_plugins.kernel.ip import addresses, forwarding, routes, sysctl

            return addresses.DEEDS | forwarding.DEEDS | routes.DEEDS | sysctl.DEEDS
        case "neighbours":
            from cni_plugins.kernel.ip import host_routes, neighbours

            return host_routes.DEEDS | neighbours.DEEDS
        case "firewall":
            from cni_plugins.kernel.firewall import (
                iptables_masquerade,
                masquerade,
                reference_cleanup,
                rule_removal,
                source_guard,
            )

            own = rule_removal.DEEDS | masquerade.DEEDS | source_guard.DEEDS
            return own | iptables_masquerade.DEEDS | reference_cleanup.DEEDS
        case "host_guard":
            from cni_plugins.kernel.firewall import host_guard

            return host_guard.DEEDS
        case "forwarded":
            from cni_plugins.kernel.firewall import forward_drops

            return forward_drops.DEEDS
        case "forwarding_filter":
            from cni_plugins.kernel.firewall import (
                bridges_apart,
                firewalld,
                forward_cleanup,
                forward_rules,
                iptables_apart,
                iptables_forward,
                port_isolation,
            )

            through = forward_rules.DEEDS | iptables_forward.DEEDS | firewalld.DEEDS
            apart = bridges_apart.DEEDS | iptables_apart.DEEDS | port_isolation.DEEDS
            return through | apart | forward_cleanup.DEEDS
        case "macvlan":
            from cni_plugins.kernel.macvlan import host_access, link, vlan

            return host_access.DEEDS | link.DEEDS | vlan.DEEDS
        case "overlay":
            from cni_plugins.kernel.firewall import port_sources
            from cni_plugins.kernel.overlay import bridge as overlay_bridge
            from cni_plugins.kernel.overlay import packet_filter, peers, vxlan

            of_network = overlay_bridge.DEEDS | packet_filter.DEEDS | peers.DEEDS | vxlan.DEEDS
            return of_network | port_sources.DEEDS
        case "port_mappings":
            from cni_plugins.kernel.firewall import iptables_ports, localnet, port_maps, reference_ports

            return iptables_ports.DEEDS | localnet.DEEDS | port_maps.DEEDS | reference_ports.DEEDS
        case "policy_routing":
            from cni_plugins.kernel.ip import moved_routes, rules

            return moved_routes.DEEDS | rules.DEEDS
        case "tuning":
            from cni_plugins.kernel.tuning import backup, sysctls
            from cni_plugins.kernel.tuning import link as tuned_link

            return backup.DEEDS | tuned_link.DEEDS | sysctls.DEEDS
        case "shaping":
            from cni_plugins.kernel.shaping import ifb, redirect, token_bucket

            return ifb.DEEDS | redirect.DEEDS | token_bucket.DEEDS
        case _:
            raise LookupError(f"no family of steps is called {name}")
