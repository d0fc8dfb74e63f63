"""Runs `make demo-overlay`: an overlay between three hosts, first routed, then stretched.

It uses `cnictl lab`, and shows the objects on one host with `ip` and `bridge` of iproute2. Hosts are network
namespaces of this machine. The exit code says whether all pings were answered, and whether nothing was left,
on the hosts and of the hosts.
"""

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CNICTL = Path(os.environ.get("CNI_DIST", ROOT / "dist"), "cnictl")
NAME = "demo"
HOST = f"{NAME}-h1"
NAMESPACES, FILES = Path("/run/netns"), Path("/run/cni-plugins-lab")
OURS = "217"  # the protocol number of the suite's routes
MODES = {
    "l3": "routed: a subnet for each host",
    "l2": "stretched: one subnet, with a block for each host; no frame is ever flooded",
}


def main() -> int:
    if os.geteuid() != 0:
        print("make demo-overlay: must be run as root, or under unshare -rmn", file=sys.stderr)
        return 2
    own_run()
    before = state()
    codes = [demonstrate(mode) for mode in MODES]
    after = state()
    title("nothing is left" if after == before else "SOMETHING IS LEFT")
    print("\n".join(after))
    return int(any(codes) or after != before)


def demonstrate(mode: str) -> int:
    """Return a non-zero exit code if anything failed."""
    title(MODES[mode])
    try:
        built = lab("up", "--mode", mode, "--hosts", "3", "--containers", "2")
        if built == 0:
            look(mode)
    finally:
        title("take it down: DEL of every container, then check what is left on the hosts")
        removed = lab("down")
    return built or removed


def lab(command: str, *options: str) -> int:
    return subprocess.run([CNICTL, "lab", command, "--name", NAME, *options], check=False).returncode


def look(mode: str) -> None:
    """Show what the plugin created on one host."""
    bridge = next(name for name in links() if name.startswith("vxbr"))
    link = bridge.replace("vxbr", "vx", 1)
    title(f"created on the first host: the link {link} into the overlay, and a bridge for containers")
    inside("ip", "-brief", "address", "show")
    inside("ip", "-details", "link", "show", "dev", link)
    title("forwarding entries: the host of each MAC address")
    inside("bridge", "fdb", "show", "dev", link)
    title("permanent neighbours: the MAC address of each IP address, without any query")
    inside("ip", "neigh", "show", "dev", link if mode == "l3" else bridge, "nud", "permanent")
    if mode == "l3":
        title("routes to the containers of other hosts")
        inside("ip", "route", "show", "proto", OURS)
    title("rules: which packets may enter the overlay")
    inside(sys.executable, str(ROOT / "packaging" / "show_rules.py"))


def links() -> Iterator[str]:
    listed = subprocess.run(
        ["ip", "-n", HOST, "-brief", "link", "show"], capture_output=True, text=True, check=True
    )
    return (line.split()[0].split("@")[0] for line in listed.stdout.splitlines())


def inside(*command: str) -> None:
    print(f"$ {' '.join(command)}", flush=True)
    subprocess.run(["nsenter", f"--net={NAMESPACES / HOST}", *command], check=True)


def own_run() -> None:
    """Mount a tmpfs over /run if it is not writable, as in a user namespace; it ends with the demo."""
    if os.access("/run", os.W_OK):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tmpfs", b"/run", b"tmpfs", 0, b"mode=755") != 0:
        sys.exit(f"make demo-overlay: cannot mount a tmpfs on /run: {os.strerror(ctypes.get_errno())}")


def state() -> list[str]:
    """Return the namespaces and files of the demo's labs, and the machine's own links."""
    names = [path.name for place in (NAMESPACES, FILES) if place.is_dir() for path in place.iterdir()]
    of_ours = sorted(name for name in names if name.split("-")[0] == NAME)
    own = subprocess.run(["ip", "-brief", "link", "show"], capture_output=True, text=True, check=True)
    return [f"namespaces and files of the demo: {', '.join(of_ours) or 'none'}", own.stdout.strip()]


def title(text: str) -> None:
    print(f"\n== {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
