"""The command `tfserving`: the tree of commands. A command is imported when it runs. See docs/command_line.md."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from dataclasses import dataclass
from typing import Any

import click
from click.shell_completion import get_completion_class

from tfserving import __version__
from tfserving.foundation.command.errors import FAILED, WRONG, CommandError, show
from tfserving.foundation.command.group import Group
from tfserving.foundation.extras import missing_extra
from tfserving.foundation.failures import sentence
from tfserving.interrupts import Interrupts
from tfserving.project import FoundProject

_interrupts = Interrupts()


@dataclass(frozen=True)
class Entry:
    """A command of the tree: where it is defined, the extra that it needs, and its first line of help."""

    where: str
    extra: str | None
    purpose: str

    @property
    def room(self) -> str:
        """The package that defines the command."""
        return self.where.split(".")[0]

    def load(self) -> click.Command:
        """Return the command. Raises ModuleNotFoundError when a module that it needs isn't installed."""
        module, _, name = self.where.partition(":")
        found = getattr(importlib.import_module(f"tfserving.{module}"), name)
        assert isinstance(found, click.Command)
        return found


SECTIONS = {
    "Start": {
        "init": Entry("init.command:init", None, "Create a project: models.yaml, a builder, a test."),
        "doctor": Entry("doctor.command:doctor", None, "Check what this machine has, and what `serve` will use."),
    },
    "Models": {
        "export": Entry("export.cli:main", "export", "Export models as versions with golden requests inside."),
    },
    "Servers": {
        "serve": Entry("serving.cli:main", "serving", "Run TensorFlow Serving over the models of models.yaml."),
        "labels": Entry("serving.commands.labels:labels", "serving", "Set the labels of versions, such as stable."),
        "config": Entry("serving.commands.config:config", "serving", "Print or check the server configuration."),
        "image": Entry("serving.commands.image:image", "serving", "Build an image that contains the models."),
        "compose": Entry("serving.commands.compose:compose", "serving", "Run a server with Prometheus and Grafana."),
    },
    "Requests": {
        "predict": Entry(
            "clients.commands.predict:predict", "clients", "Send a predict request, and print the outputs."
        ),
        "classify": Entry(
            "clients.commands.examples:classify", "clients", "Send tf.Examples; print their classes and scores."
        ),
        "regress": Entry("clients.commands.examples:regress", "clients", "Send tf.Examples; print the value of each."),
        "metadata": Entry("clients.commands.metadata:metadata", "clients", "Print the signatures of a served model."),
    },
    "Proof and load": {
        "verify": Entry(
            "clients.commands.verify:verify", "clients", "Compare the outputs of a server with golden requests."
        ),
        "bench": Entry(
            "clients.commands.bench:bench", "clients", "Put load on a server; print its throughput and latency."
        ),
        "tune": Entry("clients.commands.tune:tune", "clients", "Find the batching parameters of highest throughput."),
        "capture": Entry(
            "clients.commands.capture:capture", "clients", "Make golden and warm-up records from real requests."
        ),
    },
    "Rollouts": {
        "rollout": Entry("k8s.commands.rollout:rollout", "k8s", "Roll out a new version, and back if it is worse."),
        "k8s": Entry("k8s.cli:main", "k8s", "Run the models on Kubernetes."),
    },
}
ENTRIES = {name: entry for section in SECTIONS.values() for name, entry in section.items()}


class _Tree(Group):
    """The commands, imported when they are needed."""

    def make_context(self, *args: Any, **named: Any) -> click.Context:
        """Return the context of a command, or of a word that a shell completes, with its project."""
        # None means colours where the output is a terminal.
        colours = False if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" else None
        return super().make_context(*args, obj=FoundProject(), color=colours, **named)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return [*ENTRIES, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command called `cmd_name`."""
        entry = ENTRIES.get(cmd_name)
        if entry is None:
            return super().get_command(ctx, cmd_name)
        try:
            return entry.load()
        except ModuleNotFoundError as error:
            text = _missing(error, cmd_name)
            if text is None:
                raise
            if ctx.resilient_parsing:
                # A shell that completes words needs the name alone.
                return click.Command(cmd_name, help=entry.purpose)
            raise CommandError(text, WRONG) from None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that `args` name. It is imported now: from here on Ctrl-C is the command's."""
        resolved = super().resolve_command(ctx, args)
        _interrupts.handle()
        return resolved

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands by section, without importing them."""
        width = max(map(len, self.list_commands(ctx)))
        for title, section in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(f"{name:<{width}}", entry.purpose) for name, entry in section.items()])
        others = [(f"{name:<{width}}", self.commands[name].get_short_help_str(100)) for name in self.commands]
        with formatter.section("Shell"):
            formatter.write_dl(others)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; one whose extra is missing ends with the name of the extra."""
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            text = _missing(error, ctx.invoked_subcommand or "")
            if text is None:
                raise
            raise CommandError(text, WRONG) from None
        except KeyboardInterrupt:
            _interrupts.end()

    def main(self, args: Any = None, **named: Any) -> Any:  # type: ignore[override] # one for both of its overloads
        """Run the command and exit with its code; an error is a sentence, or JSON with --json."""
        words = list(sys.argv[1:] if args is None else args)
        named.pop("standalone_mode", None)
        try:
            code = super().main(words, standalone_mode=False, **named)
        except click.ClickException as error:
            show(error, as_json=_wants_json(words))
            sys.exit(error.exit_code)
        except click.Abort:
            _interrupts.end()
        except Exception as error:
            if _interrupts.came:
                _interrupts.end()
            text = sentence(error)
            if text is None:
                raise
            with contextlib.suppress(OSError):
                show(CommandError(text, FAILED), as_json=_wants_json(words))
            sys.exit(FAILED)
        sys.exit(code if isinstance(code, int) else 0)


def _missing(error: ModuleNotFoundError, command: str) -> str | None:
    """Return the sentence that names the extra that `command` needs; None when the error is about something else."""
    entry = ENTRIES.get(command)
    return missing_extra(error, entry.extra, f"tfserving {command}") if entry and entry.extra else None


def _wants_json(words: list[str]) -> bool:
    options = words[: words.index("--")] if "--" in words else words
    return "--json" in options


@click.group(
    cls=_Tree,
    epilog="""\b
Examples:
  tfserving init my-project                  a project that works
  tfserving serve                            export what is missing, and serve
  tfserving predict digits                   send a golden request
  tfserving verify                           compare all outputs
  tfserving rollout start digits --dry-run   what a rollout would do

\b
`tfserving COMMAND --help` has the options and more examples.
Exit codes: 0 success, 1 failed, 2 wrong usage, 3 not reachable, 130 Ctrl-C.""",
)
@click.version_option(__version__, message="tfserving %(version)s")
def tfserving() -> None:
    """Export, serve, verify and roll out TensorFlow models."""


@tfserving.command(
    epilog="""\b
Examples:
  eval "$(tfserving completion bash)"
  tfserving completion fish > ~/.config/fish/completions/tfserving.fish"""
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a completion script for SHELL."""
    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(tfserving, {}, "tfserving", "_TFSERVING_COMPLETE").source())
