"""Defines the steps for policy routing: rules, and routes that move from the main table to another."""

from cni_plugins.protocol.fields import IPAddress, IPInterface
from cni_plugins.steps.step import Place, Removal, Step, place

# A route as the kernel listed it, struct rtmsg and attributes, so that a copy has all that the original has.
RouteMessage = bytes


class AddRule(Step):
    """Packets from an address are routed by a table, before the main table is asked.

    :param mark: what the rule is recognised by; see ownership.Attachment.rule_mark. CHECK accepts a rule
        without mark too, as the reference makes it.
    """

    where: Place
    address: IPAddress
    table: int
    mark: int

    def inverse(self, before: str) -> Step:
        return DelRule(self.where, self.address, self.table, self.mark)

    def inverse_unheard(self) -> Step:
        return DelRule(self.where, self.address, self.table, self.mark)

    def phrase(self) -> str:
        return f"add rule from {self.address} lookup {self.table} {place(self.where)}"


class DelRule(Removal):
    """No such rule.

    :param mark: of the rule; 0: it has none, and is told from others by its priority.
    """

    where: Place
    address: IPAddress
    table: int
    mark: int = 0
    priority: int = 0

    def phrase(self) -> str:
        return f"delete rule from {self.address} lookup {self.table} {place(self.where)}"


class AddRouteCopy(Step):
    """A table contains a copy of a route of the main table, with the suite's protocol number."""

    where: Place
    dst: IPInterface
    message: RouteMessage
    table: int

    def inverse(self, before: str) -> Step:
        return DelRouteCopy(self.where, self.dst, self.message, self.table)

    def phrase(self) -> str:
        return f"copy route {self.dst.network} to table {self.table} {place(self.where)}"


class DelRouteCopy(Removal):
    """The table does not contain this copy."""

    where: Place
    dst: IPInterface
    message: RouteMessage
    table: int

    def phrase(self) -> str:
        return f"delete route {self.dst.network} of table {self.table} {place(self.where)}"


class DelMainRoute(Step):
    """The main table does not contain a route out of the link; the fields are those of AddMainRoute."""

    where: Place
    link: str
    dst: IPInterface
    message: RouteMessage = b""
    source: IPAddress | None = None

    def inverse(self, before: str) -> Step:
        return AddMainRoute(self.where, self.link, self.dst, self.message, self.source)

    def phrase(self) -> str:
        return f"delete route {self.dst.network} out of {self.link} {place(self.where)}"


class AddMainRoute(Step):
    """The main table contains a route out of the link.

    :param message: the route; empty in plans of CHECK, which compares any route to `dst`.
    :param source: replaces the source address of packets that have none yet; the route then has the suite's
        protocol number.
    """

    where: Place
    link: str
    dst: IPInterface
    message: RouteMessage = b""
    source: IPAddress | None = None

    def inverse(self, before: str) -> Step:
        return DelMainRoute(self.where, self.link, self.dst, self.message, self.source)

    def phrase(self) -> str:
        return f"add route {self.dst.network} out of {self.link} {place(self.where)}"


class DelTableRoutes(Removal):
    """No route of the suite, of one IP version, out of the link is left in a table."""

    where: Place
    link: str
    table: int
    version: int

    def phrase(self) -> str:
        return f"delete the IPv{self.version} routes out of {self.link} in table {self.table}"
