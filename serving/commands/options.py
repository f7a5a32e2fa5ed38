"""Options and arguments of several commands, and the lock for changing a fleet's servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from tfserving.serving.commands.failures import before_it_starts

if TYPE_CHECKING:
    from tfserving.serving.models_yaml.fleet import Fleet

# Other modules are imported by the commands that use them, so that help is fast.

ENGINE_NAMES = ("auto", "docker", "native", "embedded")
PORT = click.IntRange(1, 65535)
Function = TypeVar("Function", bound=Callable[..., None])

engine_option = click.option(
    "--engine",
    type=click.Choice(ENGINE_NAMES),
    default="auto",
    show_default=True,
    help="What runs the server. auto uses the first of the others that works here. native is the "
    "tensorflow_model_server of TENSORFLOW_MODEL_SERVER or PATH.",
)
export_option = click.option(
    "--no-export", is_flag=True, help="Fail if a model has no version, instead of exporting one."
)


def port_options(command: Function) -> Function:
    """Add the options for where a server listens."""
    for option in reversed(
        (
            click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on."),
            click.option("--port", type=PORT, metavar="PORT", default=8500, show_default=True, help="The gRPC port."),
            click.option(
                "--rest-port", type=PORT, metavar="PORT", default=8501, show_default=True, help="The REST port."
            ),
        )
    ):
        command = option(command)
    return command


def say(text: str) -> None:
    """Print a line on stderr."""
    click.echo(text, err=True)


def read_with(path: Path, name: str) -> Fleet:
    """Return the fleet of a file that has model `name`. Raises FleetError."""
    from tfserving.serving.models_yaml.fleet import read_fleet

    read = read_fleet(path)
    read.select((name,))
    return read


@contextmanager
def changing_fleet(path: Path, wait: float) -> Iterator[None]:
    """Hold the lock for changing what the servers of models.yaml `path` serve. Take it before the file is read."""
    from tfserving.serving.changing import changing

    with ExitStack() as stack:
        with before_it_starts():
            stack.enter_context(changing(path.absolute(), wait, say))
        yield
