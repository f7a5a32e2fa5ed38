"""What goes wrong in a command, in words and with an exit code."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import NoReturn

import click


class Errors:
    """Errors of users and of clusters end the command with this exit code: 2 while nothing has changed, else 1."""

    def __init__(self, code: int) -> None:
        self._code = code

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        from tfserving.k8s.kubectl import KubectlError
        from tfserving.k8s.rollout.target import GateError, RolloutError
        from tfserving.serving.engines import EngineError
        from tfserving.serving.models_yaml.fleet import FleetError

        if isinstance(error, (EngineError, FleetError, GateError, KubectlError, RolloutError)):
            click.echo(f"Error: {error}", err=True)
            sys.exit(self._code)
        # Nobody reads any more: click's to deal with.
        if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
            click.echo(f"Error: {f'{error.filename}: ' * bool(error.filename)}{error.strerror or error}", err=True)
            sys.exit(self._code)
        if isinstance(error, KeyboardInterrupt):
            changed = "nothing was changed" if self._code == 2 else "the cluster goes on with what it was told"  # noqa: PLR2004
            click.echo(f"\nStopped; {changed}.", err=True)
            sys.exit(130)


def refuse(reason: str) -> NoReturn:
    """Ends the command before anything has changed."""
    click.echo(f"Error: {reason}", err=True)
    sys.exit(2)
