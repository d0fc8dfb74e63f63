"""A chain of bridge and bandwidth, and what `tc` shows of it."""

import re
from typing import Any

import pytest

from cni_plugins.ownership import Attachment
from tests.integration.conftest import Bed, Namespace

RECEIVED = {"ingressRate": 8_000_000, "ingressBurst": 800_000}
SENT = {"egressRate": 16_000_000, "egressBurst": 1_600_000}
BOTH = {**RECEIVED, **SENT}


class Chain:
    """A host with a bridge, and containers on it that bandwidth is called for, as libcni does."""

    def __init__(self, bed: Bed) -> None:
        self.bed = bed
        self.host = bed.host
        self.host.skip_dad()
        self.results: dict[str, dict[str, Any]] = {}

    def attach(self, sandbox: Namespace, ifname: str = "eth0", container: str = "c1", **keys: Any) -> str:
        """Attach a container by the main plugin, and return the name of its host end."""
        pools = self.bed.host_local("10.1.0.0/24", "fd00:1::/64")
        conf = self.bed.conf(isGateway=True, ipam=pools, **keys)
        self.results[ifname] = self.bed.add(conf, sandbox, ifname=ifname, container=container)
        return Attachment("net1", container, ifname).host_end

    def conf(self, ifname: str = "eth0", **keys: Any) -> dict[str, Any]:
        own = {"cniVersion": "1.1.0", "name": "net1", "type": "bandwidth"}
        return {**own, "prevResult": self.results[ifname], **keys}

    def call(
        self, command: str, sandbox: Namespace | str = "", ifname: str = "eth0", **keys: Any
    ) -> tuple[int, Any]:
        return self.bed.call(command, self.conf(ifname, **keys), sandbox, ifname=ifname)

    def add(self, sandbox: Namespace, ifname: str = "eth0", **keys: Any) -> dict[str, Any]:
        """Call ADD; later calls get its result as prevResult, as those of DEL and CHECK do."""
        code, result = self.call("ADD", sandbox, ifname, **keys)
        assert code == 0, result
        self.results[ifname] = result
        return dict(result)

    def check(self, sandbox: Namespace, ifname: str = "eth0", **keys: Any) -> str:
        """Return what CHECK finds, empty if nothing."""
        code, error = self.call("CHECK", sandbox, ifname, **keys)
        assert (code, error) == (0, None) or error["code"] == 103, error
        return error["msg"] if error else ""

    def qdiscs(self, link: str) -> list[str]:
        """Return what tc shows of a link's qdiscs, but for the default one."""
        shown = self.host.run("tc", "qdisc", "show", "dev", link).splitlines()
        return [" ".join(line.split()) for line in shown if " noqueue 0:" not in line]

    def filters(self, link: str, side: str = "ingress") -> list[str]:
        """Return what tc shows of a link's filters, without the numbers that the kernel counts on."""
        text = self.host.run("tc", "filter", "show", "dev", link, side, check=False)
        found = re.split(r"^filter ", text, flags=re.MULTILINE)[1:]
        shown = [" ".join(part.split()) for part in found if "flowid" in part or "action" in part]
        return [re.sub(r" fh \S+| order 20\d\d| index \d+", "", line) for line in shown]

    def ifbs(self) -> dict[str, dict[str, Any]]:
        return {link["ifname"]: link for link in self.host.ip("link", "show", "type", "ifb") if link}

    def state(self) -> dict[str, Any]:
        """Return everything that bandwidth may change."""
        names = [link["ifname"] for link in self.host.ip("link")]
        control = {name: (self.qdiscs(name), self.filters(name)) for name in names}
        return {**self.bed.state(), "control": control}


@pytest.fixture
def chain(bed: Bed, needs: Any) -> Chain:
    needs("tc")
    return Chain(bed)

    """Return the newest reference's executable."""
    from tests.differential import reference as references

    reason = references.fetch(("bandwidth",))
    if reason:
        pytest.skip(reason)
    return references.directory() / "bandwidth"
