"""Three hosts, an overlay between them, once routed and once stretched: what `make demo-overlay` shows.

All of it is `cnictl lab`; in between one host is looked into with `ip` and `bridge` of iproute2, and `nft`
where it is installed. Hosts are network namespaces of this machine. The exit code says whether everybody was
reached, and whether nothing was left, on the hosts and of them.
"""

import ctypes
import os
import shutil
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
    "l2": "stretched: one subnet, of which each host has a block; no frame is ever flooded",
}


def main() -> int:
    if os.geteuid() != 0:
        print("make demo-overlay: network namespaces need root, or unshare -rmn", file=sys.stderr)
        return 2
    if not shutil.which("ip"):
        print("make demo-overlay: ip is not installed: it is in the package iproute2", file=sys.stderr)
        return 2
    own_run()
    before = state()
    codes = [demonstrate(mode) for mode in MODES]
    after = state()
    title("nothing is left" if after == before else "SOMETHING IS LEFT")
    print("\n".join(after))
    return int(any(codes) or after != before)


def demonstrate(mode: str) -> int:
    """Return whether anything went wrong."""
    title(MODES[mode])
    try:
        built = lab("up", "--mode", mode, "--hosts", "3", "--containers", "2")
        if built == 0:
            look(mode)
    finally:
        title("take it down: DEL of every container, then a look at what the hosts kept")
        removed = lab("down")
    return built or removed


def lab(command: str, *options: str) -> int:
    return subprocess.run([CNICTL, "lab", command, "--name", NAME, *options], check=False).returncode


def look(mode: str) -> None:
    """Show what the plugin made on one host."""
    bridge = next(name for name in links() if name.startswith("vxbr"))
    link = bridge.replace("vxbr", "vx", 1)
    title(f"what that made on the first host: the link {link} into the overlay, and a bridge for containers")
    inside("ip", "-brief", "address", "show")
    inside("ip", "-details", "link", "show", "dev", link)
    title("which host has which MAC address")
    inside("bridge", "fdb", "show", "dev", link)
    title("which IP address has which MAC address, without asking anybody")
    inside("ip", "neigh", "show", "dev", link if mode == "l3" else bridge, "nud", "permanent")
    if mode == "l3":
        title("which way to the containers of other hosts")
        inside("ip", "route", "show", "proto", OURS)
    if shutil.which("nft"):
        title("who may send into the overlay")
        inside("nft", "list", "ruleset")


def links() -> Iterator[str]:
    listed = subprocess.run(
        ["ip", "-n", HOST, "-brief", "link", "show"], capture_output=True, text=True, check=True
    )
    return (line.split()[0].split("@")[0] for line in listed.stdout.splitlines())


def inside(*command: str) -> None:
    print(f"$ {' '.join(command)}", flush=True)
    subprocess.run(["nsenter", f"--net={NAMESPACES / HOST}", *command], check=True)


def own_run() -> None:
    """In a user namespace /run is somebody else's: put one of our own over it, which ends with the demo."""
    if os.access("/run", os.W_OK):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tmpfs", b"/run", b"tmpfs", 0, b"mode=755") != 0:
        sys.exit(f"make demo-overlay: a /run of our own: {os.strerror(ctypes.get_errno())}")


def state() -> list[str]:
    """Return what there is of labs on this machine, and its own links."""
    names = [path.name for place in (NAMESPACES, FILES) if place.is_dir() for path in place.iterdir()]
    of_ours = sorted(name for name in names if name.split("-")[0] == NAME)
    own = subprocess.run(["ip", "-brief", "link", "show"], capture_output=True, text=True, check=True)
    return [f"namespaces and files of the demo: {', '.join(of_ours) or 'none'}", own.stdout.strip()]


def title(text: str) -> None:
    print(f"\n== {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
