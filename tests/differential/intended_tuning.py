"""Where our tuning differs from the reference's on purpose."""

from tests.differential.intention import DEBIAN, Intended, is_deleted

_OLD_REFERENCE = (
    Intended(
        "1.1.1 knew no transmit queue",
        "* > links > eth0 > txqlen",
        cases=("tuning: *",),
        against=DEBIAN,
    ),
    Intended(
        "1.1.1 knew no transmit queue",
        "4:CHECK > answer > *",
        cases=("tuning: tampered, transmit queue",),
        against=DEBIAN,
    ),
    Intended(
        "1.1.1 did not know IFNAME in CHECK",
        "3:CHECK > answer > *",
        cases=("tuning: a sysctl of the interface",),
        against=DEBIAN,
    ),
)

TUNING = (
    *_OLD_REFERENCE,
    Intended(
        "DEL gives back sysctls, too",
        "?:DEL > box1 > sysctls > *",
        cases=("tuning: *",),
    ),
    Intended(
        "a refused ADD gives back what it has set",
        "?:* > box1 > sysctls > net/ipv4/conf/eth0/arp_notify",
        '"1"',
        '"0"',
        ("tuning: an MTU no veth takes",),
    ),
    Intended(
        "a second ADD does not take the values of the first for the original ones",
        "4:DEL > box1 > links > eth0 > *",
        cases=("tuning: added twice",),
    ),
    Intended(
        "sysctls of the runtime need none in the config; the reference panics",
        "?:* > answer > code",
        "2",
        "0",
        ("tuning: args of the runtime alone",),
    ),
    Intended(
        "sysctls of the runtime need none in the config; the reference panics",
        "?:* > *",
        cases=("tuning: args of the runtime alone",),
    ),
    *is_deleted(
        "DEL needs no valid config",
        "tuning: deleted with a broken config",
        "tuning: an MTU of the wrong type",
    ),
    Intended(
        "DEL needs no valid config",
        "3:DEL > box1 > links > eth0 > mtu",
        "1400",
        "1500",
        ("tuning: deleted with a broken config",),
    ),
    Intended(
        "CHECK compares promiscuous mode only if it is configured",
        "4:CHECK > answer > *",
        cases=("tuning: promiscuous although not configured",),
    ),
)
