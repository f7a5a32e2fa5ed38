"""Checks of TLS files before anything is sent, since an error of the handshake doesn't name the file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl


def context_of(ca: Path | str | None, certificate: Path | str | None, key: Path | str | None) -> ssl.SSLContext:
    """Return an SSL context that trusts the authorities in `ca` and presents `certificate` with its `key`.

    The files are PEM; without `ca` the system's authorities are trusted. Raises ValueError that names a file that can't
    be read, contains no certificate or no key, an encrypted key, or a key of another certificate.
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
            raise ValueError(f"the TLS file {key} (key) is encrypted; give one without a passphrase")

        try:
            context.load_cert_chain(certificate, key, refuse)
        except ssl.SSLError as error:
            if "MISMATCH" in (error.reason or ""):
                raise ValueError(
                    f"the TLS file {key} (key) is not the key of the certificate in {certificate}"
                ) from None
            raise ValueError(f"the TLS file {key} (key) contains no private key in PEM form") from None
    return context


def _check_readable(path: Path, what: str) -> None:
    try:
        if path.exists() and not path.is_file():
            raise ValueError(f"the TLS file {path} ({what}) is not a regular file")
        path.read_bytes()
    except OSError as error:
        raise ValueError(f"the TLS file {path} ({what}) can't be read: {error.strerror}") from None


def _check_holds_certificate(path: Path | str, what: str) -> None:
    import ssl

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=str(path))
    except ssl.SSLError:
        raise ValueError(f"the TLS file {path} ({what}) contains no certificate in PEM form") from None
