"""Where our ptp differs from the reference's on purpose."""

from tests.differential.intention import (
    DEBIAN,
    Intended,
    becomes_possible,
    is_deleted,
    is_found_by_check,
    is_refused,
    is_taken_away,
)

_OURS = ("ptp: *", "version *: ptp")
_ALONE = "on a link of two nobody else can have the address, so nobody is waited for"
_OWN = "the plugin's own netns is refused before anything is done, in one document"

_LINKS = (
    Intended(
        "the route to the subnet leads through the host from the start, none is made to be deleted",
        "*box? > links > * > noprefixroute",
        "absent",
        "true",
        _OURS,
    ),
    Intended(_ALONE, "*accept_dad", '"1"', '"0"', _OURS),
    Intended(
        "MAC addresses that were asked for are given to every plugin's links",
        "*mac",
        '"mac(box1:eth0)"',
        '"02:*"',
        ("ptp: MAC of *",),
    ),
    Intended(
        "mtu and advmss of a route are honoured",
        "*box1 > routes > * > metrics*",
        "absent",
        cases=("ptp: routes with mtu and advmss",),
    ),
    Intended(
        "no route of a daemon comes before the one to the container, as with IPv4",
        "*host > routes > v6 * main 1024",
        "present",
        "absent",
        _OURS,
    ),
    Intended(
        "no route of a daemon comes before the one to the container, as with IPv4",
        "*host > routes > v6 * main 1",
        "absent",
        "present",
        _OURS,
    ),
    Intended(
        "a gateway that is no neighbour is taken for one, as the subnet is not on the link from the start",
        "* > onlink",
        "false",
        "true",
        ("ptp: routes with and without gateway",),
    ),
    Intended(
        "the container's own address is no subnet to be reached through the host",
        "*box1 > routes > v6 fd00:1::20 *",
        "present",
        "absent",
        ("ptp: a static IPv6 address of one host",),
    ),
)

_REFUSALS = (
    *is_refused("an MTU that no link can have is told", "ptp: a negative mtu"),
    *is_refused(
        "host and container cannot talk when they have the same address",
        "ptp: the gateway is the container's own address",
    ),
    *is_refused(
        "an address the host reaches elsewhere is not the container's", "ptp: the host has a route to the*"
    ),
)

_OUTCOMES = (
    Intended(
        "what is amiss is told before IPAM is asked", "?:ADD > leases", "present", "absent", ("ptp: *",)
    ),
    Intended(
        "each of two gateways stays a way to the subnet",
        "*box1 > routes > v4 10.1.0.0/24 *",
        cases=("ptp: two gateways of one subnet",),
    ),
    *is_taken_away(
        "a failed ADD takes back everything it did",
        "ptp: a route of the other family",
        "ptp: a static address without gateway",
        "ptp: an unknown masquerade backend",
        "ptp: mtu too small for IPv6",
        "ptp: one of two static addresses without gateway",
        "ptp: one route twice",
        "ptp: the gateway is of the other family",
    ),
    Intended(
        "host-wide switches come last, so a failed ADD has not touched them",
        "?:* > host > sysctls > *",
        cases=(
            "ptp: mtu *",
            "ptp: an unknown*",
            "ptp: a static address without gateway",
            "ptp: one of two static addresses without gateway",
            "ptp: one route twice",
            "ptp: the gateway is of the other family",
            "ptp: the ifname is taken",
            "ptp: netns gone",
            "ptp: netns is a file",
        ),
    ),
    *is_deleted("DEL never validates more than it needs", *_OURS),
    *is_taken_away(
        "DEL never validates more than it needs",
        "ptp: deleted with broken CNI_ARGS",
        "ptp: deleted with an IPAM that is not there",
        "ptp: deleted with an mtu of a wrong type",
        "ptp: deleted without ipam",
    ),
    Intended(
        "DEL never validates more than it needs",
        "?:DEL > leases > net/*",
        "present",
        "absent",
        ("ptp: deleted with broken CNI_ARGS", "ptp: deleted with an mtu of a wrong type"),
    ),
    *is_taken_away(
        "DEL does not need the netns to take the link away",
        "ptp: deleted without netns",
        "ptp: deleted with an empty netns",
        "ptp: deleted with a netns that is*",
        "ptp: masqueraded and deleted with*",
    ),
    Intended(
        "DEL does not need the netns to take the masquerade away",
        "2:DEL > rules > *",
        "true",
        "false",
        ("ptp: masqueraded and deleted with*",),
    ),
    Intended(
        "DEL leaves alone what another program made",
        "?:DEL > box1 > *",
        "absent",
        cases=("ptp: deleted when the interface is another's", "ptp: tampered, link replaced"),
    ),
    Intended(_OWN, "?:* > *", cases=("ptp: netns is the*", "ptp: deleted in the*")),
    Intended("GC takes away what is not valid", "2:GC > *", "*", "absent", ("ptp: gc of what*",)),
    *becomes_possible(
        "addresses of one gateway share the way to it",
        "ptp: two addresses of one subnet",
        "ptp: two interfaces of one container",
        "ptp: masquerade of two interfaces, one deleted",
    ),
    *becomes_possible("the way to the gateway comes before the routes", "ptp: a static address of one host"),
    *becomes_possible("an address that is there already is what was wanted", "ptp: a static address twice"),
    *becomes_possible("a route there already is what was wanted", "ptp: a route to its own subnet"),
    *becomes_possible("a route of link scope has no gateway", "ptp: a route of link scope"),
    *becomes_possible("a gateway beyond the subnet is taken at its word", "ptp: a route whose gateway*"),
    *becomes_possible("CHECK looks for a route in its own table", "ptp: routes with priority and table"),
    *is_found_by_check(
        "CHECK looks at the host's side, and at every way of the container's",
        "ptp: tampered, route by another gateway",
        "ptp: tampered, route to the gateway removed",
        "ptp: tampered, host route removed",
        "ptp: tampered, gateway address removed",
        "ptp: tampered, host end *",
        "ptp: tampered, forwarding off",
        "ptp: tampered, rules flushed",
    ),
    Intended(
        "1.1.1 could not delete a container whose masquerade chain was gone",
        "4:DEL > answer > *",
        cases=("ptp: tampered, rules flushed",),
        against=DEBIAN,
    ),
)

PTP = (*_LINKS, *_REFUSALS, *_OUTCOMES)
