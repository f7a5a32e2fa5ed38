"""Where a model server is, as a URL says it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from tfserving.clients.certificates import context_of

if TYPE_CHECKING:
    import ssl

PORTS = {"grpc": 8500, "rest": 8501}
SCHEMES: dict[str, tuple[Literal["grpc", "rest"], bool]] = {
    "grpc": ("grpc", False),
    "grpcs": ("grpc", True),
    "http": ("rest", False),
    "https": ("rest", True),
}
_HAVE_TLS = {"grpcs", "https", "dns", "unix"}
FORMS = "grpc[s]://HOST:PORT, http[s]://HOST:PORT, dns:///HOST:PORT or unix:///PATH"


@dataclass(frozen=True)
class Tls:
    """Whom a client trusts, and how it says who it is: PEM files.

    `ca` holds the authorities that may vouch for the server (those that gRPC, or the system, knows without it).
    `certificate` and `key` are the client's own, for a server that asks for them. `server_name` is the name that the
    server's certificate must bear where that isn't the address's host.
    """

    ca: Path | str | None = None
    certificate: Path | str | None = None
    key: Path | str | None = None
    server_name: str | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("a client's certificate and its key belong together; give both or none")
        if self.ca is not None or self.certificate is not None:
            self.context()

    def context(self) -> ssl.SSLContext:
        """What verifies the server by these files. Raises ValueError that names a file that can't be used."""
        return context_of(self.ca, self.certificate, self.key)


@dataclass(frozen=True)
class Address:
    """A model server's address.

    `target` is what the transport connects to: gRPC's name for it, or the start of every URL. With `every_address`
    the host's addresses are all used in turn. `tls` is None on a connection that isn't encrypted.
    """

    protocol: Literal["grpc", "rest"]
    target: str
    tls: Tls | None = None
    every_address: bool = False


def tls_of_each(urls: Sequence[str], tls: Tls | None) -> list[Tls | None]:
    """What each of `urls` gets of `tls`: it is for the addresses that have TLS, `grpcs://` and `https://`.

    `dns:///` and `unix:///` have TLS whenever `tls` is given: they are the same with TLS and without.

    Raises ValueError when `tls` is given and no address has TLS.
    """
    found = [tls if url.partition(":")[0].lower() in _HAVE_TLS else None for url in urls]
    if tls and not any(found):
        secure = " or ".join(url.replace("://", "s://", 1) for url in urls)
        raise ValueError(f"there are options of TLS, but no address with TLS; {secure} has it")
    return found


def read_address(url: str, tls: Tls | None = None) -> Address:
    """The address that `url` says.

    `grpc://HOST[:PORT]` and `http://HOST[:PORT][/PREFIX]`, with TLS `grpcs://` and `https://`; the ports are 8500 and
    8501 unless the URL says otherwise, an IPv6 address stands in brackets. `dns:///HOST[:PORT]` is gRPC to all the
    addresses of a name in turn, a headless service's pods, say; `dns://SERVER/HOST[:PORT]` asks that name server.
    `unix:///PATH` is gRPC to a socket of this machine. These two use TLS when `tls` is given.

    Raises ValueError for any other URL, and for `tls` where the URL says that there is none.
    """
    wanted = f"{url!r} is no address of a model server: {FORMS} is"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"{wanted} ({error})") from None
    if parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError(wanted)
    if parts.scheme == "unix" and not parts.netloc and parts.path.strip("/"):
        return Address("grpc", f"unix:{parts.path}", tls)
    if parts.scheme == "dns":
        try:
            inner = read_address(f"grpc://{parts.path.removeprefix('/')}")
        except ValueError:
            raise ValueError(wanted) from None
        return Address("grpc", f"dns://{parts.netloc}/{inner.target}", tls, every_address=True)
    if parts.scheme not in SCHEMES or not host:
        raise ValueError(wanted)
    protocol, secure = SCHEMES[parts.scheme]
    if tls and not secure:
        raise ValueError(f"{url!r} is an address without TLS; {parts.scheme}s:// is the one with it")
    place = f"[{host}]" if ":" in host else host
    address = f"{place}:{port or PORTS[protocol]}"
    encryption = (tls or Tls()) if secure else None
    if protocol == "rest":
        return Address(protocol, f"{parts.scheme}://{address}{parts.path.rstrip('/')}", encryption)
    if parts.path not in ("", "/"):
        raise ValueError(f"{wanted}, and gRPC has no path {parts.path!r}")
    return Address(protocol, address, encryption)
