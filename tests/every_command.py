"""Runs every command of `tfserving` in this environment, and prints how each ended, as JSON.

It is run where extras are missing, so it imports nothing of the tests.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import click
from click.testing import CliRunner

from tfserving.cli import tfserving

# It writes files.
LEFT_OUT = ["init"]


def commands(command: click.Command, words: list[str]) -> Iterator[tuple[list[str], click.Command]]:
    if not isinstance(command, click.Group):
        yield words, command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        if [*words, name] != LEFT_OUT and (inner := command.get_command(context, name)) is not None:
            yield from commands(inner, [*words, name])


def arguments(command: click.Command) -> list[str]:
    """What the command requires, so that it gets to its work."""
    found = []
    for parameter in command.params:
        choices = getattr(parameter.type, "choices", None)
        value = str(choices[0]) if choices else "1"
        if isinstance(parameter, click.Argument) and parameter.required:
            found += [value] * max(1, parameter.nargs)
        elif parameter.required:
            found += [parameter.opts[0], value]
    return found


def run(words: list[str]) -> dict[str, Any]:
    done = CliRunner().invoke(tfserving, words)
    raised = done.exception is not None and not isinstance(done.exception, SystemExit)
    return {
        "command": words,
        "exit_code": done.exit_code,
        "stderr": done.stderr,
        "raised": repr(done.exception) if raised else None,
    }


if __name__ == "__main__":
    results = []
    for found, command in commands(tfserving, []):
        results += [run([*found, "--help"]), run([*found, *arguments(command)])]
    print(json.dumps(results))
