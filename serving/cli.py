"""The command `tfserving serve`: a group that runs a server itself when its first argument is no subcommand."""

from __future__ import annotations

from typing import Any

import click
from click.shell_completion import CompletionItem

from tfserving.foundation.command.group import Group
from tfserving.serving.commands.foreground import foreground
from tfserving.serving.commands.logs import logs
from tfserving.serving.commands.reload import reload
from tfserving.serving.commands.status import status
from tfserving.serving.commands.up import down, restart, up

_NAMES_A_COMMAND = f"{__name__}.names_a_command"


class _Serve(Group):
    """`serve [MODEL]...` or `serve COMMAND`. A model that is called like a command comes after `--`."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the options of `serve [MODEL]...`; with a subcommand the group has none."""
        # A subcommand gets the parameters of its group for its own usage line.
        own = ctx.command is self and not ctx.meta.get(_NAMES_A_COMMAND)
        return foreground.get_params(ctx) if own else []

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the name of a subcommand, or models and options."""
        # A shell that completes the first word needs the names of the subcommands.
        ctx.meta[_NAMES_A_COMMAND] = args[0] in self.commands if args else ctx.resilient_parsing
        if ctx.meta[_NAMES_A_COMMAND]:
            return super().parse_args(ctx, args)
        ctx.allow_interspersed_args = True
        return foreground.parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the subcommand or the server."""
        return super().invoke(ctx) if ctx.meta[_NAMES_A_COMMAND] else foreground.invoke(ctx)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write both uses."""
        formatter.write_usage(ctx.command_path, "[OPTIONS] [MODEL]...")
        formatter.write_usage(ctx.command_path, "COMMAND [ARGS]...", " " * len("Usage: "))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return the names of the subcommands and the options of `serve [MODEL]...`."""
        return [*super().shell_complete(ctx, incomplete), *foreground.shell_complete(ctx, incomplete)]


@click.group(
    cls=_Serve,
    epilog="""\b
Examples:
  tfserving serve                        all models, on the best engine here
  tfserving serve digits --port 9500     one model, gRPC on another port
  tfserving serve --host 0.0.0.0         let other machines in
  tfserving serve up                     all models, in a container that stays
  tfserving serve -- up                  a model that is called up""",
)
def main() -> None:
    """Run TensorFlow Serving over the models of models.yaml.

    Without COMMAND, the server runs until Ctrl-C or SIGTERM. Models without a
    version are exported first. If a model can't be loaded or a port is taken,
    nothing is left running.
    """


for _command in (up, down, restart, reload, status, logs):
    main.add_command(_command)
