"""The network that the runtimes are given, and what a namespace outside of it serves and sees."""

from __future__ import annotations

import json
from typing import Any

from tests.e2e.lab.host import Host
from tests.e2e.lab.plugin import Json

NAME = "cnienet"
# What a plugin itself is given for a bridge with masquerading; the addresses are each test's own.
BRIDGE: dict[str, Any] = {
    "cniVersion": "1.1.0",
    "name": NAME,
    "type": "bridge",
    "bridge": "cniebr0",
    "isGateway": True,
    "ipMasq": True,
}
OUTSIDE = "192.0.2.2"
HOST_AS_SEEN_OUTSIDE = "192.0.2.1"
ASK_WHO = ("wget", "-qO-", f"http://{OUTSIDE}/cgi-bin/who")
WHO = "#!/bin/sh\nprintf 'Content-Type: text/plain\\r\\n\\r\\n%s\\n' \"$REMOTE_ADDR\"\n"


def conflist(name: str, bridge: str, *subnets: str, **main: Json) -> dict[str, Any]:
    """A bridge network with masquerading; containerd 1.6 and podman 4 know nothing newer than 1.0.0."""
    ipam = host_local(*subnets, routes=default_routes(*subnets))
    return single(name, "bridge", bridge=bridge, isGateway=True, ipMasq=True, ipam=ipam, **main)


def single(name: str, kind: str, **main: Any) -> dict[str, Any]:
    """A conflist of one plugin, which all runtimes here know the version of."""
    return {"cniVersion": "1.0.0", "name": name, "plugins": [{"type": kind, **main}]}


def host_local(*ranges: str | Json, **more: Any) -> dict[str, Any]:
    """Addresses of host-local, one of each range; a string is a subnet."""
    sets = [[{"subnet": item} if isinstance(item, str) else dict(item)] for item in ranges]
    return {"type": "host-local", "ranges": sets, **more}


def default_routes(*subnets: str) -> list[dict[str, str]]:
    return [{"dst": "::/0" if ":" in subnet else "0.0.0.0/0"} for subnet in subnets]


def install(host: Host, *conflists: dict[str, Any]) -> None:
    """Put the conflists where runtimes look, in this order."""
    for number, conf in enumerate(conflists):
        host.write(f"/etc/cni/net.d/{number + 10}-{conf['name']}.conflist", json.dumps(conf))


def serve_outside(host: Host) -> None:
    """Make the outside, with a web server at http://192.0.2.2/cgi-bin/who that answers with whom it sees."""
    host.outside()
    script = host.write("/var/cnie/cgi-bin/who", WHO)
    script.chmod(0o755)
    host.run("ip", "netns", "exec", "outside", "busybox", "httpd", "-p", f"{OUTSIDE}:80", "-h", "/var/cnie")
