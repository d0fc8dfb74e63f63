"""Where a step acts: the network namespace the plugin runs in, or the container's."""

from typing import Final, Literal

Place = Literal["host", "sandbox"]
HOST: Final = "host"
SANDBOX: Final = "sandbox"
