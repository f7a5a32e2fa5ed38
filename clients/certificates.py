"""TLS files, checked before anything is sent: an error of the handshake wouldn't name the file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl


def context_of(ca: Path | str | None, certificate: Path | str | None, key: Path | str | None) -> ssl.SSLContext:
    """What trusts the authorities in `ca`, the system's without it, and shows `certificate` with its `key`: PEM files.

    Raises ValueError that names the file: one that can't be read, holds no certificate or no key, an encrypted key, a
    key that is not the certificate's.
    """
    import ssl

    for path, what in ((ca, "ca"), (certificate, "certificate"), (key, "key")):
        if path is not None:
            _check_readable(Path(path), what)
    for path, what in ((ca, "ca"), (certificate, "certificate")):
        if path is not None:
            _check_holds_certificate(path, what)
    context = ssl.create_default_context(cafile=None if ca is None else str(ca))
    if certificate is not None and key is not None:

        def refuse() -> bytes:
            raise ValueError(f"the TLS file {key} (key) is encrypted: give one without a passphrase")

        try:
            context.load_cert_chain(certificate, key, refuse)
        except ssl.SSLError as error:
            if "MISMATCH" in (error.reason or ""):
                raise ValueError(
                    f"the TLS file {key} (key) is not the key of the certificate in {certificate}"
                ) from None
            raise ValueError(f"the TLS file {key} (key) holds no private key in PEM form") from None
    return context


def _check_readable(path: Path, what: str) -> None:
    try:
        if path.exists() and not path.is_file():
            raise ValueError(f"the TLS file {path} ({what}) is no regular file")
        path.read_bytes()
    except OSError as error:
        raise ValueError(f"the TLS file {path} ({what}) can't be read: {error.strerror}") from None


def _check_holds_certificate(path: Path | str, what: str) -> None:
    import ssl

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=str(path))
    except ssl.SSLError:
        raise ValueError(f"the TLS file {path} ({what}) holds no certificate in PEM form") from None
