"""What a plugin may ask about the kernel before it decides, and the answers."""

from collections.abc import Mapping
from typing import NamedTuple

from cni_plugins.spec.fields import IPInterface


class Asks(NamedTuple):
    """Questions; what is not asked is not looked up.

    :param host: names of links in the host.
    :param sandbox: names of links in the sandbox; a sandbox that is gone answers nothing.
    :param default_route: the link of the host's default route.
    :param owned: every host link that bears our alias, whatever its network.
    :param vlan_filtering: whether bridges of this kernel can filter VLANs.
    :param nf_tables: whether this kernel has nf_tables.
    :param ipv6_in_sandbox: whether the sandbox's `lo` may bear IPv6 addresses.
    :param iptables: whether the iptables executables are installed.
    """

    host: tuple[str, ...] = ()
    sandbox: tuple[str, ...] = ()
    default_route: bool = False
    owned: bool = False
    vlan_filtering: bool = False
    nf_tables: bool = False
    iptables: bool = False
    ipv6_in_sandbox: bool = False


class LinkFacts(NamedTuple):
    """One link as it is; `peer…` is about a veth's other end, where that is in the host."""

    name: str
    ifindex: int
    kind: str
    mac: str
    mtu: int
    up: bool
    alias: str = ""
    peer: str = ""
    peer_alias: str = ""
    peer_master: str = ""
    addresses: tuple[IPInterface, ...] = ()


NO_LINKS: Mapping[str, LinkFacts] = {}


class Facts(NamedTuple):
    """Answers. `host_seed` differs between hosts and between boots; for addresses that must not repeat."""

    host: Mapping[str, LinkFacts] = NO_LINKS
    sandbox: Mapping[str, LinkFacts] = NO_LINKS
    default_route: LinkFacts | None = None
    owned: tuple[LinkFacts, ...] = ()
    has_sandbox: bool = False
    vlan_filtering: bool = True
    nf_tables: bool = True
    iptables: bool = True
    ipv6_in_sandbox: bool = True
    host_seed: str = ""
