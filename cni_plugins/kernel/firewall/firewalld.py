"""Adds containers' addresses to a zone of firewalld, and removes them, over D-Bus.

Sources are written as the reference writes them, so that either implementation removes the other's. They are
firewalld's runtime configuration, which a reload or restart of it drops: CHECK then fails. D-Bus is spoken by
jeepney, which is imported only where there is a system bus, and firewalld may be on it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import closing
from typing import TYPE_CHECKING, Any, TypeVar

from cni_plugins.errors import (
    BadEnvironment,
    CniError,
    InvalidNetworkConfig,
    KernelRefused,
    NameTaken,
    TryAgainLater,
)
from cni_plugins.kernel.deed import deed
from cni_plugins.kernel.firewall import forward_records
from cni_plugins.kernel.firewall.forward_records import FIREWALLD
from cni_plugins.kernel.session.session import Session
from cni_plugins.protocol.fields import IPAddress
from cni_plugins.steps.forwarding_filter import EnsureFirewalldSources

if TYPE_CHECKING:
    from jeepney.io.blocking import DBusConnection

_USUAL = "/run/dbus/system_bus_socket"
_NAME, _PATH = "org.fedoraproject.FirewallD1", "/org/fedoraproject/FirewallD1"
_BUS_NAME, _BUS_PATH = "org.freedesktop.DBus", "/org/freedesktop/DBus"
_TIMEOUT = 5.0  # seconds, for each answer
_LONGEST = 500  # characters of firewalld's own text in an error

T = TypeVar("T")


class _Answered(Exception):
    """An error that came as an answer: of firewalld or the bus."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(kind, text)
        self.kind = kind
        self.text = text[:_LONGEST]


def source(address: IPAddress) -> str:
    """Return an address as the reference gives it to firewalld."""
    return f"{address}/{address.max_prefixlen}"


# ---------------------------------------------------------------------------------------------- asking


def runs(bus: str) -> bool:
    """Say whether firewalld is on the system bus.

    :raises TryAgainLater: when the bus does not answer.
    """
    return _on_bus(bus, lambda _: True, absent=False)


def zones(bus: str) -> tuple[str, ...] | None:
    """Return the names of the zones, None if firewalld does not run."""

    def ask(connection: DBusConnection) -> tuple[str, ...]:
        return tuple(map(str, _call(connection, "getZones")))

    return _on_bus(bus, ask, absent=None)


def _ensure(session: Session, step: EnsureFirewalldSources) -> None:
    """Record the addresses before they are added, but none that firewalld has in another zone."""

    def add(connection: DBusConnection) -> bool:
        there = {address: _zone_of(connection, address) for address in step.addresses}
        for address, zone in there.items():
            if zone not in ("", step.zone):
                raise _other_zone(step, address, zone)
        forward_records.ensure(session, FIREWALLD, step.addresses, step.owner)
        for address, zone in there.items():
            if not zone:
                _add(connection, step, address)
        return True

    if not _on_bus(step.bus, add, absent=False):
        raise TryAgainLater("firewalld does not run", f"{_NAME} is not on the system bus")


def _add(connection: DBusConnection, step: EnsureFirewalldSources, address: IPAddress) -> None:
    try:
        _call(connection, "addSource", step.zone, source(address))
    except _Answered as err:
        if "ZONE_ALREADY_SET" in err.text:  # by another call meanwhile
            return
        if "INVALID_ZONE" in err.text:
            raise InvalidNetworkConfig(
                f"firewalld has no zone {step.zone}", f"firewalldZone is {step.zone}"
            ) from err
        if "ZONE_CONFLICT" in err.text:
            raise _other_zone(step, address, "another") from err
        raise


def _other_zone(step: EnsureFirewalldSources, address: IPAddress, zone: str) -> NameTaken:
    return NameTaken(
        f"firewalld has {source(address)} in a zone other than {step.zone}",
        f"firewalldZone is {step.zone}, its zone is {zone}",
    )


def _differs(session: Session, step: EnsureFirewalldSources) -> str:
    def compare(connection: DBusConnection) -> str:
        for address in step.addresses:
            zone = _zone_of(connection, address)
            if zone != step.zone:
                where = f"in zone {zone}" if zone else "in no zone"
                return f"firewall: firewalld has {source(address)} {where}, not in {step.zone}"
        return ""

    difference = _on_bus(step.bus, compare, absent="firewall: firewalld does not run")
    if difference:
        return difference
    return forward_records.differ(session, FIREWALLD, step.addresses, step.owner, expected=step.is_recorded)


def delete(bus: str, addresses: Iterable[IPAddress], zone: str = "") -> None:
    """Remove sources; where firewalld does not run it has none.

    :param zone: only from this zone; empty: from whichever they are in.
    """

    def remove(connection: DBusConnection) -> None:
        for address in addresses:
            found = _zone_of(connection, address)
            if found and zone in ("", found):
                _call(connection, "removeSource", found, source(address))

    _on_bus(bus, remove, absent=None)


# ---------------------------------------------------------------------------------------------- speaking


def _on_bus(bus: str, act: Callable[[DBusConnection], T], absent: T) -> T:
    """Call a function with a connection to the bus that firewalld is on; return `absent` if it is on none.

    :raises TryAgainLater: when the bus or firewalld does not answer in time, or went away.
    """
    if not bus and not os.path.exists(_USUAL):
        return absent
    try:
        with closing(_connected(bus)) as connection:
            return act(connection) if _is_there(connection) else absent
    except (FileNotFoundError, ConnectionRefusedError):
        return absent
    except TimeoutError as err:
        raise TryAgainLater(
            "firewalld or the D-Bus system bus does not answer", f"within {_TIMEOUT} s"
        ) from err
    except _Answered as err:
        raise _translated(err) from err
    except OSError as err:
        raise TryAgainLater(
            "the connection to firewalld broke", f"{err.strerror} (errno {err.errno})"
        ) from err
    except ValueError as err:
        raise KernelRefused("the D-Bus system bus gave an answer that is none", str(err)[:_LONGEST]) from err


def _connected(bus: str) -> DBusConnection:
    """Connect to the bus, with a limit to the time of every answer, that of the greeting included."""
    from jeepney.bus import get_bus
    from jeepney.io.blocking import DBusConnection, prep_socket

    class Limited(DBusConnection):  # type: ignore[misc]  # the library has no types
        def send_and_get_reply(self, message: Any, *, timeout: float | None = None) -> Any:  # noqa: ANN401
            return super().send_and_get_reply(message, timeout=timeout or _TIMEOUT)

    try:
        address = get_bus(bus) if bus else _USUAL
    except (ValueError, RuntimeError) as err:
        raise BadEnvironment("DBUS_SYSTEM_BUS_ADDRESS is not an address of a local bus", bus) from err
    return Limited(prep_socket(address, timeout=_TIMEOUT))


def _is_there(connection: DBusConnection) -> bool:
    return _ask(connection, (_BUS_NAME, _BUS_PATH, _BUS_NAME), "NameHasOwner", _NAME) is True


def _zone_of(connection: DBusConnection, address: IPAddress) -> str:
    """Return the zone that a source is in, empty if it is in none."""
    return str(_call(connection, "getZoneOfSource", source(address)))


def _call(connection: DBusConnection, method: str, *values: str) -> Any:  # noqa: ANN401 (what the method returns)
    return _ask(connection, (_NAME, _PATH, f"{_NAME}.zone"), method, *values)


def _ask(connection: DBusConnection, target: tuple[str, str, str], method: str, *values: str) -> Any:  # noqa: ANN401 (what the method returns)
    """Call a method with texts; return the one value of its answer.

    :raises _Answered: when the answer is an error.
    """
    from jeepney import DBusAddress, HeaderFields, MessageFlag, MessageType, new_method_call

    name, path, interface = target
    address = DBusAddress(path, bus_name=name, interface=interface)
    message = new_method_call(address, method, "s" * len(values) or None, values)
    message.header.flags |= MessageFlag.no_auto_start
    answer = connection.send_and_get_reply(message)
    body = answer.body or ("",)
    if answer.header.message_type is MessageType.error:
        raise _Answered(str(answer.header.fields.get(HeaderFields.error_name)), str(body[0]))
    return body[0]


def _translated(err: _Answered) -> CniError:
    details = f"{err.kind}: {err.text}"
    if err.kind.startswith(f"{_BUS_NAME}.Error.") and not err.kind.endswith("AccessDenied"):
        return TryAgainLater("firewalld went away, or does not answer", details)
    return KernelRefused("firewalld refused", details)


DEEDS = deed(EnsureFirewalldSources, _ensure, _differs)
