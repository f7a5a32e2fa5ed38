"""What the commands share: the options that say whom to ask what, and how a failed call ends a command."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from tfserving.clients.limits import LONGEST_TIMEOUT, MAX_RESPONSE_BYTES
from tfserving.foundation.command.options import writable

if TYPE_CHECKING:
    from tfserving.clients.address import ServerUrls
    from tfserving.clients.client import Client
    from tfserving.clients.errors import ServingError

FAILED, WRONG_USAGE, UNREACHABLE = 1, 2, 3
EXIT_CODES = """\b
Exit codes: 0 all is well; 1 the server answered with an error, what it serves
differs, or the output can't be written; 2 wrong usage or an input that doesn't
fit; 3 no server answers; 130 Ctrl-C."""

DEFAULT_SERVER = "grpc://127.0.0.1:8500,http://127.0.0.1:8501"
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
        """Return a client; a call that fails inside ends the command with its error and an exit code."""
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
    """Ends the command with the error of a call."""
    from tfserving.clients.errors import DeadlineExceeded, Unavailable

    click.echo(f"Error: {error}", err=True)
    sys.exit(UNREACHABLE if isinstance(error, (Unavailable, DeadlineExceeded)) else FAILED)


class _Seconds(click.FloatRange):
    """Seconds above a number, and no more than a timer holds: no infinity, and not what is no number."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """See `click.ParamType.convert`."""
        seconds: float = super().convert(value, param, ctx)
        if not seconds <= LONGEST_TIMEOUT:
            self.fail(f"{value} is no number of seconds up to {LONGEST_TIMEOUT:g}", param, ctx)
        return seconds


SECONDS = _Seconds(0, min_open=True)
SECONDS_OF_A_WINDOW = _Seconds(0.1)
_FILE = click.Path(exists=True, dir_okay=False)
TLS_OPTIONS = (
    click.option(
        "--tls-ca", "tls_ca", type=_FILE, help="PEM file of the authorities to trust, for grpcs:// and https://."
    ),
    click.option("--tls-cert", "tls_certificate", type=_FILE, help="PEM file of this client's certificate."),
    click.option("--tls-key", "tls_key", type=_FILE, help="PEM file of that certificate's key."),
    click.option("--tls-server-name", help="The name in the server's certificate, if it isn't the address's."),
)


def tls_of(options: dict[str, Any]) -> dict[str, Any]:
    """Takes what `TLS_OPTIONS` gave out of `options`."""
    names = [name for name in options if name.startswith("tls_")]
    return {name.removeprefix("tls_"): value for name in names if (value := options.pop(name)) is not None}


def with_tls(command: Callable[..., None]) -> Callable[..., None]:
    """The options of TLS; the command gets what they say as `tls`."""

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
    help="Fail for a larger response, as received or inflated.",
)


class _ServerType(click.ParamType):
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
    envvar="TFSERVING_SERVER",
    default=DEFAULT_SERVER,
    show_default=True,
    help="The server's gRPC URL, REST URL, or both.",
)
# For commands that work without a server, too: it is None then, and the environment variable is ignored.
optional_server_option = click.option(
    "--server", type=SERVER, help="The gRPC URL, the REST URL, or both, of a server to use."
)
timeout_option = click.option(
    "--timeout", type=SECONDS, default=10.0, show_default=True, help="Seconds to wait for a response."
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
    for option in (max_response_option, timeout_option, server_option):
        wrapped = option(wrapped)
    return wrapped


def model_option(command: Function) -> Function:
    """The model that is asked."""
    return click.option("--model", required=True, help="The model's name.")(command)


def version_options(command: Function) -> Function:
    """The options that pin a version; `pinned` checks them."""
    command = click.option("--label", help="The version with this label.")(command)
    return click.option("--version", type=int, help="This version.  [default: the newest]")(command)


def check_pinned(version: int | None, label: str | None) -> None:
    """Refuses a version and a label at once."""
    if version is not None and label is not None:
        raise click.UsageError("--version and --label can't be used together; give one of them")


output_option = click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=writable(".npz"),
    help="Write the outputs to this .npz file instead of showing them.",
)
signature_option = click.option("--signature", help="The signature to call.  [default: serving_default]")


@contextmanager
def reporting(report: Path) -> Iterator[None]:
    """Writes the report, after what is in it was shown; a report that can't be written ends the command."""
    try:
        yield
    except OSError as error:
        click.echo(f"Error: the report can't be written: {report}: {error.strerror or error}", err=True)
        sys.exit(FAILED)
    click.echo(f"{report}: the report", err=True)
