"""Finds the links of a network in the host, and whether attachments use them."""

from typing import NamedTuple

from cni_plugins.kernel.links import links
from cni_plugins.kernel.session.session import Session
from cni_plugins.ownership import is_overlay_alias
from cni_plugins.steps.step import HOST


class NetworkLinks(NamedTuple):
    """The links of a network, and whether its bridges have ports of attachments or of others."""

    vxlans: tuple[str, ...]
    bridges: tuple[str, ...]
    in_use: bool


def network_links(session: Session, network: str) -> NetworkLinks:
    every = links.every(session, HOST)
    own = [link for link in every if is_overlay_alias(link.alias, network)]
    tunnels = [link for link in own if link.kind == "vxlan"]
    masters = {link.ifindex: link.name for link in own if link.kind == "bridge"}
    ports = {link.ifindex for link in every if link.master in masters}
    return NetworkLinks(
        tuple(link.name for link in tunnels),
        tuple(masters.values()),
        in_use=bool(ports - {link.ifindex for link in tunnels}),
    )


def exist(session: Session, network: str) -> bool:
    """Say whether a bridge of the network has ports other than its VXLAN link, whoever attached them."""
    return network_links(session, network).in_use
