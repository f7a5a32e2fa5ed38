"""Writes what is taken from the code: the commands' help, the JSON Schemas of the two file formats, files of manifests.

`python docs/generate.py` writes the files; with `--check` it only says which of them are not what the code says.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import click

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS.parent))

from tfserving.cli import tfserving  # noqa: E402
from tfserving.export.manifest import Manifest  # noqa: E402
from tfserving.k8s.configuration import files as cluster_files  # noqa: E402
from tfserving.serving.compose.files import DASHBOARD  # noqa: E402
from tfserving.serving.embedded.command_line import command as embedded  # noqa: E402
from tfserving.serving.models_yaml.fleet import Fleet, read_fleet  # noqa: E402

COMMANDS = {
    "tfserving": tfserving,
    "python -m tfserving.serving.embedded": embedded(lambda flags: 0),  # noqa: ARG005 - only its help is wanted
}
INTRODUCTION = """\
# The commands

What each command prints for `--help`. This page is made by `make generated`; the tests compare it with the code.
"""


def _sections(name: str, command: click.Command, parent: click.Context | None = None) -> Iterator[str]:
    context = click.Context(command, info_name=name, parent=parent, max_content_width=110, terminal_width=110)
    yield f"## `{context.command_path}`\n\n```text\n{command.get_help(context).rstrip()}\n```\n"
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            if found is not None:
                yield from _sections(child, found, context)


def generated() -> dict[Path, str]:
    """The text of every generated file."""
    commands = [section for name, command in COMMANDS.items() for section in _sections(name, command)]
    fleet = read_fleet(DOCS.parent / "models.yaml")
    for name in fleet.models:
        fleet = fleet.with_labels(name, {"stable": 1})
    base = DOCS.parent / "k8s/base/config"
    return {
        DOCS.parent / "k8s/components/monitoring/dashboard.json": DASHBOARD.read_text(),
        **{base / name: text for name, text in cluster_files(fleet, tuple(fleet.models)).items()},
        DOCS / "commands.md": "\n".join([INTRODUCTION, *commands]),
        DOCS / "models.schema.json": json.dumps(Fleet.model_json_schema(), indent=2) + "\n",
        DOCS / "manifest.schema.json": json.dumps(Manifest.model_json_schema(), indent=2) + "\n",
    }


if __name__ == "__main__":
    stale = [path for path, text in generated().items() if not path.is_file() or path.read_text() != text]
    if "--check" in sys.argv:
        sys.exit(f"not what the code says, run `make generated`: {', '.join(map(str, stale))}" if stale else 0)
    for path, text in generated().items():
        path.write_text(text)
        print(path)
