"""The service manager that started the agent: what it told, and what it is told (sd_notify(3))."""

import os
import socket
from collections.abc import MutableMapping


class Supervisor:
    """The service manager that started us, told in the way of sd_notify(3); nobody when there is none."""

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        self._address = environment.pop("NOTIFY_SOCKET", "")
        micros, pid = environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", "")
        meant = pid in ("", str(os.getpid())) and micros.isascii() and micros.isdecimal()
        self.watchdog = int(micros) / 1e6 if meant else 0.0
        """Seconds within which it wants a sign of life; 0: it does not."""

    def environment(self) -> dict[str, str]:
        """Return what our successor in this process must find, to tell it too."""
        watchdog = {"WATCHDOG_USEC": str(int(self.watchdog * 1e6))} if self.watchdog else {}
        return {"NOTIFY_SOCKET": self._address, **watchdog} if self._address else {}

    def tell(self, *lines: str) -> None:
        """Send assignments such as READY=1; whether anybody hears them is not our concern."""
        if not self._address:
            return
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as messenger:
            try:
                messenger.settimeout(0)
                messenger.sendto("\n".join(lines).encode(), address)
            except OSError:
                pass
