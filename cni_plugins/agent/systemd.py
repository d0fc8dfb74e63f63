"""Notifies the service manager that started the agent, with the protocol of sd_notify(3)."""

import os
import socket
from collections.abc import MutableMapping


class Supervisor:
    """The service manager that started the agent; without NOTIFY_SOCKET nothing is sent."""

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        self._address = environment.pop("NOTIFY_SOCKET", "")
        micros, pid = environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", "")
        meant = pid in ("", str(os.getpid())) and micros.isascii() and micros.isdecimal()
        self.watchdog = int(micros) / 1e6 if meant else 0.0
        """Seconds within which it expects WATCHDOG=1; 0: never."""

    def environment(self) -> dict[str, str]:
        """Return the variables that the program executed next in this process needs to notify it too."""
        watchdog = {"WATCHDOG_USEC": str(int(self.watchdog * 1e6))} if self.watchdog else {}
        return {"NOTIFY_SOCKET": self._address, **watchdog} if self._address else {}

    def notify(self, *lines: str) -> None:
        """Send assignments such as READY=1; failures are ignored."""
        if not self._address:
            return
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            try:
                sender.settimeout(0)
                sender.sendto("\n".join(lines).encode(), address)
            except OSError:
                pass
