"""TLS from an SSLConfig: the server's certificate, and whether clients must present one."""

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
    """PEM texts: the server's key and certificate, and the authorities `ca` that sign clients' certificates.

    With `verify_clients` clients without such a certificate are refused.
    """

    key: str
    certificate: str
    ca: str
    verify_clients: bool

    def context(self) -> ssl.SSLContext:
        """Returns the server-side context. Raises SSLError or OSError when the texts don't belong together."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        # The ssl module loads them only from files.
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
    """Reads the SSLConfig in the text file `path`. Raises StartError, which shows no secrets, when it is invalid."""
    flag = "--ssl_config_file"
    config = read_message("SSLConfig", path, flag, secret=True)
    for name in ("server_key", "server_cert"):
        if not getattr(config, name):
            raise StartError(f"{flag}={path} contains no {name}, a PEM text")
    if config.client_verify and not config.custom_ca:
        raise StartError(f"{flag}={path}: client_verify requires custom_ca, the authority of clients' certificates")
    tls = Tls(config.server_key, config.server_cert, config.custom_ca, config.client_verify)
    try:
        tls.context()
    except (ssl.SSLError, OSError, TypeError, _EncryptedError) as error:
        together = "server_key, server_cert and custom_ca can't be used together"
        raise StartError(f"{flag}={path}: {together}: {_trouble(error, tls)}") from None
    return tls


def _trouble(error: Exception, tls: Tls) -> str:
    """Describes the problem with the texts."""
    if isinstance(error, _EncryptedError):
        return "server_key is encrypted. Decrypt it with `openssl pkey -in KEY`"
    if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
        return "server_key does not belong to server_cert"
    for name, text, begins in (
        ("server_key", tls.key, r"-----BEGIN ([A-Z0-9]+ )*PRIVATE KEY-----"),
        ("server_cert", tls.certificate, r"-----BEGIN (TRUSTED |X509 )?CERTIFICATE-----"),
        ("custom_ca", tls.ca, r"-----BEGIN (TRUSTED |X509 )?CERTIFICATE-----|^$"),
    ):
        if not re.search(begins, text):
            return f"{name} contains no {'private key' if name == 'server_key' else 'certificate'} in PEM"
    return str(getattr(error, "strerror", None) or error)


class _EncryptedError(Exception):
    """The key is encrypted."""


def _refuse_password() -> str:
    # Without this, OpenSSL reads a password from the terminal.
    raise _EncryptedError
