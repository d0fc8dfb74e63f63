"""Repairs the overlay networks of the attachments that runtimes remember, each of them once."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from cni_plugins.contract.facts import Facts
from cni_plugins.errors import CniError, KernelRefused
from cni_plugins.steps.step import Plan
from cni_plugins.upkeep import overlay, overlay_configs
from cni_plugins.upkeep.attachment import ServedPlugin, lease, told
from cni_plugins.upkeep.caches import CachedAttachment
from cni_plugins.upkeep.overlay import State, View
from cni_plugins.upkeep.overlay_configs import Configured
from cni_plugins.vxlan.plan import own_plan

PLUGIN = overlay_configs.PLUGIN


class OverlayOutcome(NamedTuple):
    """What became of the host-wide part of one network; without a view there is an error."""

    network: str
    seen: View | None
    error: str = ""

    @property
    def is_at_fault(self) -> bool:
        return self.seen is None or self.seen.state == State.DRIFTED


class Overlays:
    """The overlay networks of this host, with the config in the conf-dir, else that of the newest ADD."""

    def __init__(self, conf_dir: Path, newest_first: Iterable[CachedAttachment], *, dry_run: bool) -> None:
        self.outcomes: dict[str, OverlayOutcome] = {}
        self._look = overlay.view if dry_run else overlay.sync
        remembered = overlay_configs.of_attachments(newest_first)
        configured = overlay_configs.with_remembered(_in_directory(conf_dir), remembered)
        self._configured = {one.network: one for one in configured.networks}

    def bring_in_line(self, network: str) -> View:
        """Compare a network, and repair it, the first time it is asked for.

        :raises CniError: when that failed, each time.
        """
        if network not in self.outcomes:
            self.outcomes[network] = self._outcome(network)
        seen = self.outcomes[network].seen
        if seen is None:
            raise KernelRefused("its overlay is at fault", self.outcomes[network].error)
        return seen

    def _outcome(self, network: str) -> OverlayOutcome:
        one: Configured = self._configured[network]
        try:
            return OverlayOutcome(network, self._look(network, one.conf))
        except (CniError, OSError) as err:
            return OverlayOutcome(network, None, told(err))

    def plan(self, served: ServedPlugin, facts: Facts) -> Plan:
        """Return the plan of one attachment, without the steps for its network.

        :raises CniError: as `bring_in_line`.
        """
        request = served.request
        seen = self.bring_in_line(request.network)
        return own_plan(request, seen.overlay, seen.host, lease(request), facts)


def _in_directory(directory: Path) -> overlay_configs.FoundConfigs:
    try:
        return overlay_configs.in_directory(directory)
    except OSError:  # networks may be known by their attachments alone
        return overlay_configs.FoundConfigs()
