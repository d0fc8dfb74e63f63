"""Where our portmap, firewall and bandwidth differ from the reference's on purpose."""

from tests.differential.intention import DEBIAN, Intended, is_deleted, is_found_by_check, is_refused

_CHECKED_BY_1_1_1 = tuple(
    f"portmap: {name}"
    for name in (
        *("one port", "UDP", "SCTP", "IPv6", "dual stack", "an address of the host", "any address"),
        *("an address of the other version", "seventeen ports", "without snat", "masqAll", "another mark"),
        "conditions",
    )
)

CHAIN = (
    *is_deleted(
        "DEL needs no valid config",
        "bandwidth: a rate without burst",
        "bandwidth: a burst without rate",
        "bandwidth: rate of the wrong type",
        "bandwidth: a negative rate",
        "bandwidth: limits of the runtime without burst",
        "firewall: a policy that does not exist",
        "firewall: policy of the wrong type",
        "portmap: a mark that does not exist",
        "portmap: two marks",
        "portmap: port 0",
        "portmap: container port 0",
        "portmap: port of the wrong type",
        "portmap: deleted without ports",
    ),
    *is_found_by_check("CHECK reads the policy too", "firewall: a policy that does not exist"),
    *is_refused("a mapping that cannot be understood is not left out", "portmap: a rubbish address"),
    *(
        Intended("CHECK succeeds where nothing is limited", f"3:CHECK > answer > {what}", *sides, cases)
        for cases in [("bandwidth: no limits",)]
        for what, sides in (
            ("code", ("1", "0")),
            ("error*", ("*", "absent")),
            ("stdout", ("absent", '"nothing"')),
        )
    ),
    *(
        Intended(
            "1.1.1 looks for the rules of one IP version in that of the other",
            f"3:CHECK > answer > {what}",
            *sides,
            _CHECKED_BY_1_1_1,
            DEBIAN,
        )
        for what, sides in (
            ("code", ("1", "0")),
            ("error*", ("*", "absent")),
            ("stdout", ("absent", '"nothing"')),
        )
    ),
)
