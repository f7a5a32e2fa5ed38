"""Groups of commands."""

from __future__ import annotations

from typing import Any

import click

from tfserving.foundation.command.suggest import did_you_mean

# No short help is cut: what doesn't fit is wrapped.
_WHOLE_SENTENCE = 1000
SETTINGS: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class Group(click.Group):
    """A group that lists the first sentence of each command's help whole."""

    def __init__(self, *args: Any, **named: Any) -> None:
        named["context_settings"] = {**SETTINGS, **(named.get("context_settings") or {})}
        super().__init__(*args, **named)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands, in the order in which they were added."""
        found = ((name, self.get_command(ctx, name)) for name in self.list_commands(ctx))
        shown = [(name, command) for name, command in found if command is not None and not command.hidden]
        rows = [(name, command.get_short_help_str(_WHOLE_SENTENCE)) for name, command in shown]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that `args` name. Raises UsageError with a suggestion when there is none."""
        name = args[0]
        if name not in self.list_commands(ctx) and not name.startswith("-") and not ctx.resilient_parsing:
            raise click.UsageError(f"There is no command {name!r}.{did_you_mean(name, self.list_commands(ctx))}", ctx)
        return super().resolve_command(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the names of the commands, in the order in which they were added."""
        return list(self.commands)
