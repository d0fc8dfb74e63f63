"""Certificates for servers and clients on 127.0.0.1, by openssl."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path


class Certificates:
    """An authority, a server with a client's rights, too, as members call each other, and a client."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.ca, self._ca_key = directory / "ca.pem", directory / "ca.key"
        _openssl(
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test authority",
            "-keyout", str(self._ca_key), "-out", str(self.ca),
        )  # fmt: skip
        self.server_cert, self.server_key = self.issue("server")
        self.client_cert, self.client_key = self.issue("client")
        self.server_both = directory / "server-both.pem"
        self.server_both.write_text(self.server_key.read_text() + self.server_cert.read_text())

    def issue(self, name: str, san: str = "IP:127.0.0.1,DNS:localhost") -> tuple[Path, Path]:
        """Return certificate and key."""
        base = self.directory / name
        key, request, cert = (base.with_suffix(end) for end in (".key", ".csr", ".pem"))
        _openssl(
            "req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}",
            "-keyout", str(key), "-out", str(request),
        )  # fmt: skip
        extensions = base.with_suffix(".ext")
        extensions.write_text(f"subjectAltName={san}\nextendedKeyUsage=serverAuth,clientAuth\n")
        _openssl(
            "x509", "-req", "-in", str(request), "-CA", str(self.ca), "-CAkey", str(self._ca_key),
            "-CAcreateserial", "-days", "2", "-extfile", str(extensions), "-out", str(cert),
        )  # fmt: skip
        key.chmod(0o600)
        return cert, key

    def context(self) -> ssl.SSLContext:
        """What a client has."""
        context = ssl.create_default_context(cafile=str(self.ca))
        context.load_cert_chain(self.client_cert, self.client_key)
        return context


def _openssl(*words: str) -> None:
    done = subprocess.run(["openssl", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
