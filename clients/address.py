"""Addresses of model servers, as URLs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias
from urllib.parse import urlsplit

from tfserving.clients.certificates import context_of

if TYPE_CHECKING:
    import ssl

Protocol: TypeAlias = Literal["grpc", "rest"]

PORTS: dict[Protocol, int] = {"grpc": 8500, "rest": 8501}
SCHEMES: dict[str, tuple[Protocol, bool]] = {
    "grpc": ("grpc", False),
    "grpcs": ("grpc", True),
    "http": ("rest", False),
    "https": ("rest", True),
}
_HAVE_TLS = {"grpcs", "https", "dns", "unix"}
FORMS = "grpc[s]://HOST:PORT, http[s]://HOST:PORT, dns:///HOST:PORT or unix:///PATH"


@dataclass(frozen=True)
class Tls:
    """The certificates of a TLS connection: PEM files.

    `ca` holds the trusted authorities; without it, those of gRPC or of the system are trusted. `certificate` and `key`
    are the client's own, for a server that requires them. `server_name` is the name in the server's certificate, where
    that differs from the host in the address.
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
        """Return the SSL context of these files. Raises ValueError that names a file that can't be used."""
        return context_of(self.ca, self.certificate, self.key)


@dataclass(frozen=True)
class Address:
    """A model server's address.

    `target` is what the transport connects to: gRPC's target name, or the start of every URL. With `every_address`
    requests go to all addresses of the host in turn. `tls` is None on a connection that isn't encrypted.
    """

    protocol: Protocol
    target: str
    tls: Tls | None = None
    every_address: bool = False


@dataclass(frozen=True)
class ServerUrls:
    """The URL of a server's gRPC port, of its REST port, or of both."""

    urls: tuple[str, ...]

    @property
    def first(self) -> str:
        """The URL that commands use that need one protocol."""
        return self.urls[0]

    def of(self, protocol: Protocol) -> str | None:
        """Return the URL of `protocol`, None if the server has none."""
        return next((url for url in self.urls if read_address(url).protocol == protocol), None)

    def __str__(self) -> str:
        return ",".join(self.urls)


def read_server(text: str) -> ServerUrls:
    """Return the URLs in `text`: one, or the gRPC and the REST port of the same server with a comma in between.

    Raises ValueError that names the URL that is wrong.
    """
    urls = tuple(url.strip() for url in text.split(","))
    if "" in urls:
        raise ValueError(
            f"{text!r} has an empty URL; write URL or URL,URL, for example grpc://HOST:8500,http://HOST:8501"
        )
    protocols = [read_address(url).protocol for url in urls]
    if len(urls) > len(PORTS):
        raise ValueError(f"{text!r} has {len(urls)} URLs; a server has one for gRPC and one for REST")
    if len(set(protocols)) < len(urls):
        kind = {"grpc": "gRPC", "rest": "REST"}[protocols[0]]
        raise ValueError(f"{text!r} has two {kind} URLs; a server has one for gRPC and one for REST")
    return ServerUrls(urls)


def tls_of_each(urls: Sequence[str], tls: Tls | None) -> list[Tls | None]:
    """Return `tls` for each of `urls` that uses TLS, `grpcs://` and `https://`, and None for the others.

    `dns:///` and `unix:///` use TLS whenever `tls` is given: their URLs are the same with and without TLS.

    Raises ValueError when `tls` is given and no URL uses TLS.
    """
    found = [tls if url.partition(":")[0].lower() in _HAVE_TLS else None for url in urls]
    if tls and not any(found):
        secure = " or ".join(url.replace("://", "s://", 1) for url in urls)
        raise ValueError(f"TLS options are given, but no URL uses TLS; write {secure}")
    return found


def read_address(url: str, tls: Tls | None = None) -> Address:
    """Return the address that `url` names.

    `grpc://HOST[:PORT]` and `http://HOST[:PORT][/PREFIX]`, with TLS `grpcs://` and `https://`. The default ports are
    8500 and 8501, an IPv6 address is in brackets. `dns:///HOST[:PORT]` is gRPC to all the addresses of a name in turn,
    for example the pods of a headless service; `dns://SERVER/HOST[:PORT]` looks the name up at that name server.
    `unix:///PATH` is gRPC to a socket of this machine. These two use TLS when `tls` is given.

    Raises ValueError for any other URL, and when `tls` is given for a URL without TLS.
    """
    wrong = f"{url!r} is not the URL of a model server; expected {FORMS}"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"{wrong} ({error})") from None
    if parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError(wrong)
    if parts.scheme == "unix" and not parts.netloc and parts.path.strip("/"):
        return Address("grpc", f"unix:{parts.path}", tls)
    if parts.scheme == "dns":
        try:
            inner = read_address(f"grpc://{parts.path.removeprefix('/')}")
        except ValueError:
            raise ValueError(wrong) from None
        return Address("grpc", f"dns://{parts.netloc}/{inner.target}", tls, every_address=True)
    if parts.scheme not in SCHEMES or not host:
        raise ValueError(_without_scheme(url) or wrong)
    protocol, secure = SCHEMES[parts.scheme]
    if tls and not secure:
        raise ValueError(f"{url!r} doesn't use TLS; write {parts.scheme}s:// to use it")
    place = f"[{host}]" if ":" in host else host
    address = f"{place}:{port or PORTS[protocol]}"
    encryption = (tls or Tls()) if secure else None
    if protocol == "rest":
        return Address(protocol, f"{parts.scheme}://{address}{parts.path.rstrip('/')}", encryption)
    if parts.path not in ("", "/"):
        raise ValueError(f"{wrong}; gRPC has no path, got {parts.path!r}")
    return Address(protocol, address, encryption)


def _without_scheme(url: str) -> str:
    """Return what to write for a `HOST:PORT` that only lacks its scheme; "" for anything else."""
    try:
        parts = urlsplit(f"grpc://{url}")
        lacks_scheme = "://" not in url and bool(parts.hostname and parts.port) and parts.path in ("", "/")
    except ValueError:
        return ""
    return f"{url!r} is not a URL; write grpc://{url} or http://{url}" if lacks_scheme else ""
