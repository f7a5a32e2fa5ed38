"""The command `tfserving`: its tree, its help, its errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import tfserving
from tfserving.cli import ENTRIES, SECTIONS
from tfserving.cli import tfserving as command

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/command_line.md").read_text()


def run(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    """`tfserving WORDS`, as it is installed."""
    program = Path(sys.executable).with_name("tfserving")
    return subprocess.run(
        [str(program), *words], cwd=ROOT, env={**os.environ, **env}, capture_output=True, text=True, check=False
    )


def tree(found: click.Command, parent: click.Context | None = None, name: str = "tfserving") -> Iterator[click.Context]:
    """The contexts of a command and all its subcommands, for a terminal of 80 columns."""
    context = click.Context(found, parent=parent, info_name=name, terminal_width=80, **found.context_settings)
    yield context
    if isinstance(found, click.Group):
        for child in found.list_commands(context):
            inner = found.get_command(context, child)
            assert inner is not None
            if not inner.hidden:
                yield from tree(inner, context, child)


TREE = {context.command_path: context for context in tree(command)}


def test_it_has_a_version() -> None:
    assert run("--version").stdout == f"tfserving {tfserving.__version__}\n"


def test_python_finds_the_same_command() -> None:
    done = subprocess.run([sys.executable, "-m", "tfserving", "-h"], cwd=ROOT, capture_output=True, check=True)
    assert done.stdout.decode() == run("--help").stdout


def test_help_lists_the_commands_by_section_without_importing_them() -> None:
    code = (
        "import sys; from tfserving.cli import tfserving as command\ntry: command(['--help'])\nexcept SystemExit: pass"
    )
    code += "\nprint(*sys.modules)"
    shown, _, modules = (
        subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True).strip().rpartition("\n")
    )
    for title, section in SECTIONS.items():
        assert f"\n{title}:\n" in shown
        for name, entry in section.items():
            assert f"  {name} " in shown
            assert entry.purpose in shown
            assert f"tfserving.{entry.room}" not in modules.split()


@pytest.mark.parametrize("path", TREE)
def test_help_fits_a_terminal_of_80_columns_and_shows_examples(path: str) -> None:
    context = TREE[path]
    shown = context.command.get_help(context)
    assert [line for line in shown.splitlines() if len(line) > 80] == []
    first = context.command.get_short_help_str(1000)
    assert len(first) <= 60
    assert first[0].isupper()
    assert "Example" in shown


@pytest.mark.parametrize("path", [path for path in TREE if path.count(" ") == 1])
def test_the_page_of_the_command_line_names_every_command(path: str) -> None:
    context = TREE[path]
    assert f"`{path} " in PAGE or f"`{path}`" in PAGE
    if isinstance(context.command, click.Group):
        (row,) = (line for line in PAGE.splitlines() if line.startswith(f"| `{path} "))
        for name in context.command.list_commands(context):
            if not context.command.commands[name].hidden:
                assert f"`{name}`" in row or f"`{path} {name} " in row, name


def test_the_first_line_of_a_command_is_that_in_the_list() -> None:
    for name, entry in ENTRIES.items():
        assert TREE[f"tfserving {name}"].command.get_short_help_str(1000).rstrip(".") == entry.purpose.rstrip(".")


@pytest.mark.parametrize(
    ("words", "suggested"),
    [
        (["exprot"], "There is no command 'exprot'. Did you mean 'export'?"),
        (["export", "biuld"], "There is no command 'biuld'. Did you mean 'build'?"),
        (["predict", "digits", "--inputs", "1"], "Did you mean one of: '--input', '--output'?"),
    ],
)
def test_a_mistyped_word_gets_a_suggestion(words: list[str], suggested: str) -> None:
    result = CliRunner().invoke(command, words)
    assert result.exit_code == 2
    assert suggested in result.stderr


def test_with_json_an_error_is_one_line_of_json() -> None:
    result = CliRunner().invoke(command, ["export", "inspect", "no/such/folder", "--json"])
    assert result.exit_code == 2
    assert result.stdout == ""
    error = json.loads(result.stderr)["error"]
    assert error["exit_code"] == 2
    assert "no/such/folder" in error["message"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_the_commands(shell: str) -> None:
    assert "_TFSERVING_COMPLETE" in CliRunner().invoke(command, ["completion", shell]).output
    words = {"COMP_WORDS": "tfserving predict --sig", "COMP_CWORD": "2"}
    if shell == "fish":
        words = {"COMP_WORDS": "tfserving predict", "COMP_CWORD": "--sig"}
    assert "--signature" in run(_TFSERVING_COMPLETE=f"{shell}_complete", **words).stdout


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("", [*ENTRIES, "completion"]),
        ("rollout sta", ["start", "status"]),
        ("serve st", ["status"]),
        ("export diff d", ["digits", "dense"]),
    ],
)
def test_shells_complete_the_whole_tree(typed: str, completed: list[str]) -> None:
    words = {"COMP_WORDS": f"tfserving {typed}", "COMP_CWORD": str(1 + typed.count(" "))}
    shown = run(_TFSERVING_COMPLETE="bash_complete", **words).stdout
    assert [line.partition(",")[2] for line in shown.splitlines()] == completed


@pytest.mark.parametrize("words", [["predict", "digits"], ["verify", "digits"]])
def test_a_model_named_outside_of_any_project_is_an_error_that_recommends_one(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TFSERVING_FLEET", raising=False)
    done = CliRunner().invoke(command, words)
    assert done.exit_code == 2
    assert f"there is no models.yaml in {tmp_path} or the folders above it. `" in done.stderr


def test_a_wrong_value_of_an_environment_variable_names_the_variable() -> None:
    done = run("metadata", "digits", TFSERVING_SERVER="127.0.0.1:1")
    assert done.returncode == 2
    assert "(env var: 'TFSERVING_SERVER'): '127.0.0.1:1' is not a URL" in done.stderr
