"""Defines the files through which the keeper tells plugins what it found in a store, and reads them.

    /run/cni-plugins/overlay/<network>/peers.json   {"self": node, "peers": [record, …]}; as a peersFile
    /run/cni-plugins/overlay/<network>/state.json   {"state", "trouble", "since", "confirmed"}
    /run/cni-plugins/blocks/<network>/…             likewise for the IPAM plugin `cluster`
    /var/lib/cni-plugins/overlay/<network>/         copies, for a boot while the store is away; self.json

They are written by rename, mode 0600 in directories of mode 0700. `state.json` changes without the peers.
"""

import json
import os
from contextlib import suppress
from typing import Any, Literal, NamedTuple, get_args

RUN = "/run/cni-plugins"
KEPT = "/var/lib/cni-plugins"
_LARGEST = 64 << 10  # bytes of state.json

StateName = Literal["following", "broken", "held", "refused"]
"""following: all is well; broken: the store cannot be reached; held: its answer is not believed yet; refused:
another host has our name, address or subnet, or there is no free one."""


class KeeperState(NamedTuple):
    """What the keeper says of one network.

    :param trouble: a sentence, empty if there is none.
    :param since: when this state began, in seconds since 1970.
    :param confirmed: when the store last confirmed what the snapshot says; 0: never.
    """

    state: StateName
    trouble: str = ""
    since: float = 0.0
    confirmed: float = 0.0


def overlay_dir(network: str, base: str = RUN) -> str:
    """:param network: a valid network name, which has no slash and does not begin with a dot."""
    return f"{base}/overlay/{network}"


def blocks_dir(network: str, base: str = RUN) -> str:
    return f"{base}/blocks/{network}"


def read_state(directory: str) -> KeeperState | None:
    """Return what the keeper last said; None: nothing, or nothing that can be read."""
    try:
        fd = os.open(f"{directory}/state.json", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
        try:
            found = json.loads(os.read(fd, _LARGEST))
        finally:
            os.close(fd)
    except (OSError, ValueError):
        return None
    return _state(found)


def _state(found: Any) -> KeeperState | None:  # noqa: ANN401 (JSON is anything)
    if not isinstance(found, dict) or found.get("state") not in get_args(StateName):
        return None
    numbers = [found.get(key) for key in ("since", "confirmed")]
    since, confirmed = (float(n) if isinstance(n, int | float) else 0.0 for n in numbers)
    return KeeperState(found["state"], str(found.get("trouble", "")), since, confirmed)


def make_private(directory: str) -> None:
    """Create a directory and those above it that do not exist, for root alone.

    :raises OSError:
    """
    if not os.path.isdir(directory):
        make_private(os.path.dirname(directory))
        with suppress(FileExistsError):
            os.mkdir(directory, 0o700)


def write(directory: str, name: str, document: object) -> None:
    """Write JSON by rename, see `write_text`.

    :raises OSError:
    """
    write_text(directory, name, json.dumps(document, separators=(",", ":")))


def write_text(directory: str, name: str, text: str, *, durable: bool = False) -> None:
    """Write a file by rename, so that a reader finds the old content or the new one, also after a crash.

    :param durable: also after a power failure.
    :raises OSError:
    """
    make_private(directory)
    temporary = f"{directory}/.{name}.{os.getpid()}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(fd, "w") as file:
            file.write(text)
            if durable:
                file.flush()
                os.fsync(fd)
        os.rename(temporary, f"{directory}/{name}")
    except OSError:
        os.unlink(temporary)
        raise
