"""`tfserving export lint` and `check`: whether versions on disk are as they should be."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from tfserving.export.commands.selection import check_rules, ends_cleanly, find_version, folder_option, select, short
from tfserving.foundation.command.options import fleet_option, json_option


@click.command(
    epilog="""\b
Examples:
  tfserving export lint                            the newest version of every model in models.yaml
  tfserving export lint digits                     of one model
  tfserving export lint some/saved_model           any SavedModel, whatever wrote it
  tfserving export lint digits/3 --breaking        signatures may differ from version 2's

\b
Exit codes: 0 nothing is wrong, or notes only; 1 a rule is broken; 2 wrong usage, or a folder that is no SavedModel."""
)
@click.argument("versions", nargs=-1, metavar="[FOLDER | NAME[/VERSION]]...")
@fleet_option
@folder_option
@click.option("--breaking", is_flag=True, help="Signatures may break clients of the version before.")
@click.option("--allow", multiple=True, metavar="RULE", help="A rule that may be broken; repeatable.")
@json_option
def lint(
    versions: tuple[str, ...], fleet: Path, folder: Path | None, breaking: bool, allow: tuple[str, ...], as_json: bool
) -> None:
    """Looks for what breaks between training and serving.

    docs/lint.md says what each rule is about and how to mend what breaks it. A build does the same before it publishes
    a version.
    """
    from tfserving.export.lint import lint_version

    results: list[dict[str, Any]] = []
    with ends_cleanly():
        check_rules(allow)
        for path in _paths(versions, fleet, folder):
            allowed = {*allow, *_allowed(path, fleet, folder), *(("breaking-change",) if breaking else ())}
            every = [finding for finding in lint_version(path) if finding.rule not in allowed]
            found = [finding for finding in every if not finding.note]
            notes = [finding for finding in every if finding.note]
            results.append(
                {
                    "path": str(path),
                    "findings": [
                        {
                            "rule": finding.rule,
                            "where": finding.where,
                            "problem": finding.problem,
                            "remedy": finding.remedy,
                        }
                        for finding in found
                    ],
                    "notes": [str(finding) for finding in notes],
                }
            )
            if not as_json:
                click.echo(f"{short(path)}: " + (f"{len(found)} findings" if found else "nothing is wrong"))
                for finding in found:
                    click.echo(f"  {finding}")
                for finding in notes:
                    click.echo(f"  note: {finding}")
    if as_json:
        click.echo(json.dumps({"versions": results}, indent=2))
    if any(result["findings"] for result in results):
        sys.exit(1)


@click.command(
    epilog="""\b
Examples:
  tfserving export check models/digits/3      one version
  tfserving export check digits/3             the same
  tfserving export check                      the newest version of every model in models.yaml

\b
Exit codes: 0 every version is whole; 1 one is not; 2 wrong usage."""
)
@click.argument("versions", nargs=-1, metavar="[FOLDER | NAME[/VERSION]]...")
@fleet_option
@folder_option
@json_option
def check(versions: tuple[str, ...], fleet: Path, folder: Path | None, as_json: bool) -> None:
    """Verifies that versions are what was exported, to the last bit.

    Every file is compared with its SHA-256 in the manifest, the manifest with its own, the signatures in the SavedModel
    with those in the manifest; then a fresh process answers the golden requests.
    """
    from tfserving.export.check import check_files, check_golden
    from tfserving.export.console import Progress
    from tfserving.export.errors import ExportError

    results: list[dict[str, Any]] = []
    progress = Progress()
    with ends_cleanly():
        for path in _paths(versions, fleet, folder):
            try:
                manifest = check_files(path)
                progress.say(f"{short(path)}: asking a fresh process the golden requests")
                proof = check_golden(path, manifest)
            except ExportError as error:
                results.append({"path": str(path), "whole": False, "error": str(error)})
                click.echo(f"Error: {short(path)}: {error}", err=True)
            else:
                results.append({"path": str(path), "whole": True, "golden_requests": proof.requests})
                click.echo(
                    f"{short(path)}: {len(manifest.files)} files as exported, {proof.requests} golden requests "
                    f"answered {proof}",
                    err=as_json,
                )
    if as_json:
        click.echo(json.dumps({"versions": results}, indent=2))
    if not all(result["whole"] for result in results):
        sys.exit(1)


def _paths(versions: tuple[str, ...], fleet: Path, folder: Path | None) -> list[Path]:
    """The folders that `versions` names; of every model of the fleet that has versions when it names none."""
    if versions:
        return [find_version(text, fleet, folder) for text in versions]
    selected = select((), fleet, folder)
    paths = [
        selected.model_folder(name) / str(there[-1]) for name in selected.models if (there := selected.versions(name))
    ]
    if not paths:
        click.echo("There are no versions yet.", err=True)
    return paths


def _allowed(path: Path, file: Path, folder: Path | None) -> tuple[str, ...]:
    """The rules that the fleet lets the version in `path` break."""
    from tfserving.serving.models_yaml.fleet import read_fleet

    if not file.exists():
        return ()
    fleet = read_fleet(file)
    model = path.absolute().parent
    name = model.name
    return (
        fleet.models[name].allow if name in fleet.models and model == (folder or fleet.folder).absolute() / name else ()
    )
