"""Defines the steps for limits of bandwidth: token buckets, ifb links, and redirections to them."""

from typing import NamedTuple

from cni_plugins.steps.links import SetDown
from cni_plugins.steps.step import ABSENT, HOST, REMOVING, Step

DOWN = "down"  # what `EnsureIfb` found: a link that was down


class Bucket(NamedTuple):
    """A token bucket: bytes per second, and the bytes that may pass at once.

    :param buffer: the burst as the kernel has it, the time that it takes in ticks of 64 ns.
    :param limit: the length of the queue in bytes. Both are 0 where they follow from the burst, and given
        where a bucket is to be as it was.
    """

    rate: int
    burst: int
    buffer: int = 0
    limit: int = 0

    @property
    def text(self) -> str:
        """The bucket in the form that `parsed` reads."""
        return " ".join(map(str, self))


def parsed(text: str) -> Bucket | None:
    """Return the bucket of a text, None if it is empty."""
    return Bucket(*map(int, text.split())) if text else None


class SetBucket(Step):
    """What leaves by the host link passes this token bucket; None: no token bucket of the suite."""

    link: str
    bucket: Bucket | None

    not_repaired_because = ""

    def inverse(self, before: str) -> Step:
        return SetBucket(self.link, parsed(before))

    def phrase(self) -> str:
        if self.bucket is None:
            return f"remove the rate limit of {self.link}"
        return f"limit the rate of {self.link} to {8 * self.bucket.rate} bit/s"


class EnsureIfb(Step):
    """An ifb link of this name is up: packets redirected to it pass its qdisc, and go on where they were.

    The alias is set in the same call that creates the link, so that GC always knows the owner. It is empty
    for a link that the reference made, which has none.
    """

    name: str
    mac: str
    mtu: int
    alias: str

    not_repaired_because = ""

    def inverse(self, before: str) -> Step:
        return SetDown(HOST, self.name) if before == DOWN else DelIfb(self.name, self.alias)

    def phrase(self) -> str:
        return f"create ifb link {self.name}"


class DelIfb(Step):
    """There is no ifb link of this name with an alias of the same attachment; empty: without an alias."""

    name: str
    alias: str

    not_repaired_because = REMOVING

    def inverse(self, before: str) -> Step:
        mac, mtu = before.split()
        return EnsureIfb(self.name, mac, int(mtu), self.alias)

    def phrase(self) -> str:
        return f"delete ifb link {self.name}"


class SetRedirect(Step):
    """What enters the host by a link goes through the ifb link first; empty: no redirection of the suite."""

    link: str
    ifb: str

    not_repaired_because = ""

    def inverse(self, before: str) -> Step:
        return SetRedirect(self.link, "" if before == ABSENT else before)

    def phrase(self) -> str:
        return f"redirect {self.link} to {self.ifb}" if self.ifb else f"end the redirection of {self.link}"
