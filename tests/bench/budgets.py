"""What we have set ourselves. The report tells whether it is kept; no test does, for machines differ."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from tests.bench.columns import COLD, WARM
from tests.bench.rows import Row


class Verdict(NamedTuple):
    """A line of the report."""

    what: str
    limit: str
    found: str
    is_kept: bool


_TIMES = "×"  # noqa: RUF001 (the sign that is meant)


@dataclass(frozen=True)
class Budget:
    """At most `limit` of something that the rows tell, or do not when it was not measured."""

    what: str
    limit: float
    unit: str
    value: Callable[[dict[str, Row], list[str]], float | None]

    def verdict(self, rows: list[Row], references: list[str]) -> Verdict | None:
        """None when a part of it was not measured."""
        value = self.value({row.operation: row for row in reversed(rows)}, references)
        if value is None:
            return None
        digits = 2 if self.unit == _TIMES else 1
        return Verdict(
            self.what, f"{self.limit:g} {self.unit}", f"{value:.{digits}f} {self.unit}", value <= self.limit
        )


def _ratio(operation: str, limit: float, label: str = WARM) -> Budget:
    def value(rows: dict[str, Row], references: list[str]) -> float | None:
        row = rows.get(operation)
        return _divided(row and row.median(label), row and row.fastest(references))

    return Budget(f"{operation}, {label.rpartition(' ')[2]}, to the faster reference", limit, _TIMES, value)


def _absolute(operation: str, limit: float, unit: str, label: str) -> Budget:
    def value(rows: dict[str, Row], _: list[str]) -> float | None:
        row = rows.get(operation)
        return row.median(label) if row else None

    return Budget(f"{operation}, {label.rpartition(' ')[2]}", limit, unit, value)


def _to_itself(operation: str, basis: str, limit: float, label: str) -> Budget:
    def value(rows: dict[str, Row], _: list[str]) -> float | None:
        one, other = rows.get(operation), rows.get(basis)
        return _divided(one and one.median(label), other and other.median(label))

    return Budget(f"{operation}, {label.rpartition(' ')[2]}, to {basis}", limit, _TIMES, value)


def _agent(limit: float) -> Budget:
    def value(rows: dict[str, Row], _: list[str]) -> float | None:
        row = rows.get("agent with two workers")
        return max((row.median(label) or 0.0 for label in row.samples), default=None) if row else None

    return Budget("agent with two workers, PSS", limit, "MB", value)


def _divided(one: float | None, other: float | None) -> float | None:
    return one / other if one is not None and other else None


ALL = (
    _absolute("VERSION", 30, "ms", COLD),
    _absolute("bridge + host-local ADD", 100, "ms", COLD),
    _ratio("bridge + host-local ADD", 0.7),
    _ratio("… ipMasq ADD", 0.4),
    _ratio("… dual-stack ipMasq ADD", 0.2),
    _ratio("bridge + host-local DEL", 1.0),
    _ratio("… ipMasq DEL", 0.4),
    _ratio("… dual-stack ipMasq DEL", 0.4),
    _ratio("macvlan + host-local, IPv6 ADD", 0.02),
    _ratio("macvlan + host-local, dual-stack ADD", 0.02),
    _ratio("ptp + host-local, IPv6 ADD", 0.02),
    _ratio("ptp, dual-stack ipMasq ADD", 0.02),
    _to_itself("host-local, 60 000 leases, ADD", "host-local, 0 leases, ADD", 1.2, COLD),
    _to_itself("host-local, 60 000 leases, ADD", "host-local, 0 leases, ADD", 1.2, WARM),
    _ratio("60 parallel dual-stack ipMasq ADD, wall", 0.4),
    _ratio("60 parallel dual-stack ipMasq ADD, CPU", 0.6),
    _agent(45),
)
