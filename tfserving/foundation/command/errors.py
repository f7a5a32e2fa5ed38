"""How a command fails: one sentence, and an exit code. docs/command_line.md lists the codes."""

from __future__ import annotations

import json

import click

FAILED, WRONG, UNREACHABLE = 1, 2, 3


class CommandError(click.ClickException):
    """Ends a command. `code` is FAILED, WRONG (nothing was started or changed) or UNREACHABLE."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(message)
        self.exit_code = code  # type: ignore[misc] # click's own subclasses set it on the class


def show(error: click.ClickException, *, as_json: bool) -> None:
    """Print an error to stderr: as a sentence, or with --json as one line of JSON."""
    if not as_json:
        error.show()
        return
    content = {"message": error.format_message(), "exit_code": error.exit_code}
    click.echo(json.dumps({"error": content}), err=True)
