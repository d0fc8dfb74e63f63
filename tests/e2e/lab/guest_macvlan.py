"""
What is done with VLANs below macvlan links in the virtual machine.

Every scene of the script leaves the host as it was before the first one, of which `state-SCENE` is the proof.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.e2e.lab.vm import Part

MODULES = (
    *("bridge", "macvlan", "veth", "8021q"),
    *("nf_tables", "nft_masq", "nft_chain_nat", "nft_ct", "nft_fib_inet", "nft_reject_inet"),
)
ALIAS = "cni-plugins VLAN"
LONG = "averylongparent"
WIRE = "10.100.0.0/24"
NETWORKS: dict[str, dict[str, Any]] = {
    "n100": {"vlan": 100, "ipam": {"rangeStart": "10.100.0.10", "rangeEnd": "10.100.0.49"}},
    "dot100": {"master": "eth0.100", "ipam": {"rangeStart": "10.100.0.50", "rangeEnd": "10.100.0.99"}},
    "n200": {"vlan": 200, "ipam": {"rangeStart": "10.100.0.200", "rangeEnd": "10.100.0.240"}},
    "dot200": {"master": "eth0.200"},
    "inner": {"master": "eth0.100", "vlan": 30},
    "long": {"master": LONG, "vlan": 4094},
    "provider": {"vlan": 500, "vlanProtocol": "802.1ad"},
    "n300": {"vlan": 300},
    "other-protocol": {"vlan": 100, "vlanProtocol": "802.1ad"},
    "dot-other-protocol": {"master": "eth0.100", "vlanProtocol": "802.1ad"},
    "routed100": {"vlan": 100, "ipam": {"subnet": "10.101.0.0/24"}},
    "routed200": {"vlan": 200, "ipam": {"subnet": "10.102.0.0/24"}},
}
ROUTED = {"hostAccess": True, "isGateway": True, "ipMasq": True}
SEEN = """
table netdev seen {
    chain wire {
        type filter hook ingress device far0 priority 0;
        ether type vlan vlan id 100 counter comment "802.1q 100"
        ether type vlan vlan id 200 counter comment "802.1q 200"
        ether type 8021ad vlan id 500 counter comment "802.1ad 500"
        ether type { ip, arp } counter comment "untagged"
    }
}
"""
PRELUDE = r"""
PLUGIN=macvlan
call() { # COMMAND CONTAINER NETWORK [NETNS]
    command=$1 container=$2 conf=/conf/$3; shift 3
    asked=/tmp/asked-$container result=/tmp/result-$container
    case $command in
    ADD) cni ADD $container $conf "$@" >$result; code=$?; cat $result; return $code;;
    CHECK) with_key prevResult $result $conf >$asked;;
    GC) with_key cni.dev/valid-attachments /conf/none $conf >$asked;;
    *) asked=$conf;;
    esac
    cni $command $container $asked "$@"
}
add() { step "add-$1" call ADD $2 $3; }
check() { step "check-$1" call CHECK $2 $3; }
del() { step "del-$1" call DEL $2 $3; }
gc() { step "gc-$1" call GC none $2; }
links() { step "links-$1" ip -j -d link; }
state() {
    ip -d -o link | sort
    ip route show table all | sort
    nft list ruleset
    leases
}
scene() { step "state-$1" state; }
gone_soon() { # LINK
    for _ in 1 2 3 4 5 6 7 8 9 10; do ip link show "$1" >/dev/null 2>&1 || return 0; sleep 0.2; done; return 1
}
end() { ip netns del $1; ip netns add $1; } # a sandbox, without DEL
up() { # LINK
    ip link set $1 up
    until [ "$(cat /sys/class/net/$1/operstate)" = up ]; do sleep 0.05; done
}
not_reached() { ip netns exec "$1" ping -c1 -W1 "$2" >/dev/null; [ $? = 1 ]; }
by_hand() { # NAME ID
    ip link add link eth0 name $1 type vlan id $2
    up $1
}
each() { # COMMAND NETWORK: all at once, number $COLD without the agent
    pids=
    for i in 1 2 3 4 5 6 7 8; do
        (
            [ $i != $COLD ] || export CNI_PLUGINS_AGENT=
            call $1 p$i $2 >/tmp/out-p$i 2>&1; echo $? >/tmp/code-p$i
        ) &
        pids="$pids $!"
    done
    wait $pids
    cat /tmp/code-p?
}
churn() { # four who come and go
    pids=
    for i in 1 2 3 4; do
        (for _ in 1 2 3 4 5; do
            call ADD p$i n100 >/tmp/out-p$i 2>&1 || { echo "ADD p$i"; cat /tmp/out-p$i; }
            ping_from p$i 10.100.0.101 >/dev/null || echo "ping p$i"
            call DEL p$i n100 >/tmp/out-p$i 2>&1 || { echo "DEL p$i"; cat /tmp/out-p$i; }
        done) &
        pids="$pids $!"
    done
    wait $pids
}

# The wire: far is at its other end, with a machine on each VLAN that has the other's subnet too.
for n in far far100 far200 a b c p1 p2 p3 p4 p5 p6 p7 p8; do ip netns add $n; done
ip link add eth0 type veth peer name far0 netns far
ip link set eth0 addrgenmode none
ip link add averylongparent type veth peer name long0 netns far
ip link set averylongparent addrgenmode none
ip netns exec far nft -f /conf/seen
for id in 100 200; do
    ip -n far link add link far0 name far0.$id type vlan id $id
    ip -n far link set far0.$id netns far$id
    ip -n far$id addr add 10.100.0.$((id + 1))/24 dev far0.$id
    ip -n far$id addr add 10.10$((id / 100)).0.99/24 dev far0.$id
    ip -n far$id link set far0.$id up
done
ip -n far link add link far0 name far0.500 type vlan id 500 protocol 802.1ad
ip -n far addr add 10.100.0.250/24 dev far0.500
for link in far0 far0.500 long0; do ip -n far link set $link up; done
up eth0
up averylongparent
"""
SCRIPT = r"""
scene before

# One attachment from begin to end; where the agent has no part it says so.
step add-a without_agent call ADD a n100
wait_for_agent
links first
step status call STATUS none n100
check a a n100
add b b n200
add c c dot100
links shared
check c c dot100
step ping-far ping_from a 10.100.0.101
step ping-shared ping_from a "$(address_of c)"
step ping-far-other ping_from b 10.100.0.201
step silent-other-container not_reached a "$(address_of b)"
step silent-other-far not_reached a 10.100.0.201
step silent-from-far not_reached far200 "$(address_of a)"
step seen ip netns exec far nft list ruleset
del a a n100
links one-network-left
del b b n200
step del-c without_agent call DEL c dot100
scene life

# Links that somebody made, and that are no concern of ours but to be used.
by_hand eth0.100 100
add by-hand a n100
add by-hand-dotted c dot100
links by-hand
del by-hand a n100
del by-hand-dotted c dot100
gc by-hand n100
step by-hand-stays ip link show eth0.100
ip link del eth0.100
by_hand office 100
add office a n100
add office-dotted c dot100
step ping-office ping_from a "$(address_of c)"
links office
check office a n100
del office a n100
del office-dotted c dot100
gc office n100
step office-stays ip link show office
ip link del office
scene by-hand

# Names and kinds.
add dotted a dot200
links dotted
check dotted a dot200
del dotted a dot200
add long a long
links long
check long a long
del long a long
add provider a provider
links provider
step ping-provider ping_from a 10.100.0.250
step seen-provider ip netns exec far nft list ruleset
check provider a provider
del provider a provider
add outer a n100
add inner b inner
links inner
check inner b inner
del outer a n100
step outer-stays ip link show eth0.100
del inner b inner
scene names

# Claims that do not go together.
echo 1 >/proc/sys/net/ipv6/conf/default/addr_gen_mode # states are compared: no addresses of the kernel's
by_hand eth0.300 301
step unclaimed state
step clash-vlan call ADD a n300
step refused-vlan state
ip link del eth0.300
ip link add eth0.300 type veth peer name other
step unclaimed-veth state
step clash-veth call ADD a n300
step refused-veth state
ip link del eth0.300
add claim a n100
up eth0.100
step claimed state
step clash-protocol call ADD b other-protocol
step clash-dotted-protocol call ADD b dot-other-protocol
step refused-protocol state
del claim a n100
add claim-other a other-protocol
up eth0.100
step claimed-other state
step clash-protocol-reversed call ADD b n100
step refused-protocol-reversed state
del claim-other a other-protocol
echo 0 >/proc/sys/net/ipv6/conf/default/addr_gen_mode
scene clash

# Down.
ip link set eth0 down
step down state
step status-down call STATUS none n100
step down-refused call ADD a n100
step down-dotted-refused call ADD a dot200
COLD=none
step down-race each ADD n100
step down-race-answers cat /tmp/out-p1 /tmp/out-p2 /tmp/out-p3 /tmp/out-p4 /tmp/out-p8
step down-nothing-left state
up eth0
scene down

# What CHECK finds.
add checked a n100
ip link set eth0.100 down
step tampered-down call CHECK a n100
ip link set eth0.100 up
check up-again a n100
ip -n a link set eth0 type macvlan mode private
step tampered-mode call CHECK a n100
ip -n a link set eth0 type macvlan mode bridge
ip link del eth0.100
step tampered-gone call CHECK a n100
ip link add link eth0 name eth0.100 type vlan id 101
step tampered-other call CHECK a n100
ip link del eth0.100
del checked a n100
scene check

# Sandboxes that end without DEL.
end_and_delete() { end a; call DEL a n100 ""; }
add ended a n100
step del-ended end_and_delete
step ended-gone gone_soon eth0.100
add ended-twice a n100
add ended-other b dot100
end b
step del-ended-twice call DEL b dot100 ""
step ended-stays ip link show eth0.100
end a
step gc-ended call GC none n100
step ended-collected gone_soon eth0.100
scene ended

# Users that are not ours.
add used a n100
ip addr add 192.0.2.1/24 dev eth0.100
del used a n100
gc used n100
step stays-address ip link show eth0.100
ip addr add 169.254.169.254/32 dev eth0.100
ip addr del 192.0.2.1/24 dev eth0.100
gc link-local n100
step stays-link-local ip link show eth0.100
ip link add br0 type bridge
ip link set eth0.100 master br0
ip addr flush dev eth0.100
gc bridge n100
step stays-bridge ip link show eth0.100
step taken-bridge call ADD a n100
ip link set eth0.100 nomaster
ip link del br0
ip link add link eth0.100 name hand netns c type macvlan mode bridge
ip -n c link set hand up
gc hand n100
step stays-hand ip link show eth0.100
ip -n c link del hand
ip link add link eth0.100 name eth0.100.7 type vlan id 7
gc upper n100
step stays-upper ip link show eth0.100
ip link del eth0.100.7
gc unused n100
scene used

# Many at once.
COLD=8
step race-add each ADD n100
links race
reached() { for i in 1 2 3 4 5 6 7 8; do ping_from p$i 10.100.0.101 >/dev/null || echo $i; done; }
step race-unreached reached
step race-del each DEL n100
gc race n100
scene race
step churn churn
gc churn n100
scene churn

# The host routes for two networks on two VLANs.
add routed-a a routed100
add routed-b b routed200
add routed-c c routed100
links routed
ip -n far200 route add 10.101.0.0/24 via 10.102.0.1
for target in 10.101.0.1 10.101.0.99 10.102.0.1 10.102.0.99 "$(address_of b)" "$(address_of c)"; do
    step "route-from-a-to-$target" ping_from a "$target"
done
step route-from-b-to-a ping_from b "$(address_of a)"
step route-from-far-to-a ping_from far200 "$(address_of a)"
step route-from-host-to-a ping -c1 -W2 "$(address_of a)"
step route-from-host-to-b ping -c1 -W2 "$(address_of b)"
check routed-a a routed100
check routed-b b routed200
route="$(address_of b)"
link=$(ip -o route get "$route" | sed 's/.* dev \([^ ]*\).*/\1/')
ip route del "$route" dev "$link"
step tampered-route call CHECK b routed200
ip link set eth0.200 down
step tampered-routed-down call CHECK b routed200
ip link set eth0.200 up
del routed-a a routed100
step routed-stays ip link show eth0.100
step del-routed-b call DEL b routed200 ""
del routed-c c routed100
scene routed
"""


def part(dist: Path) -> Part:
    files: dict[str, Path | str] = {f"conf/{name}": _conf(name) for name in NETWORKS}
    files |= {"conf/seen": SEEN, "conf/none": "[]"}
    files |= {f"opt/cni/bin/{name}": dist / name for name in ("macvlan", "host-local", "cnictl")}
    return Part("macvlan", PRELUDE + SCRIPT, ("ip", "nft"), MODULES, files)


def _conf(name: str) -> str:
    network = NETWORKS[name]
    more = ROUTED if name.startswith("routed") else {}
    ipam: dict[str, Any] = {"type": "host-local", "subnet": WIRE, "routes": [{"dst": "0.0.0.0/0"}]}
    return json.dumps(
        {"cniVersion": "1.1.0", "name": name, "type": "macvlan", "master": "eth0", **more}
        | network
        | {"ipam": ipam | network.get("ipam", {})}
    )
