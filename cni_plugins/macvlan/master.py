"""Finds the master: a named link, one of prevResult or of the default route, or a VLAN link on these."""

from itertools import takewhile
from typing import NamedTuple

from cni_plugins.contract.facts import Facts, LinkFacts
from cni_plugins.errors import InvalidNetworkConfig
from cni_plugins.macvlan.config import MacvlanConfig, vlan_id
from cni_plugins.macvlan.names import vlan_link
from cni_plugins.ownership import HOST_LINK_ALIAS, VLAN_ALIAS
from cni_plugins.protocol.fields import IPInterface
from cni_plugins.protocol.request import Request
from cni_plugins.steps.macvlan import ETHERTYPES, EnsureVlan


class Master(NamedTuple):
    """The lower device of the macvlan link.

    :param ifindex: 0 for a VLAN link that does not exist yet.
    :param vlan: the step that creates it, if it is a VLAN link of ours.
    """

    name: str
    ifindex: int
    mac: str
    mtu: int
    up: bool
    main_addresses: tuple[IPInterface, ...]
    vlan: EnsureVlan | None = None


def names(request: Request, config: MacvlanConfig) -> tuple[str, ...]:
    """Return the names of links to look up, none if the default route selects the master."""
    named = _named(request, config)
    parent, _ = _dotted(named)
    return tuple(name for name in (named, parent) if name)


def resolve(request: Request, config: MacvlanConfig, facts: Facts) -> Master:
    """Return the master.

    :raises InvalidNetworkConfig: when there is none, or it cannot have macvlan links.
    """
    named = _named(request, config)
    links = facts.sandbox if config.link_in_container else facts.host
    link = links.get(named) if named else facts.default_route
    vlan = config.vlan
    if link is None and not config.link_in_container:
        parent, number = _dotted(named)
        link = links.get(parent)
        vlan = None if link is None else _vlan_of(named, number, config)
    if link is None:
        raise _missing(named, config)
    _require_below(link, named or link.name)
    if vlan is not None:
        return _on_vlan(config, vlan, link, facts)
    _require_free(link)
    _require_protocol(link, config)
    return _master(link, _kept(link, facts))


def _named(request: Request, config: MacvlanConfig) -> str:
    """Return the name in the config, or the only link that earlier plugins of the chain created.

    CHECK gets the result of the whole chain, which lists their links before ours.
    """
    if config.master or request.prev_result is None:
        return config.master
    made = takewhile(
        lambda item: (item.name, bool(item.sandbox)) != (request.ifname, True), request.prev_result.interfaces
    )
    chain = {item.name for item in made if bool(item.sandbox) == config.link_in_container}
    return chain.pop() if len(chain) == 1 else ""


def _dotted(name: str) -> tuple[str, str]:
    """Split the usual name of a VLAN link: master, dot, id."""
    parent, dot, number = name.rpartition(".")
    return (parent, number) if dot and parent and number else ("", "")


def _vlan_of(name: str, number: str, config: MacvlanConfig) -> int:
    if config.vlan is not None:
        raise InvalidNetworkConfig(
            f"master {name} does not exist", f"master is {name}, vlan is {config.vlan}"
        )
    try:
        plain = number.isascii() and number.isdecimal() and not number.startswith("0")
        return vlan_id(int(number) if plain else number)
    except ValueError as err:
        raise InvalidNetworkConfig(
            f"master {name} does not exist and cannot be created: {err}", f"master is {name}"
        ) from err


def _missing(named: str, config: MacvlanConfig) -> InvalidNetworkConfig:
    where = "container" if config.link_in_container else "host"
    if named:
        return InvalidNetworkConfig(f"master {named} does not exist in the {where}", f"master is {named}")
    return InvalidNetworkConfig(
        "no default route interface found", f"master is not set, and the {where} has no default route"
    )


def _require_below(link: LinkFacts, name: str) -> None:
    """:raises InvalidNetworkConfig: for links that do not carry Ethernet frames of other links."""
    details = f"master is {name}"
    if link.loopback:
        raise InvalidNetworkConfig(f"{link.name} is a loopback link, which cannot be a master", details)
    if not link.ethernet:
        raise InvalidNetworkConfig(f"{link.name} is not an Ethernet link", details)
    if link.alias.startswith(HOST_LINK_ALIAS):
        raise InvalidNetworkConfig(f"{link.name} is the host's own link of a macvlan network", details)


def _require_free(link: LinkFacts) -> None:
    if link.master:
        raise InvalidNetworkConfig(
            f"{link.name} is a port of {link.master}, which takes its frames", f"master is {link.name}"
        )


def _require_protocol(link: LinkFacts, config: MacvlanConfig) -> None:
    """:raises InvalidNetworkConfig: for a VLAN link whose protocol is not the one explicitly configured."""
    if link.kind != "vlan" or "vlan_protocol" not in config.model_fields_set:
        return
    if link.vlan[1] != ETHERTYPES[config.vlan_protocol]:
        raise InvalidNetworkConfig(
            f"{link.name} is VLAN {link.vlan[0]} with a protocol other than {config.vlan_protocol}",
            f"master is {link.name}, vlanProtocol is {config.vlan_protocol}",
        )


def _kept(link: LinkFacts, facts: Facts) -> EnsureVlan | None:
    """Return the step that keeps a VLAN link of ours, named as master, from concurrent removal."""
    parent, _ = _dotted(link.name)
    below = facts.host.get(parent)
    ours = (link.kind, link.alias) == ("vlan", VLAN_ALIAS)
    if not ours or below is None or below.ifindex != link.lower:
        return None
    protocol = next(name for name, ethertype in ETHERTYPES.items() if ethertype == link.vlan[1])
    return EnsureVlan(link.name, parent, link.vlan[0], protocol)


def _on_vlan(config: MacvlanConfig, vlan: int, parent: LinkFacts, facts: Facts) -> Master:
    """Return the VLAN link on a parent: an existing one of any name, or the one to create."""
    wanted = (vlan, ETHERTYPES[config.vlan_protocol])
    present = (link for link in facts.of_kinds if (link.lower, link.vlan) == (parent.ifindex, wanted))
    link = next(present, None)
    name = vlan_link(parent.name, vlan)
    step = EnsureVlan(name, parent.name, vlan, config.vlan_protocol)
    if link is None:
        return Master(name, 0, parent.mac, parent.mtu, parent.up, (), step)
    _require_free(link)
    ours = link.alias == VLAN_ALIAS
    return _master(link, step.replace(name=link.name) if ours else None)


def _master(link: LinkFacts, vlan: EnsureVlan | None) -> Master:
    return Master(link.name, link.ifindex, link.mac, link.mtu, link.up, link.main_addresses, vlan)
