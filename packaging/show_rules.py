"""Prints the suite's nf_tables objects in its network namespace, for the demos; nft(8) is not needed."""

import sys
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cni_plugins.kernel.firewall import read
from cni_plugins.kernel.netlink import nf_tables
from cni_plugins.kernel.session.session import Session
from cni_plugins.ownership import NFT_TABLE

FAMILIES = {nf_tables.INET: "inet", nf_tables.BRIDGE: "bridge"}
_MAC = 6  # bytes
_MOST = 12  # elements of one set


def rules() -> Iterator[str]:
    """Yield a line for each chain, rule, set and element of our tables."""
    with Session(None) as session:
        for family, name in FAMILIES.items():
            chains = read.chain_names(session, family)
            if chains:
                yield f"table {name} {NFT_TABLE}"
            for rule in read.all_rules(session, family):
                yield f"  chain {rule.chain}: rule {rule.mark!r}"
            for set_name in read.set_names(session, family):
                found = read.elements(session, family, set_name)
                yield f"  set {set_name}: {len(found)} element{'' if len(found) == 1 else 's'}"
                for item in found[:_MOST]:
                    yield f"    {key(set_name, item.key)}  {item.comment}".rstrip()


def key(set_name: str, packed: bytes) -> str:
    """Return an element's key as text: an address, or a link, or a link and a MAC address."""
    if "masq" in set_name or "vteps" in set_name:
        return str(ip_address(packed))
    link, mac = packed[: nf_tables.IFNAME_LENGTH], packed[nf_tables.IFNAME_LENGTH :]
    return " ".join(filter(None, (link.rstrip(b"\0").decode(errors="replace"), mac[:_MAC].hex(":"))))


if __name__ == "__main__":
    print("\n".join(rules()) or "no nf_tables objects of the suite")
