"""TLS, as an SSLConfig says: who the server is, and whether clients must say who they are."""

from __future__ import annotations

import ssl
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tfserving.serving.config_messages import read_message
from tfserving.serving.embedded.errors import StartError


@dataclass(frozen=True)
class Tls:
    """PEM texts: the server's key and certificate, and the authorities `ca` that clients' certificates are from.

    With `verify_clients` a client without such a certificate is refused.
    """

    key: str
    certificate: str
    ca: str
    verify_clients: bool

    def context(self) -> ssl.SSLContext:
        """The server's side of a connection. Raises SSLError or OSError when the texts don't fit."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        # They can only be loaded from files; only this user can read these, and they go at once.
        with tempfile.TemporaryDirectory() as folder:
            key, certificate = Path(folder, "key"), Path(folder, "certificate")
            key.write_text(self.key)
            certificate.write_text(self.certificate)
            context.load_cert_chain(certificate, key)
        if self.ca:
            context.load_verify_locations(cadata=self.ca)
        if self.verify_clients:
            context.verify_mode = ssl.CERT_REQUIRED
        return context


def read_tls(path: Path) -> Tls:
    """The SSLConfig in the text file `path`. Raises StartError, which shows nothing of it, when it can't be used."""
    flag = "--ssl_config_file"
    config = read_message("SSLConfig", path, flag)
    for name in ("server_key", "server_cert"):
        if not getattr(config, name):
            raise StartError(f"{flag}={path}: it has no {name}, a PEM text")
    if config.client_verify and not config.custom_ca:
        raise StartError(f"{flag}={path}: client_verify needs a custom_ca that signs clients' certificates")
    tls = Tls(config.server_key, config.server_cert, config.custom_ca, config.client_verify)
    try:
        tls.context()
    except (ssl.SSLError, OSError) as error:
        text = f"server_key, server_cert and custom_ca can't be used together: {error.strerror or error}"
        raise StartError(f"{flag}={path}: {text}") from None
    return tls
