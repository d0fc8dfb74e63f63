"""Defines the version line of cnictl, and the argument with which it starts itself as the agent's process."""

from cni_plugins.engine.build import BUILD
from cni_plugins.front.version import VERSION

AGENT_PROCESS = "@agent"
VERSION_LINE = f"cnictl {VERSION} (build {BUILD})"
