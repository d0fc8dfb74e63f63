"""A busybox image as an OCI archive, made on the spot without registry or build tool, for ctr and podman."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import subprocess
import tarfile
from pathlib import Path
from typing import Any

from tests.e2e.lab.tools import program

NAME = "cnie.local/busybox:1"
PAGE = "a page of busybox"
DIRECTORIES = ("bin", "dev", "etc", "proc", "root", "sbin", "sys", "tmp", "usr/bin", "usr/sbin", "var", "www")
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def write(path: Path) -> Path:
    """Write the archive to PATH. Its command just waits, so it serves as the pause image too."""
    layer = _layer()
    blobs: dict[str, bytes] = {}
    what = {"architecture": ARCHITECTURES[platform.machine()], "os": "linux"}
    config = {
        **what,
        "config": {"Cmd": ["/bin/sleep", "86400"], "Env": ["PATH=/bin:/sbin:/usr/bin:/usr/sbin"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": _blob(blobs, _json(config), "application/vnd.oci.image.config.v1+json"),
        "layers": [_blob(blobs, layer, "application/vnd.oci.image.layer.v1.tar")],
    }
    listed = _blob(blobs, _json(manifest), manifest["mediaType"])
    listed |= {
        "platform": what,
        "annotations": {"io.containerd.image.name": NAME, "org.opencontainers.image.ref.name": NAME},
    }
    files = {
        "oci-layout": _json({"imageLayoutVersion": "1.0.0"}),
        "index.json": _json({"schemaVersion": 2, "manifests": [listed]}),
        **{f"blobs/sha256/{digest}": data for digest, data in blobs.items()},
    }
    path.write_bytes(_tar(files))
    return path


def _layer() -> bytes:
    busybox = program("busybox")
    assert busybox is not None
    listing = subprocess.run([busybox, "--list-full"], capture_output=True, text=True, check=True).stdout
    applets = [name for name in listing.split() if name.startswith(("bin/", "sbin/", "usr/"))]
    files = {
        "bin/busybox": Path(busybox).read_bytes(),
        "etc/passwd": b"root:x:0:0:root:/root:/bin/sh\n",
        "etc/group": b"root:x:0:\n",
        "www/index.html": PAGE.encode(),
    }
    return _tar(files, directories=DIRECTORIES, links=[name for name in applets if name != "bin/busybox"])


def _tar(files: dict[str, bytes], directories: tuple[str, ...] = (), links: list[str] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in directories:
            tar.addfile(_entry(name, tarfile.DIRTYPE))
        for name, data in files.items():
            entry = _entry(name, tarfile.REGTYPE)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
        for name in links or []:
            entry = _entry(name, tarfile.SYMTYPE)
            entry.linkname = "/bin/busybox"
            tar.addfile(entry)
    return buffer.getvalue()


def _entry(name: str, kind: bytes) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.mtime = kind, 0o755, 1_700_000_000
    return entry


def _blob(blobs: dict[str, bytes], data: bytes, media_type: object) -> dict[str, Any]:
    digest = hashlib.sha256(data).hexdigest()
    blobs[digest] = data
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}


def _json(document: object) -> bytes:
    return json.dumps(document, sort_keys=True).encode()
