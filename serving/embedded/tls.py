"""TLS, as an SSLConfig says: who the server is, and whether clients must say who they are."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass
from pathlib import Path

from tfserving.foundation.memory_file import memory_file
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
        # They can only be loaded from files.
        with memory_file() as key, memory_file() as certificate:
            for file, text in ((key, self.key), (certificate, self.certificate)):
                file.write(text.encode())
                file.seek(0)
            context.load_cert_chain(f"/dev/fd/{certificate.fileno()}", f"/dev/fd/{key.fileno()}", _refuse_password)
        if self.ca:
            context.load_verify_locations(cadata=self.ca)
        if self.verify_clients:
            context.verify_mode = ssl.CERT_REQUIRED
        return context


def read_tls(path: Path) -> Tls:
    """The SSLConfig in the text file `path`. Raises StartError, which shows nothing of it, when it can't be used."""
    flag = "--ssl_config_file"
    config = read_message("SSLConfig", path, flag, secret=True)
    for name in ("server_key", "server_cert"):
        if not getattr(config, name):
            raise StartError(f"{flag}={path}: it has no {name}, a PEM text")
    if config.client_verify and not config.custom_ca:
        raise StartError(f"{flag}={path}: client_verify needs a custom_ca that signs clients' certificates")
    tls = Tls(config.server_key, config.server_cert, config.custom_ca, config.client_verify)
    try:
        tls.context()
    except (ssl.SSLError, OSError, TypeError, _EncryptedError) as error:
        together = "server_key, server_cert and custom_ca can't be used together"
        raise StartError(f"{flag}={path}: {together}: {_trouble(error, tls)}") from None
    return tls


def _trouble(error: Exception, tls: Tls) -> str:
    """What is wrong with the texts that can't be used."""
    if isinstance(error, _EncryptedError):
        return "server_key is encrypted, and nobody is asked for its password; `openssl pkey -in KEY` decrypts it"
    if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
        return "server_key is not the key of server_cert"
    for name, text, begins in (
        ("server_key", tls.key, r"-----BEGIN ([A-Z0-9]+ )*PRIVATE KEY-----"),
        ("server_cert", tls.certificate, r"-----BEGIN (TRUSTED |X509 )?CERTIFICATE-----"),
        ("custom_ca", tls.ca, r"-----BEGIN (TRUSTED |X509 )?CERTIFICATE-----|^$"),
    ):
        if not re.search(begins, text):
            return f"{name} has no {'private key' if name == 'server_key' else 'certificate'} in PEM"
    return str(getattr(error, "strerror", None) or error)


class _EncryptedError(Exception):
    """A key needs a password."""


def _refuse_password() -> str:
    # OpenSSL would ask on the terminal.
    raise _EncryptedError
