"""What several commands share: options, errors, what is printed once a server is ready."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tfserving.foundation.command.options import fleet_option, models_argument

if TYPE_CHECKING:
    from tfserving.serving.engines import Plan
    from tfserving.serving.models_yaml.fleet import Fleet

# What is not click is imported by the commands that use it, so that help comes at once.

ENGINE_NAMES = ("auto", "docker", "native", "embedded")
# A query to paste should fit a screen; a model with larger inputs shows the command that makes one.
LONGEST_QUERY = 2000

_engine_option = click.option(
    "--engine",
    type=click.Choice(ENGINE_NAMES),
    default="auto",
    show_default=True,
    help="What runs the server; auto takes the first usable of docker, native and embedded. native is the "
    "tensorflow_model_server that TENSORFLOW_MODEL_SERVER names, else the one on PATH.",
)


def port_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options that say where a server listens."""
    for option in reversed(
        (
            click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on."),
            click.option("--port", type=click.IntRange(1, 65535), default=8500, show_default=True, help="gRPC's port."),
            click.option(
                "--rest-port", type=click.IntRange(1, 65535), default=8501, show_default=True, help="REST's port."
            ),
        )
    ):
        command = option(command)
    return command


def server_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of the commands that start a server, or check that one could start."""
    return models_argument(fleet_option(_engine_option(port_options(command))))


def say(text: str) -> None:
    """One line of progress, on stderr."""
    click.echo(text, err=True)


def read_with(path: Path, name: str) -> Fleet:
    """The fleet of a file, which must have model `name`. Raises FleetError."""
    from tfserving.serving.models_yaml.fleet import read_fleet

    read = read_fleet(path)
    read.select((name,))
    return read


@contextmanager
def changing_fleet(path: Path, wait: float) -> Iterator[None]:
    """The right to change what the servers of models.yaml `path` serve, had before the file is read."""
    from tfserving.serving.changing import changing

    with ExitStack() as stack:
        with Refusals():
            stack.enter_context(changing(path.absolute(), wait, say))
        yield


class Refusals:
    """What a user got wrong, found before anything started, ends the command with its error and exit code 2."""

    code = 2

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        from tfserving.foundation.golden import GoldenError
        from tfserving.serving.engines import EngineError
        from tfserving.serving.models_yaml.fleet import FleetError

        if isinstance(error, (FleetError, EngineError, GoldenError)):
            click.echo(f"Error: {error}", err=True)
            sys.exit(self.code)
        # Nobody reads any more: click's to deal with.
        if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
            click.echo(f"Error: {f'{error.filename}: ' * bool(error.filename)}{error.strerror or error}", err=True)
            sys.exit(self.code)
        if isinstance(error, KeyboardInterrupt):
            click.echo("\nStopped.", err=True)
            sys.exit(130)


class Failures(Refusals):
    """What went wrong on the way ends the command with its error and exit code 1."""

    code = 1


def banner(plan: Plan, engine: str, versions: dict[str, int], last: str) -> str:
    """What is printed once every model is available, `versions` by served name; `last` says how it ends."""
    from tfserving.serving.served import all_served, said

    width = max(map(len, versions))
    tls = plan.fleet.server.tls is not None
    served = {one.name: one for one in all_served(plan.fleet, plan.names)}
    return "\n".join(
        [
            f"Serving {len(plan.names)} model{'s' * (len(plan.names) > 1)} with the {engine} server:",
            *(
                f"  {name:<{width}}  {said(plan.fleet, served[name], version, served.values())}"
                for name, version in versions.items()
            ),
            f"gRPC  {plan.grpc_address}{', with TLS' * tls}",
            f"REST  http://{plan.rest_address}",
            "Ask it, in another shell:",
            *_queries(plan, *next(iter(versions.items()))),
            last,
        ]
    )


def _queries(plan: Plan, name: str, version: int) -> list[str]:
    """Commands that ask a model. A version without golden requests has none to send."""
    from tfserving.foundation.golden import GoldenError

    url = f"http://{plan.rest_address}/v1/models/{name}"
    try:
        body = smallest_request(plan.fleet, name, version)
    except GoldenError:
        return [f"  curl -s {url}/metadata"]
    if len(body) > LONGEST_QUERY:
        body = f"$(tfserving serve example {name})"
    query = [] if plan.fleet.server.tls else [f"  make query MODEL={name} PORT={plan.grpc_port}"]
    return [*query, f"  curl -s -d '{body}' {url}:predict"]


def smallest_request(fleet: Fleet, name: str, version: int) -> str:
    """The smallest golden request of a version's first signature, as the JSON of a REST predict."""
    from tfserving.clients.rest_json import predict_request
    from tfserving.foundation.golden import read_golden

    request = read_golden(fleet.model_folder(name) / str(version)).requests[0]
    return predict_request(request.signature, request.inputs).decode()
