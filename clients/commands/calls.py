"""The arguments and options of commands that call a server, and the errors of failed calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from tfserving.clients.limits import LONGEST_TIMEOUT, MAX_RESPONSE_BYTES
from tfserving.foundation.command.errors import FAILED, UNREACHABLE, CommandError
from tfserving.foundation.command.hints import DEFAULT_SERVER, SERVER_VARIABLE, typed
from tfserving.foundation.command.options import writable

if TYPE_CHECKING:
    from tfserving.clients.address import ServerUrls
    from tfserving.clients.client import Client
    from tfserving.clients.errors import ServingError

Function = TypeVar("Function", bound=Callable[..., None])


@dataclass(frozen=True)
class Target:
    """The server that the options name, how to connect to it, and the timeout of a call in seconds."""

    server: ServerUrls
    timeout: float
    tls: Mapping[str, Any]
    max_response_bytes: int = MAX_RESPONSE_BYTES

    @property
    def url(self) -> str:
        """The URL that commands use that need one protocol."""
        return self.server.first

    @contextmanager
    def connected(self) -> Iterator[Client]:
        """Return a client. A call that fails inside ends the command with its error and an exit code."""
        from tfserving.clients.address import Tls
        from tfserving.clients.client import connect
        from tfserving.clients.errors import ServingError

        try:
            client = connect(
                self.url,
                tls=Tls(**self.tls) if self.tls else None,
                timeout=self.timeout,
                max_response_bytes=self.max_response_bytes,
            )
        except ValueError as error:
            raise click.UsageError(str(error)) from None
        with client:
            try:
                yield client
            except ServingError as error:
                fail(error)


def fail(error: ServingError) -> NoReturn:
    """End the command with the error of a call."""
    from tfserving.clients.errors import NO_RESPONSE, DeadlineExceeded, Unavailable
    from tfserving.clients.unreachable import START, UNRESOLVED

    if error.hint.startswith(UNRESOLVED):
        raise CommandError(f"{error.hint}.", UNREACHABLE) from None
    if isinstance(error, DeadlineExceeded) and error.text in NO_RESPONSE:
        text = f"{error.server} sent no complete response within the timeout. Check --server, or raise --timeout."
        raise CommandError(text, UNREACHABLE) from None
    unreachable = isinstance(error, (Unavailable, DeadlineExceeded))
    absent, _, _ = error.hint.partition(START)
    if absent != error.hint:
        text = f"{absent}. Start one with `{typed('serve')}`, or name another server with --server."
        raise CommandError(text, UNREACHABLE) from None
    raise CommandError(str(error), UNREACHABLE if unreachable else FAILED) from None


class _Seconds(click.FloatRange):
    """Seconds above a number and below what a timer can hold; infinity and NaN are rejected."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """See `click.ParamType.convert`."""
        seconds: float = super().convert(value, param, ctx)
        if not seconds <= LONGEST_TIMEOUT:
            self.fail(f"{value} is not a number of seconds up to {LONGEST_TIMEOUT:g}", param, ctx)
        return seconds


SECONDS = _Seconds(0, min_open=True)
SECONDS_OF_A_WINDOW = _Seconds(0.1)
_FILE = click.Path(exists=True, dir_okay=False)
TLS_OPTIONS = (
    click.option("--tls-ca", "tls_ca", type=_FILE, metavar="FILE", help="PEM file of the trusted authorities."),
    click.option(
        "--tls-cert", "tls_certificate", type=_FILE, metavar="FILE", help="PEM file of this client's certificate."
    ),
    click.option("--tls-key", "tls_key", type=_FILE, metavar="FILE", help="PEM file of that certificate's key."),
    click.option("--tls-server-name", metavar="NAME", help="The name in the server's certificate."),
)


def tls_of(options: dict[str, Any]) -> dict[str, Any]:
    """Remove the values of `TLS_OPTIONS` from `options`, and return those that are given."""
    names = [name for name in options if name.startswith("tls_")]
    return {name.removeprefix("tls_"): value for name in names if (value := options.pop(name)) is not None}


def with_tls(command: Callable[..., None]) -> Callable[..., None]:
    """Add the TLS options; the command gets them as `tls`."""

    @wraps(command)
    def with_options(**options: Any) -> None:
        command(tls=tls_of(options), **options)

    wrapped: Callable[..., None] = with_options
    for option in reversed(TLS_OPTIONS):
        wrapped = option(wrapped)
    return wrapped


max_response_option = click.option(
    "--max-response-bytes",
    type=click.IntRange(1),
    default=MAX_RESPONSE_BYTES,
    show_default=True,
    metavar="BYTES",
    help="The limit of a response, as received or inflated.",
)


class _ServerType(click.ParamType["ServerUrls"]):
    """`URL[,URL]`: a server's gRPC port, its REST port, or both."""

    name = "URL[,URL]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> ServerUrls:
        """See `click.ParamType.convert`."""
        from tfserving.clients.address import ServerUrls, read_server

        if isinstance(value, ServerUrls):
            return value
        try:
            return read_server(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


SERVER = _ServerType()
# For commands that call a server.
server_option = click.option(
    "--server",
    type=SERVER,
    envvar=SERVER_VARIABLE,
    show_envvar=True,
    default=DEFAULT_SERVER,
    help="The URL of the server's gRPC or REST port, or both.  [default: port 8500 and 8501 of this machine]",
)
# For commands that work without a server, too: it is None then, and the environment variable is ignored.
optional_server_option = click.option(
    "--server", type=SERVER, help="Use this server: the URL of its gRPC or REST port, or both."
)


def timeout_option(seconds: float) -> Callable[[Function], Function]:
    """The option of a call's timeout."""
    return click.option(
        "--timeout",
        type=SECONDS,
        default=seconds,
        show_default=True,
        metavar="SECONDS",
        help="How long to wait for each response.",
    )


def server_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of a command that calls one server; it gets them as `target`."""
    return _with_target(command, server_option)


def optional_server_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the same options to a command that works without `--server`, too; `target` is None then."""
    return _with_target(command, optional_server_option)


def _with_target(command: Callable[..., None], server_option: Callable[..., Any]) -> Callable[..., None]:
    @wraps(command)
    def with_target(
        *, server: ServerUrls | None, timeout: float, max_response_bytes: int, tls: dict[str, Any], **options: Any
    ) -> None:
        if server is None and tls:
            raise click.UsageError("TLS options are given without a server; add --server grpcs://HOST:PORT")
        target = None if server is None else Target(server, timeout, tls, max_response_bytes)
        command(target=target, **options)

    wrapped = with_tls(with_target)
    for option in (max_response_option, timeout_option(10.0), server_option):
        wrapped = option(wrapped)
    return wrapped


output_option = click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=writable(".npz"),
    metavar="FILE",
    help="Write the outputs to this .npz file instead of printing them.",
)
signature_option = click.option(
    "--signature", metavar="NAME", help="The signature to call.  [default: serving_default]"
)


@contextmanager
def reporting(report: Path) -> Iterator[None]:
    """Write the report. A report that can't be written ends the command, after its results were printed."""
    try:
        yield
    except OSError as error:
        raise CommandError(f"the report {report} can't be written: {error.strerror or error}") from None
    click.echo(f"Wrote the report to {report}.", err=True)
