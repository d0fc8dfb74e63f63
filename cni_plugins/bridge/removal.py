"""Plans DEL and GC of the bridge plugin: deletes whatever carries the attachment's names, alive or not."""

from collections.abc import Iterator

from cni_plugins.bridge.config import DEFAULT_BRIDGE, BridgeConfig
from cni_plugins.contract import veth
from cni_plugins.contract.facts import Facts, LinkFacts
from cni_plugins.protocol.fields import get
from cni_plugins.protocol.ifnames import ifname_fault
from cni_plugins.protocol.request import Request
from cni_plugins.steps.links import DelIdleBridge
from cni_plugins.steps.step import Plan, Step


def delete(request: Request, config: BridgeConfig | None, facts: Facts) -> Plan:
    """Return the steps of DEL; the host end is found by name, without the sandbox and without prevResult."""

    def is_port(inside: LinkFacts) -> bool:
        return config is not None and inside.peer_master == config.bridge

    foreign = veth.made_by_reference(request, facts, is_port)
    bridges = (config.bridge,) if config is not None and config.remove_idle_bridge else ()
    return (*veth.delete(request, facts, foreign=foreign), *map(DelIdleBridge, bridges))


def collect(request: Request, facts: Facts) -> Plan:
    """Return the steps of GC."""
    return (*veth.collect(request, facts), *_idle_bridge(request))


def _idle_bridge(request: Request) -> Iterator[Step]:
    """Yield the removal of an idle bridge; GC accepts invalid configs, so it reads single keys of them."""
    name = get(request.conf, "bridge") or DEFAULT_BRIDGE
    if get(request.conf, "removeIdleBridge") is True and isinstance(name, str) and not ifname_fault(name):
        yield DelIdleBridge(name)
