"""Certificates, made by openssl."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path


class Authority:
    """A certificate authority, a server and a client with its certificates, all of localhost."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=authority")
        (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1")
        for name in ("server", "client"):
            self._openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", name=name, out="csr")
            signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names")
            subprocess.run(
                ["openssl", "x509", "-req", "-in", f"{name}.csr", *signed, "-out", f"{name}.pem"],
                cwd=folder,
                check=True,
                capture_output=True,
            )

    def _openssl(self, *arguments: str, name: str = "ca", out: str = "pem") -> None:
        files = ("-keyout", f"{name}.key", "-out", f"{name}.{out}")
        subprocess.run(["openssl", *arguments, *files], cwd=self.folder, check=True, capture_output=True)

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def text(self, name: str) -> str:
        return (self.folder / name).read_text()

    def config(self, name: str, *more: str, key: str = "server.key", certificate: str = "server.pem") -> Path:
        fields = {"server_key": self.text(key), "server_cert": self.text(certificate)}
        written = [f"{field}: {json.dumps(value)}" for field, value in fields.items()]
        (self.folder / name).write_text("\n".join([*written, *more]))
        return self.folder / name
