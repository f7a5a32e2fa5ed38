"""What the commands share: the options that say whom to ask what, and how a failed call ends a command."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from clients.client import Client

FAILED, WRONG_USAGE, UNREACHABLE, INTERRUPTED = 1, 2, 3, 130
EXIT_CODES = """\b
Exit codes: 0 all is well; 1 the server answered with an error, or what it serves
differs; 2 wrong usage or an input that doesn't fit; 3 no server answers; 130 Ctrl-C."""

Function = TypeVar("Function", bound=Callable[..., None])


class Commands(click.Group):
    """A group of commands that Ctrl-C ends without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command that was asked for."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("\nInterrupted.", err=True)
            sys.exit(INTERRUPTED)


def server_options(command: Function) -> Function:
    """The options of a command that asks one server about one model."""
    for option in (
        click.option(
            "--timeout",
            type=click.FloatRange(0, min_open=True),
            default=10.0,
            show_default=True,
            help="Seconds to wait for an answer.",
        ),
        click.option(
            "--server",
            default="grpc://127.0.0.1:8500",
            show_default=True,
            metavar="URL",
            help="The server: grpc://HOST:PORT or http://HOST:PORT.",
        ),
        click.option("--model", required=True, help="The model's name."),
    ):
        command = option(command)
    return command


def version_options(command: Function) -> Function:
    """The options that pin a version; `pinned` checks them."""
    command = click.option("--label", help="The version with this label.")(command)
    return click.option("--version", type=int, help="This version.  [default: the newest]")(command)


def check_pinned(version: int | None, label: str | None) -> None:
    """Refuses a version and a label at once."""
    if version is not None and label is not None:
        raise click.UsageError("--version and --label can't be used together; give one of them")


@contextmanager
def asking(server: str) -> Iterator[Client]:
    """A client for the URL `server`; a call that fails inside ends the command with its error and an exit code."""
    from clients.client import connect
    from clients.errors import DeadlineExceeded, ServingError, Unavailable

    try:
        client = connect(server)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--server") from None
    with client:
        try:
            yield client
        except ServingError as error:
            click.echo(f"Error: {error}", err=True)
            sys.exit(UNREACHABLE if isinstance(error, (Unavailable, DeadlineExceeded)) else FAILED)
