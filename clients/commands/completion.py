"""`completion`: what makes a shell complete the commands."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

PROGRAM = "serving-client"


@click.command(
    epilog=f"""\b
Examples:
  eval "$({PROGRAM} completion bash)"
  {PROGRAM} completion fish > ~/.config/fish/completions/{PROGRAM}.fish"""
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Prints the script by which SHELL completes the commands of `serving-client`, which is `python -m clients`."""
    found = get_completion_class(shell)
    assert found is not None
    root = context.find_root().command
    click.echo(found(root, {}, PROGRAM, f"_{PROGRAM.replace('-', '_').upper()}_COMPLETE").source())
