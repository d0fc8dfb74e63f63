"""Looks at one attachment that a runtime remembers: whether it lives, whose it is, and what its plans are."""

import os
from collections.abc import Callable, Container
from enum import StrEnum
from typing import Any, NamedTuple

from cni_plugins.contract.facts import Asks, Facts, LinkFacts
from cni_plugins.contract.plugin import Plugin
from cni_plugins.contract.prev_result import host_interfaces
from cni_plugins.engine import registry
from cni_plugins.errors import CniError, InvalidNetns, InvalidNetworkConfig
from cni_plugins.kernel import observe
from cni_plugins.kernel.session.open import open_session
from cni_plugins.kernel.session.session import Residence, Session
from cni_plugins.ownership import plugin_word, tag_of
from cni_plugins.protocol import request as requests
from cni_plugins.protocol.fields import get
from cni_plugins.protocol.request import Request
from cni_plugins.protocol.result import Result, own_part
from cni_plugins.steps.step import Plan
from cni_plugins.upkeep.caches import CachedAttachment, plugin_confs

_NOTHING = Asks()


class Condition(StrEnum):
    """What became of an attachment."""

    IN_ORDER = "in order"
    DIFFERS = "differs"
    REPAIRED = "repaired"
    UNREPAIRED = "not repaired"
    GONE = "gone"  # the container, or its interface: what belonged to it must not come back
    FOREIGN = "not ours"


class ServedPlugin(NamedTuple):
    """One plugin of an attachment's list that this suite serves, with its request as libcni would send it."""

    plugin: Plugin[Any]
    request: Request


class Served(NamedTuple):
    """The plugins of an attachment's list that this suite serves.

    :param main: the type of the list's first plugin.
    """

    plugins: tuple[ServedPlugin, ...]
    main: str


def served(cached: CachedAttachment, types: Container[str], path: str) -> Served:
    """Return the plugins of the list that the suite serves.

    :param path: CNI_PATH.
    :raises CniError: when the cached config or result is not one that a runtime sends.
    """
    try:
        confs = plugin_confs(cached)
    except ValueError as err:
        raise InvalidNetworkConfig("the cached config cannot be read", str(err)) from err
    names = [str(get(conf, "type")) for conf in confs]
    chosen = [(name, conf) for name, conf in zip(names, confs, strict=True) if name in types]
    environment = _environment(cached, path)
    found: list[ServedPlugin] = []
    for name, conf in chosen:
        plugin = registry.plugin(name)
        # They differ in the config alone.
        common = found[0].request._replace(conf=conf) if found else requests.remembered(environment, conf)
        word = plugin_word(plugin.name, is_chained=plugin.is_chained)
        found.append(ServedPlugin(plugin, common._replace(plugin=word)))
    return Served(tuple(found), names[0] if names else "")


def _environment(cached: CachedAttachment, path: str) -> dict[str, str]:
    return {
        "CNI_CONTAINERID": cached.attachment.container_id,
        "CNI_NETNS": cached.netns,
        "CNI_IFNAME": cached.attachment.ifname,
        "CNI_ARGS": cached.args,
        "CNI_PATH": path,
    }


def opened(request: Request, residence: Residence) -> Session | None:
    """Open the session of a request, None if its sandbox is gone."""
    try:
        return open_session(request, residence)
    except InvalidNetns:
        return None


def facts_of(session: Session, one: ServedPlugin, asks: Asks = _NOTHING) -> Facts:
    """Look up facts, and with them the attachment's interface, in the sandbox."""
    own = one.request.ifname
    names = asks.sandbox if own in asks.sandbox else (*asks.sandbox, own)
    return observe.observe(session, asks._replace(sandbox=names))


def condition(listed: Served, facts: Facts) -> Condition:
    """Say whether an attachment is to be compared (IN_ORDER), is gone, or is another program's.

    A path that exists may lead to the sandbox of another container by now, as process ids are used again.

    :param facts: of one of its plugins.
    """
    request = listed.plugins[0].request
    link = facts.sandbox.get(request.ifname)
    if link is None or not _is_it(request, link):
        return Condition.GONE
    if listed.main in registry.PLUGINS and not _is_made_by_suite(request, link):
        return Condition.FOREIGN
    return Condition.IN_ORDER


def _is_it(request: Request, link: LinkFacts) -> bool:
    """Say whether a link of the sandbox is the one of the result, whatever the container has done to it."""
    listed = request.prev_result.interfaces if request.prev_result else ()
    macs = {item.mac for item in listed if (item.name, item.sandbox) == (request.ifname, request.netns)}
    return not any(macs) or link.mac in macs or _has_tag(request, link)


def _has_tag(request: Request, link: LinkFacts) -> bool:
    return request.attachment.tag in (tag_of(link.alias), tag_of(link.peer_alias))


def _is_made_by_suite(request: Request, link: LinkFacts) -> bool:
    """Say whether the suite made the interface: the reference may have, before ours took its place.

    A macvlan link in mode passthru or of a result without host links is known by its alias alone.
    """
    if link.kind not in ("veth", "macvlan"):
        return True
    return _has_tag(request, link) or request.attachment.host_end in host_interfaces(request)


def lease(request: Request) -> Result:
    return own_part(request.prev_result or Result(), request.ifname, request.netns)


def delete_plan(session: Session, one: ServedPlugin) -> Plan:
    """Return the plan of a DEL of the attachment, which works without its sandbox."""
    plugin = one.plugin
    request = one.request._replace(command="DEL", netns="")
    config = _leniently(lambda: plugin.parse(request))
    facts = observe.observe(session, plugin.asks(request, config))
    return plugin.delete(request, config, facts)


def _leniently(parse: Callable[[], Any]) -> Any:  # noqa: ANN401 (as above)
    try:
        return parse()
    except CniError:
        return None


def told(err: Exception) -> str:
    """Return an error as one sentence."""
    if isinstance(err, CniError):
        details = err.full_details()
        return f"{err.msg} ({details})" if details and details not in err.msg else err.msg
    if isinstance(err, OSError) and err.errno:
        return f"{os.strerror(err.errno)} (errno {err.errno})"
    return f"{err} ({type(err).__name__})"
