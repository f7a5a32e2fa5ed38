"""The command `tfserving`: one door to the four rooms. A room is imported when one of its commands runs."""

from __future__ import annotations

import contextlib
import importlib
import sys
from dataclasses import dataclass
from typing import Any

import click
from click.shell_completion import get_completion_class

from tfserving import __version__
from tfserving.foundation.extras import missing_extra
from tfserving.foundation.failures import sentence
from tfserving.interrupts import Interrupts

FAILED = 1
_interrupts = Interrupts()


@dataclass(frozen=True)
class Room:
    """A group of commands: the room that has it, the extra that it needs, and what it is for."""

    name: str
    extra: str
    purpose: str

    def load(self) -> click.Command:
        """The group. Raises ModuleNotFoundError when a module that it needs isn't installed."""
        found = importlib.import_module(f"tfserving.{self.name}.cli").main
        assert isinstance(found, click.Command)
        return found


ROOMS = {
    "export": Room("export", "export", "Export models as versions that carry their own proof."),
    "serve": Room("serving", "serving", "Run TensorFlow Serving over the models of models.yaml."),
    "client": Room("clients", "clients", "Call a model server, verify what it serves, load-test it."),
    "k8s": Room("k8s", "k8s", "Run the fleet on Kubernetes, and roll new versions out and back."),
}


class _MissingExtraError(click.ClickException):
    """A room's command needs an extra that isn't installed."""

    exit_code = 2


class _Rooms(click.Group):
    """Groups that are imported when they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The rooms first, then what belongs to none."""
        return [*ROOMS, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The group or the command called `cmd_name`."""
        room = ROOMS.get(cmd_name)
        if room is None:
            return super().get_command(ctx, cmd_name)
        try:
            return room.load()
        except ModuleNotFoundError as error:
            text = missing_extra(error, room.extra, f"tfserving {cmd_name}")
            if text is None:
                raise
            if ctx.resilient_parsing:
                # A shell that completes words needs the name alone.
                return click.Command(cmd_name, help=room.purpose)
            raise _MissingExtraError(text) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Lists the rooms without importing them."""
        others = ((name, self.commands[name].get_short_help_str(100)) for name in super().list_commands(ctx))
        with formatter.section("Commands"):
            formatter.write_dl([*((name, room.purpose) for name, room in ROOMS.items()), *others])

    def main(self, *args: Any, **named: Any) -> Any:
        """Runs the command; what the machine refuses it is a line and exit code 1, Ctrl-C exit code 130."""
        try:
            return super().main(*args, **named)
        except Exception as error:
            if _interrupts.came:
                _interrupts.end()
            said = sentence(error)
            if said is None:
                raise
            with contextlib.suppress(OSError):
                click.echo(f"Error: {said}", err=True)
            sys.exit(FAILED)

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command; one whose extra is missing ends with a line that names the extra."""
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            name = ctx.invoked_subcommand
            room = ROOMS.get(name or "")
            text = missing_extra(error, room.extra, f"tfserving {name}") if room else None
            if text is None:
                raise
            raise _MissingExtraError(text) from None
        except KeyboardInterrupt:
            _interrupts.end()

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that `args` name. It is imported now: from here on Ctrl-C is the command's."""
        resolved = super().resolve_command(ctx, args)
        _interrupts.handle()
        return resolved


@click.group(
    cls=_Rooms,
    epilog="""\b
Examples:
  tfserving export build                             a new version of every model in models.yaml
  tfserving serve run                                serves them, on the best engine there is
  tfserving client predict --model dense --input rows.npy
  tfserving client verify models                     whether what is served is what was exported
  tfserving k8s rollout start digits --dry-run       what a rollout to the newest version would do

\b
`tfserving COMMAND --help` has more examples and the exit codes of each.""",
)
@click.version_option(__version__, message="tfserving %(version)s")
def tfserving() -> None:
    """TensorFlow Serving, proven: from a model in Python to requests in production."""


@tfserving.command(
    epilog="""\b
Examples:
  eval "$(tfserving completion bash)"
  tfserving completion fish > ~/.config/fish/completions/tfserving.fish"""
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script by which SHELL completes the commands of `tfserving`."""
    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(tfserving, {}, "tfserving", "_TFSERVING_COMPLETE").source())
