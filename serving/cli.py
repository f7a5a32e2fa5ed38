"""The command `tfserving serve`: runs model servers over the fleet, and changes what they serve."""

from __future__ import annotations

import click

from tfserving.foundation.command.group import Group
from tfserving.serving.commands.change import reload
from tfserving.serving.commands.local import run
from tfserving.serving.commands.stay import down, logs, restart, status, up

_FOREGROUND = "run"


class _Serve(Group):
    """A group that runs a server when its first argument is no subcommand."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read `serve [MODEL]...` as the hidden command that runs in the foreground."""
        named = bool(args) and args[0] in self.commands and args[0] != _FOREGROUND
        helped = bool(args) and args[0] in ctx.help_option_names
        if not named and not helped and not ctx.resilient_parsing:
            args = [_FOREGROUND, *args]
        return super().parse_args(ctx, args)


@click.group(
    cls=_Serve,
    epilog="""\b
Examples:
  tfserving serve                     the whole fleet, on the best engine there is
  tfserving serve digits --port 9500  one model, gRPC on another port
  tfserving serve up                  the fleet in a container that stays
  tfserving serve status              the servers that run""",
)
def main() -> None:
    """Run TensorFlow Serving over the models of models.yaml."""


run.hidden = True
main.add_command(run, _FOREGROUND)
for _command in (up, down, status, logs, restart, reload):
    main.add_command(_command)
