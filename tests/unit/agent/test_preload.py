"""What the agent imports before its first request."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
# Rooms that serve requests, and the modules of theirs that only cnictl needs.
ROOMS = ("contract", "delegate", "engine", "kernel", "leases", "protocol", "steps")
IPAM = ("ipam_cluster", "ipam_hostlocal", "ipam_static")
PLUGINS = (*IPAM, "bridge", "firewall", "loopback", "macvlan", "ptp", "vxlan")
FOR_CNICTL = {
    "cni_plugins.kernel.firewall.notifications",
    "cni_plugins.kernel.links.notifications",
    "cni_plugins.kernel.overlay.path",
    "cni_plugins.kernel.overlay.reach",
    "cni_plugins.vxlan.list_digest",
    "cni_plugins.ipam_hostlocal.usage",
}
AFTER = "import sys; from cni_plugins.agent import preload, worker; preload.preload(); print(*sys.modules)"


def loaded() -> set[str]:
    done = subprocess.run([sys.executable, "-c", AFTER], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


def test_no_request_has_anything_left_to_import() -> None:
    files = [file for room in (*ROOMS, *PLUGINS) for file in (ROOT / "cni_plugins" / room).rglob("*.py")]
    modules = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files
    }
    assert modules - loaded() == FOR_CNICTL


def test_the_modules_that_requests_are_known_to_load_are_there() -> None:
    roads = json.loads((ROOT / "tests" / "e2e" / "lab" / "roads.json").read_text())
    needed = {
        name for modules in roads.values() for name in modules.split() if name.startswith("cni_plugins.")
    }
    assert {name for name in needed if not name.startswith("cni_plugins.front")} <= loaded()
