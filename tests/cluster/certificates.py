"""The cluster's certificates and kubeconfigs, made by openssl. Who somebody is, is what its certificate says."""

from __future__ import annotations

import base64
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

DAYS = "30"
CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


@dataclass(frozen=True)
class Authority:
    """A certificate authority with its files in `folder`."""

    folder: Path

    @classmethod
    def made(cls, folder: Path) -> Authority:
        folder.mkdir(mode=0o700)
        authority = cls(folder)
        authority._openssl("req", "-x509", *CURVE, "-days", DAYS, "-subj", "/CN=cluster", *authority._pair("ca"))
        # The service accounts' tokens are signed by a key of their own.
        authority._openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", "accounts.key")
        authority._openssl("pkey", "-in", "accounts.key", "-pubout", "-out", "accounts.pub")
        return authority

    def sign(self, name: str, user: str, group: str = "", hosts: tuple[str, ...] = ()) -> None:
        """Makes NAME.pem and NAME.key, for `user` of `group`, who answers as `hosts` if any."""
        subject = f"/O={group}/CN={user}" if group else f"/CN={user}"
        usage = "extendedKeyUsage=clientAuth,serverAuth\n"
        (self.folder / f"{name}.ext").write_text(usage + (f"subjectAltName={','.join(hosts)}\n" if hosts else ""))
        self._openssl("req", *CURVE, "-subj", subject, "-keyout", f"{name}.key", "-out", f"{name}.csr")
        signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", DAYS, "-extfile", f"{name}.ext")
        self._openssl("x509", "-req", "-in", f"{name}.csr", *signed, "-out", f"{name}.pem")

    def kubeconfig(self, name: str, server: str) -> Path:
        """Makes NAME.kubeconfig, for who has NAME.pem."""

        def data(file: str) -> str:
            return base64.b64encode((self.folder / file).read_bytes()).decode()

        cluster = {"server": server, "certificate-authority-data": data("ca.pem")}
        user = {"client-certificate-data": data(f"{name}.pem"), "client-key-data": data(f"{name}.key")}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "tests", "cluster": cluster}],
            "users": [{"name": name, "user": user}],
            "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": name}}],
            "current-context": "tests",
        }
        path = self.folder / f"{name}.kubeconfig"
        path.write_text(json.dumps(config))
        path.chmod(0o600)
        return path

    def path(self, name: str) -> str:
        return str(self.folder / name)

    @staticmethod
    def _pair(name: str) -> tuple[str, ...]:
        return ("-keyout", f"{name}.key", "-out", f"{name}.pem")

    def _openssl(self, *words: str) -> None:
        subprocess.run(["openssl", *words], cwd=self.folder, check=True, capture_output=True)
