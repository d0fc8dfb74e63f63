"""Defines the steps for addresses, routes and the settings under /proc/sys/net."""

from typing import Final, Literal

from cni_plugins.protocol.fields import IPAddress, IPInterface
from cni_plugins.steps.step import HOST, PASSING, REMOVING, Place, Removal, Step, place

SCOPE_UNIVERSE, SCOPE_LINK, SCOPE_HOST = 0, 253, 254  # of addresses and routes, linux/rtnetlink.h


class EnsureAddress(Step):
    """The link has the address.

    :param skip_dad: an IPv6 address is usable at once, without duplicate address detection (RFC 4862, 5.4).
    :param optimistic: it is usable during detection (RFC 4429); where the kernel cannot, as `skip_dad`.
    :param prefix_route: the kernel routes the address's subnet to the link.
    :param metric: of that route, 0: the kernel's default.
    :param scope: how far an IPv4 address is valid (linux/rtnetlink.h): the kernel does not choose one of
        scope link as the source of packets that leave the link.
    :param deprecated: the host answers to an IPv6 address, but sends from others (RFC 4862, 5.5.4).
    """

    where: Place
    link: str
    address: IPInterface
    skip_dad: bool = False
    optimistic: bool = False
    prefix_route: bool = True
    metric: int = 0
    scope: int = 0
    deprecated: bool = False

    def inverse(self, before: str) -> Step:
        return DelAddress(self.where, self.link, self.address)

    @property
    def is_shared(self) -> bool:
        return self.where == HOST

    def phrase(self) -> str:
        return f"add address {self.address} to {self.link} {place(self.where)}"


class DelAddress(Step):
    """The link does not have the address."""

    where: Place
    link: str
    address: IPInterface

    not_repaired_because = REMOVING

    def inverse(self, before: str) -> Step:
        return EnsureAddress(self.where, self.link, self.address, skip_dad=True)

    @property
    def is_shared(self) -> bool:
        return self.where == HOST

    def phrase(self) -> str:
        return f"delete address {self.address} of {self.link} {place(self.where)}"


class AddRoute(Step):
    """A route out of the link; zero and None leave the value to the kernel.

    :param onlink: the gateway is a neighbour although no subnet of the link contains it.
    :param src: the source address of packets that the host itself sends by this route.
    :param exclusive: refused if there is a route to `dst` already, whatever its link.
    """

    where: Place
    link: str
    dst: IPInterface
    gw: IPAddress | None = None
    mtu: int = 0
    advmss: int = 0
    priority: int = 0
    table: int | None = None
    scope: int | None = None
    onlink: bool = False
    src: IPAddress | None = None
    exclusive: bool = False

    def inverse(self, before: str) -> Step:
        return DelRoute(self.where, self.link, self.dst, self.gw, self.priority, self.table)

    def phrase(self) -> str:
        via = f" via {self.gw}" if self.gw else ""
        return f"add route {self.dst.network}{via} out of {self.link} {place(self.where)}"


class DelRoute(Removal):
    """No such route out of the link."""

    where: Place
    link: str
    dst: IPInterface
    gw: IPAddress | None = None
    priority: int = 0
    table: int | None = None

    def phrase(self) -> str:
        return f"delete route {self.dst.network} out of {self.link} {place(self.where)}"


class AwaitAddresses(Step):
    """Duplicate address detection has accepted every address of the link."""

    where: Place
    link: str

    kept_because = "waiting cannot be undone"
    not_repaired_because = PASSING

    def phrase(self) -> str:
        return f"wait for duplicate address detection on {self.link} {place(self.where)}"


# How much depends on a setting. REQUIRED: the container does not work without it. IF_PRESENT: the same,
# unless the kernel lacks the setting (no IPv6, for example) or it is read-only. WANTED: nice to have; a
# refusal fails nothing, and CHECK does not demand it, as a later plugin of the chain or the container may
# have chosen another value.
Need = Literal["required", "if present", "wanted"]
REQUIRED: Final = "required"
IF_PRESENT: Final = "if present"
WANTED: Final = "wanted"


class EnsureSysctl(Step):
    """A setting has a value; the key is its path below /proc/sys/net in parts: link names may have dots."""

    where: Place
    key: tuple[str, ...]
    value: str
    need: Need = REQUIRED

    def inverse(self, before: str) -> Step:
        return EnsureSysctl(self.where, self.key, before, self.need)

    @property
    def is_shared(self) -> bool:
        return self.where == HOST

    def phrase(self) -> str:
        return f"set sysctl net.{'.'.join(self.key)} to {self.value} {place(self.where)}"


class EnableForwarding(Step):
    """The host routes packets of these address families (4, 6).

    Links that have routes from IPv6 router advertisements go on accepting them.
    """

    families: tuple[int, ...]

    kept_because = "a setting of the whole host that others may rely on by now; every plan has it last"
    not_repaired_because = ""

    def phrase(self) -> str:
        return f"enable forwarding of {' and '.join(f'IPv{family}' for family in self.families)}"
