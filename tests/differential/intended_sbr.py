"""Where our sbr differs from the reference's on purpose."""

from tests.differential.intention import (
    DEBIAN,
    Intended,
    is_deleted,
    is_found_by_check,
    is_refused,
)

_OURS = ("sbr: *",)

_MARKS = (
    Intended("rules bear a mark by which DEL finds them", "*policy > * > marked", "false", "true", _OURS),
    Intended("rules bear our own protocol number", "*policy > * > protocol", '"none"', '"217"', _OURS),
    Intended("routes bear our own protocol number", "*routes > * > protocol", '"kernel"', '"217"', _OURS),
)

_ROUTES = (
    Intended(
        "link-local neighbours need their route in the main table",
        "*box1 > routes > v6 fe80::/64 - eth0 main 256",
        "absent",
        "present",
        _OURS,
    ),
    Intended(
        "a table that only IPv4 packets are sent to needs no routes of IPv6",
        "*box1 > routes > v6 * - eth0 10? 256",
        "present",
        "absent",
        _OURS,
    ),
    Intended(
        "DEL leaves no routes in tables that the next ADD is to find empty",
        "?:DEL > box1 > routes > v? * eth0 10? *",
        "present",
        "absent",
        _OURS,
    ),
    Intended(
        "a route whose gateway is in no subnet of the interface is not lost",
        "*box1 > routes > v? * eth0 100 *",
        "absent",
        "present",
        ("sbr: a gateway outside the subnet", "sbr: a link-local gateway"),
    ),
    Intended(
        "a table that somebody has filled is not taken",
        "*box1 > * > *",
        cases=("sbr: a table that has a route",),
    ),
)

_OUTCOMES = (
    *is_refused("a table number that the kernel does not have is told", "sbr: a table out of range"),
    *is_found_by_check(
        "CHECK looks at rules, at tables, and at the config",
        "sbr: tampered, *",
        "sbr: a table of the wrong type",
    ),
    *is_deleted(
        "DEL needs neither netns nor a valid config",
        "sbr: deleted without netns",
        "sbr: deleted with a table of the wrong type",
        "sbr: a table of the wrong type",
    ),
    Intended(
        "DEL finds the rules by their marks",
        "?:DEL > box1 > policy",
        "present",
        "absent",
        (
            "sbr: deleted without the interface",
            "sbr: deleted with other addresses",
            "sbr: deleted with a table of the wrong type",
        ),
    ),
    Intended(
        "a second ADD leaves nothing behind",
        "3:ADD > box1 > policy > v4 10.2.0.2 101 *",
        "present",
        "absent",
        ("sbr: added twice",),
    ),
)

_OLD_REFERENCE = (
    Intended(
        "1.1.1 knew no key table, and chose one itself",
        "*",
        cases=("sbr: a given table", "sbr: a small given table", "sbr: a table of the wrong type"),
        against=DEBIAN,
    ),
    Intended(
        "1.1.1 could not delete what an interface that is gone had",
        "?:DEL > answer > *",
        cases=("sbr: an interface that is not there", "sbr: deleted without the interface"),
        against=DEBIAN,
    ),
    Intended(
        "1.1.1 dropped route attributes when it converted",
        "*answer > result > routes > 0 > priority",
        "absent",
        "50",
        ("sbr: a default route with a metric",),
        DEBIAN,
    ),
)

SBR = (*_MARKS, *_ROUTES, *_OUTCOMES, *_OLD_REFERENCE)
