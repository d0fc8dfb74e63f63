"""Where our macvlan differs from the reference's on purpose."""

from tests.differential.intention import (
    DEBIAN,
    Intended,
    becomes_possible,
    is_deleted,
    is_found_by_check,
    is_taken_away,
)

_OURS = ("macvlan: *", "version *: macvlan")
_EARLY = "an address is of use at once, and still given up when the wire has it (RFC 4429)"
_BOXES = ("box?",)  # nothing of macvlan stays in the host
_OWN = "the plugin's own netns is refused before anything is done, in one document"

_OLD = (
    Intended(
        "1.1.1 knew no linkInContainer", "?:* > *", cases=("macvlan: linkInContainer*",), against=DEBIAN
    ),
    Intended("1.1.1 knew no bcqueuelen", "*bcqueuelen", "1000", against=DEBIAN),
    Intended("1.1.1 knew no bcqueuelen", "?:* > *", cases=("macvlan: *bcqueuelen*",), against=DEBIAN),
    Intended(
        "1.1.1 wanted at DEL what it wants at ADD",
        "?:DEL > leases > net/*",
        "present",
        "absent",
        ("macvlan: *",),
        DEBIAN,
    ),
)

_LINKS = (
    Intended(_EARLY, "*sysctls > *optimistic*", '"0"', '"1"', _OURS),
    Intended(_EARLY, "*ADD > box? > links > * > optimistic", "absent", "true", _OURS),
    Intended(_EARLY, "*ADD > box? > links > * > tentative", "false", "true", _OURS),
    *becomes_possible(_EARLY, "macvlan: an address that the wire has"),
    Intended(
        "args.cni is a source of MAC addresses for every plugin",
        "*mac",
        '"mac(box1:eth0)"',
        '"02:*"',
        ("macvlan: MAC of args.cni",),
    ),
    Intended(
        "mode passthru gives the master the MAC address that was asked for",
        "*mac",
        '"mac(eth0)"',
        '"02:*"',
        ("macvlan: mac in mode passthru",),
    ),
    Intended(
        "mtu and advmss of a route are honoured",
        "*box1 > routes > * > metrics*",
        "absent",
        cases=("macvlan: routes with mtu and advmss",),
    ),
    Intended(
        "through what has no gateway itself, other gateways can be reached",
        "*box1 > routes > * > scope",
        '"global"',
        '"link"',
        ("macvlan: a route without any gateway",),
    ),
    Intended(
        "the IPAM's dns is no less worth than with a bridge",
        "1:ADD > answer > *",
        cases=("macvlan: dns of the IPAM", "macvlan: static addresses"),
    ),
    Intended(
        "what plugins before it made stays in the result of a chain",
        "1:ADD > answer > *",
        cases=("macvlan: prevResult of a chain",),
    ),
)

_OUTCOMES = (
    *is_taken_away(
        "a failed ADD takes back everything it did",
        "macvlan: a default route without address",
        "macvlan: an IPAM that is not there",
        "macvlan: an IPAM that refuses",
        "macvlan: an IPAM without addresses",
        "macvlan: layer 2 only in 0.2.0",
        "macvlan: mtu too small for IPv6",
        "macvlan: one route twice",
        "macvlan: the IPAM's pool is exhausted",
        "macvlan: the mac of another container",
        places=_BOXES,
    ),
    Intended(
        "IPAM is asked before the kernel is touched",
        "?:* > leases > net/last_reserved_ip.0 > content",
        cases=(
            "macvlan: a second container in mode passthru",
            "macvlan: mode passthru beside mode bridge",
            "macvlan: the mac of another container",
        ),
    ),
    *is_deleted("DEL never validates more than it needs", *_OURS),
    *is_taken_away(
        "DEL never validates more than it needs",
        "macvlan: deleted with broken CNI_ARGS",
        "macvlan: deleted with an IPAM that is not there",
        "macvlan: deleted with a* mtu*",
        "macvlan: deleted without a master",
        "macvlan: the master's mtu was lowered",
        "macvlan: the default route is gone at DEL",
        places=_BOXES,
    ),
    *is_taken_away(
        "DEL does not need the netns to take the link away",
        "macvlan: deleted without netns",
        "macvlan: deleted with an empty netns",
        "macvlan: deleted with a netns that is*",
        "macvlan: linkInContainer and the sandbox is gone",
        "macvlan: tampered, link renamed",
        places=_BOXES,
    ),
    Intended(
        "DEL never validates more than it needs",
        "?:DEL > leases > net/*",
        "present",
        "absent",
        ("macvlan: deleted with broken CNI_ARGS", "macvlan: deleted with an mtu of a wrong type"),
    ),
    Intended(
        "DEL leaves alone what is no macvlan link",
        "?:DEL > box1 > *",
        "absent",
        cases=("macvlan: deleted when the interface is another's", "macvlan: tampered, link replaced"),
    ),
    Intended(_OWN, "?:* > *", cases=("macvlan: netns is the*", "macvlan: deleted in the*")),
    Intended("STATUS says that no ADD would succeed", "1:STATUS > *", cases=("macvlan: status without*",)),
    Intended("GC takes away what is not valid", "2:GC > *", "*", "absent", ("macvlan: gc of what*",)),
    *becomes_possible("the default route may have several ways", "macvlan: a default route of several ways"),
    *becomes_possible(
        "an address that is there already is what was wanted", "macvlan: a static address twice"
    ),
    *becomes_possible("a gateway beyond the subnet is taken at its word", "macvlan: a route whose gateway*"),
    *becomes_possible("CHECK looks for a route in its own table", "macvlan: routes with priority and table"),
    *becomes_possible(
        "an address of one host needs no connected route", "macvlan: a static address of one host"
    ),
    *is_found_by_check("CHECK looks at the gateway of routes", "macvlan: tampered, route by another gateway"),
)

MACVLAN = (*_OLD, *_LINKS, *_OUTCOMES)
