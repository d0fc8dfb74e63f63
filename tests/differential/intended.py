"""Where ours differs from the reference on purpose.

An entry speaks of a difference when all its patterns match (`*` and `?` as in file names; `absent` and
`present` stand for things one side lacks). `python -m tests.differential.compare v1.9 ours` prints the
differences an entry can be written from. A difference without entry fails; so does an entry that no
difference answers to.
"""

from tests.differential.intended_chain import CHAIN
from tests.differential.intended_macvlan import MACVLAN
from tests.differential.intended_ptp import PTP
from tests.differential.intended_sbr import SBR
from tests.differential.intended_tuning import TUNING
from tests.differential.intention import (
    DEBIAN,
    Intended,
    becomes_possible,
    is_found_by_check,
    is_taken_away,
)

_OLD_REFERENCE = (
    Intended("1.1.1 wrote leases readable by all", "*leases > *mode", '"0644"', '"0600"', against=DEBIAN),
    Intended("1.1.1 left out the queue length", "*links > * > txqlen", "null", "1000", against=DEBIAN),
    Intended("1.1.1 printed an empty dns in 1.0.0", "*result > dns", "{}", "absent", against=DEBIAN),
    Intended("1.1.1 printed an empty dns in 1.0.0", "*answer > keys > dns", '""', "absent", against=DEBIAN),
    Intended("v1.9 sorts the keys of 1.0.0 results", "*answer > keys > *", '"*', '"*', against=DEBIAN),
    Intended("1.1.1 lost IPv6 addresses on link down", "*keep_addr_on_down", '"0"', '"1"', against=DEBIAN),
    Intended("1.1.1 spoke protocol 1.0.0 at most", "1:VERSION > answer > result > *", against=DEBIAN),
    Intended(
        "1.1.1 knew no GC and no STATUS", "*error > code", "4", "1", ("version *: gc and status",), DEBIAN
    ),
    Intended("1.1.1 lost the IPAM's dns", "*answer > result > dns > *", "absent", against=DEBIAN),
    Intended(
        "1.1.1 put the container interface up all the same",
        "1:ADD > *",
        cases=("bridge: no container interface",),
        against=DEBIAN,
    ),
    Intended(
        "1.1.1 dropped route attributes when it converted",
        "1:ADD > answer > *",
        "absent",
        cases=("host-local: a route's attributes in an old version",),
        against=DEBIAN,
    ),
    Intended(
        "1.1.1 could not delete a container whose masquerade chain was gone",
        "4:DEL > answer > *",
        cases=("bridge: tampered, rules flushed",),
        against=DEBIAN,
    ),
)

_ERRORS = (
    Intended(
        "SPEC.md: VERSION answers in the version it was asked in",
        "1:VERSION > answer > result > cniVersion",
        '"1.1.0"',
        cases=("protocol: *",),
    ),
    *becomes_possible(
        "CNI_PATH is required where another plugin is called",
        "protocol: without CNI_PATH",
        "protocol: GC and STATUS without CNI_PATH",
    ),
    Intended("a master that is in use may be free later: code 11", "*error > code", "999", "11"),
    Intended("the specification wants cniVersion in error documents", "*error > cniVersion", "null", '"*'),
    Intended("details name the key and the value", "*error > details", '"missing"', '"said"'),
    Intended("faulty configuration is code 7 for the specification", "*error > code", "999", "7"),
    Intended("faulty CNI_ARGS are code 4, as every faulty variable", "*error > code", "999", "4"),
    Intended("a netns that is none has code 8", "*ADD > answer > error > code", "999", "8"),
    Intended("what the kernel refused has a code of its own", "*error > code", "999", "100"),
    Intended("a name or address that is taken has a code of its own", "*error > code", "999", "101"),
    Intended("what no pool can give has a code of its own", "*error > code", "999", "102"),
    Intended("a CHECK that fails has a code of its own", "*CHECK > answer > error > code", "999", "103"),
    Intended("a file that cannot be read is code 5", "*", "999", "5", ("host-local: resolvConf missing",)),
    Intended(
        "a prevResult that is none cannot be decoded: code 6", "*", "999", "6", ("protocol: *prevResult*",)
    ),
    Intended(
        "null is no network configuration: code 6", "*error > code", "7", "6", ("protocol: stdin null",)
    ),
    Intended(
        "a key of the wrong type is code 7", "*error > code", "6", "7", ("protocol: a name that*", "version*")
    ),
)

_LINKS = (
    Intended("links bear their owner, so GC needs no files", "*links > * > alias", "null", '"*'),
    Intended("a queue length lets tc shape the host end too", "*links > veth* > txqlen", "null", "1000"),
    Intended("results report the mtu where 1.1.0 has it", "*result > interfaces > * > mtu", "absent"),
    Intended(
        "results report the mtu where 1.1.0 has it", "*keys > interfaces.*", '"mac,name*', '"mac,mtu,name*'
    ),
    Intended("a container announces its IPv6 address", "*ndisc_notify", '"0"', '"1"'),
    Intended(
        "the IPv6 gateway is usable when ADD returns", "*ADD > host > links > * > tentative", "true", "false"
    ),
    Intended(
        "the IPv6 gateway is usable when ADD returns",
        "2:masquerade > probe > *",
        '"nothing"',
        '"box"',
        ("bridge: the IPv6 gateway right after ADD",),
    ),
    Intended(
        "a bridge keeps its address, or CHECK fails by chance", "*cni0 > mac", '"mac(a host end)"', '"mac(*'
    ),
    Intended("a bridge keeps its address, or CHECK fails by chance", "*cni0 > mac", '"00:*"', '"mac(*'),
    Intended(
        "a bridge keeps its address, or CHECK fails by chance",
        "*answer > result > interfaces > 0 > mac",
        '"mac(a host end)"',
        '"mac(*',
    ),
    Intended(
        "where nobody else can have an address, nobody is asked", "*addresses > * > nodad", "absent", "true"
    ),
    Intended("routes bear our own protocol number", "*routes > * > protocol", '"boot"', '"*'),
    Intended(
        "mtu and advmss of a route are honoured",
        "*box1 > routes > * > metrics*",
        "absent",
        cases=("bridge: routes with mtu and advmss",),
    ),
    *is_taken_away(
        "the bridge is set up once it has its port, which here has no carrier",
        "bridge: no container interface",
    ),
)

_LEASES = (
    Intended("an index beside the leases makes their number irrelevant", "*leases > .cni-plugins*", "absent"),
    Intended("DEL makes no directory", "*DEL > leases", "present", "absent"),
    Intended("CHECK makes no directory", "*CHECK > leases", "present", "absent"),
    Intended(
        "IPAM is asked before the kernel is touched", "*ADD > leases", "absent", "present", ("bridge: *",)
    ),
    Intended(
        "a faulty configuration makes no directory",
        "*ADD > leases",
        "present",
        "absent",
        ("bridge: an unk*",),
    ),
    Intended(
        "a counter moves only when the whole ADD succeeds",
        "?:* > leases > net/last_reserved_ip.0*",
        cases=("host-local: the second set is exhausted", "host-local: IP of no range"),
    ),
    Intended(
        "GC releases what is not valid", "3:GC > leases > net/10.1.0.2", "*", "absent", ("host-local: gc",)
    ),
    Intended(
        "a failed second ADD keeps the leases of the first",
        "?:* > leases > *",
        "absent",
        "present",
        ("host-local: a dual-stack container added again",),
    ),
    Intended(
        "a failed second ADD keeps the leases of the first",
        "3:CHECK > answer > *",
        cases=("host-local: a dual-stack container added again",),
    ),
    Intended(
        "a failed second ADD does not move the counter",
        "?:* > leases > net/last_reserved_ip.0 > content",
        cases=("host-local: a dual-stack container added again",),
    ),
)

_OUTCOMES = (
    *is_taken_away(
        "a failed ADD takes back everything it did",
        "bridge: netns gone",
        "bridge: netns is a file",
        "bridge: gateway address conflict",
        "bridge: a bad MAC",
        "bridge: an IPAM without addresses",
        "bridge: an IPAM that is not there",
        "bridge: the IPAM's pool is exhausted",
        "bridge: the ifname is taken",
        "bridge: an unknown masquerade backend",
        "bridge: a broken CNI_ARGS pair",
        "version 0.2.0: layer 2 only",
    ),
    Intended(
        "a failed ADD gives settings their old values back",
        "?:* > host > sysctls > *",
        cases=("bridge: gateway address conflict", "bridge: an unknown masquerade backend"),
    ),
    Intended(
        "the plugin's own netns is refused before anything is done, in one document",
        "1:ADD > *",
        cases=("bridge: netns is the plugin's own", "protocol: loopback in the plugin's own netns"),
    ),
    *becomes_possible(
        "a default route of the IPAM without gateway is the one isDefaultGateway asks for",
        "bridge: default gateway and a default route without one",
    ),
    *becomes_possible(
        "a bridge may carry several IPv4 gateways", "bridge: two IPv4 range sets with gateways"
    ),
    *becomes_possible("CHECK looks for a route in its own table", "bridge: routes with priority and table"),
    *becomes_possible(
        "layer 2 networks can be checked",
        "bridge: layer 2 only, checked",
        "bridge: layer 2 only and tampered",
    ),
    *becomes_possible(
        "IP, MAC and GATEWAY of CNI_ARGS are known to every plugin",
        "bridge: CNI_ARGS with IP only",
        "host-local: an unknown argument",
    ),
    *becomes_possible(
        "DEL never validates more than it needs",
        "host-local: deleted without ranges",
        "bridge: a bad vlan*",
        "bridge: a wrong type",
        "bridge: an IPAM that is not there",
    ),
    *becomes_possible("a prevResult may have its own version", "loopback: prevResult of another version"),
    *becomes_possible(
        "two interfaces of one container do not share their masquerade",
        "bridge: masquerade of two interfaces, one deleted",
    ),
    *is_found_by_check("CHECK looks at the port's flags", "bridge: tampered, hairpin switched off"),
    *is_found_by_check("CHECK looks at the gateway", "bridge: tampered, gateway address removed"),
    *is_found_by_check("CHECK looks at the rules", "bridge: tampered, rules flushed"),
    *is_taken_away(
        "DEL does not need the netns to take the link away",
        "bridge: deleted without netns",
        "bridge: deleted with a netns that is gone",
        "bridge: masqueraded and deleted without netns",
    ),
    Intended(
        "DEL does not need the netns to take the masquerade away",
        "2:DEL > rules > *",
        "true",
        "false",
        ("bridge: masqueraded and deleted without netns",),
    ),
    Intended(
        "STATUS says when the pool is exhausted", "3:STATUS > *", cases=("host-local: status when exhausted",)
    ),
    Intended(
        "GC takes away what is not valid", "2:GC > *", "*", "absent", ("bridge: gc of what is not valid",)
    ),
    Intended(
        "a 0.2.0 result has the shape of 0.2.0", "1:ADD > answer > *", cases=("loopback: version 0.2.0",)
    ),
    Intended(
        "the gateway of the subnet is the one of its runtime address too",
        "1:ADD > answer > *",
        cases=(
            "static: GATEWAY of CNI_ARGS for a configured address",
            "static: a runtimeConfig address in the configured subnet",
        ),
    ),
)

DIFFERENCES: tuple[Intended, ...] = (
    *_OLD_REFERENCE,
    *_ERRORS,
    *_LINKS,
    *_LEASES,
    *_OUTCOMES,
    *MACVLAN,
    *PTP,
    *SBR,
    *CHAIN,
    *TUNING,
)
