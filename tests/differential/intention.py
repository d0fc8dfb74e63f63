"""The words intended differences are written in."""

from dataclasses import dataclass

DEBIAN = "debian"
EVERYWHERE = ("*",)


@dataclass(frozen=True)
class Intended:
    """One intended difference: why, where, and what either side shows there."""

    reason: str
    where: str
    theirs: str = "*"
    ours: str = "*"
    cases: tuple[str, ...] = EVERYWHERE
    against: str = "*"


def becomes_possible(reason: str, *cases: str) -> tuple[Intended, ...]:
    """The reference refuses what ours does: that is asserted, the other differences follow from it."""
    return (
        Intended(reason, "?:* > answer > code", "1", "0", cases),
        Intended(reason, "?:* > *", cases=cases),
    )


def is_found_by_check(reason: str, *cases: str) -> tuple[Intended, ...]:
    """The reference's CHECK is content, ours is not."""
    return (
        Intended(reason, "?:CHECK > answer > code", "0", "1", cases),
        Intended(reason, "?:CHECK > answer > error*", "absent", cases=cases),
        Intended(reason, "?:CHECK > answer > stdout", '"nothing"', "absent", cases),
    )


def is_taken_away(
    reason: str, *cases: str, places: tuple[str, ...] = ("host", "box?")
) -> tuple[Intended, ...]:
    """Links, routes and sysctls that only the reference leaves behind."""
    return tuple(Intended(reason, f"?:* > {place} > *", "*", "absent", cases) for place in places)


def is_deleted(reason: str, *cases: str) -> tuple[Intended, ...]:
    """The reference's DEL fails, ours does not."""
    return (
        Intended(reason, "?:DEL > answer > code", "1", "0", cases),
        Intended(reason, "?:DEL > answer > error*", ours="absent", cases=cases),
        Intended(reason, "?:DEL > answer > stdout", "absent", '"nothing"', cases),
    )


def is_refused(reason: str, *cases: str) -> tuple[Intended, ...]:
    """Ours refuses what the reference does: that is asserted, the other differences follow from it."""
    return (
        Intended(reason, "?:ADD > answer > code", "0", "1", cases),
        Intended(reason, "?:* > *", cases=cases),
    )
