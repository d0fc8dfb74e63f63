"""Defines the step that keeps a container from the host that it runs on."""

from cni_plugins.ownership import Owner
from cni_plugins.steps.firewall import DelOwnedRules
from cni_plugins.steps.step import Step


class EnsureHostGuard(Step):
    """The host itself takes no frame that enters by this port of a bridge; other ports get them."""

    owner: Owner
    link: str

    may_be_half_done = True
    not_repaired_because = ""

    def inverse(self, before: str) -> Step:
        return DelOwnedRules(self.owner)

    def phrase(self) -> str:
        return f"keep frames of {self.link} from the host"
