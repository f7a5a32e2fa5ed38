"""`tfserving export lint` and `check`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from tfserving.export.commands.selection import (
    allow_option,
    breaking_option,
    check_rules,
    checked_input,
    fleet_of,
    folder_option,
    short,
    versions_of,
)
from tfserving.export.commands.signers import trust_of, trust_option
from tfserving.foundation.command.errors import FAILED, CommandError
from tfserving.foundation.command.options import complete_models, fleet_option, json_option

versions_argument = click.argument(
    "versions", nargs=-1, metavar="[MODEL[/VERSION]|FOLDER]...", shell_complete=complete_models
)


@click.command(
    epilog="""\b
Examples:
  tfserving export lint                      the newest version of each model
  tfserving export lint digits
  tfserving export lint some/saved_model     any SavedModel
  tfserving export lint digits/3 --breaking  accept breaking changes

\b
Exit codes: 0 no findings, or notes only; 1 a rule is broken."""
)
@versions_argument
@fleet_option
@folder_option
@breaking_option
@allow_option
@json_option
def lint(
    versions: tuple[str, ...], fleet: Path, folder: Path | None, breaking: bool, allow: tuple[str, ...], as_json: bool
) -> None:
    """Find what works in Python and fails when it is served.

    docs/lint.md explains each rule and how to fix what breaks it. `export build` applies the same rules.
    """
    from tfserving.export.lint import lint_version

    results: list[dict[str, Any]] = []
    with checked_input():
        check_rules(allow)
        for path in versions_of(versions, fleet, folder):
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
                plural = "" if len(found) == 1 else "s"
                click.echo(f"{short(path)}: {len(found) or 'no'} finding{plural}")
                for finding in found:
                    click.echo(f"  {finding}")
                for finding in notes:
                    click.echo(f"  note: {finding}")
    if as_json:
        click.echo(json.dumps({"versions": results}, indent=2))
    if any(result["findings"] for result in results):
        sys.exit(FAILED)


@click.command(
    epilog="""\b
Examples:
  tfserving export check                   the newest version of each model
  tfserving export check digits/3
  tfserving export check models/digits/3   the same by its folder
  tfserving export check --trust sign.pub  signed by this key

\b
Exit codes: 0 every version is intact; 1 one is not."""
)
@versions_argument
@fleet_option
@folder_option
@trust_option
@json_option
def check(versions: tuple[str, ...], fleet: Path, folder: Path | None, trust: tuple[Path, ...], as_json: bool) -> None:
    """Check that versions are intact, to the last bit.

    Every file is compared with its SHA-256 in the manifest, and the SavedModel's signatures with the manifest. Then a
    fresh process runs the golden requests on this machine's GPU, without TF32, or on its processor. The output names
    the set of tolerances in the manifest that was used.

    With --trust, or `trust` in models.yaml, somebody who is trusted must have signed all files, as this model and
    number. Otherwise nothing is run.
    """
    from tfserving.export.check import check_golden, check_signed
    from tfserving.export.errors import ExportError
    from tfserving.foundation.command.progress import Progress

    results: list[dict[str, Any]] = []
    with checked_input():
        paths = versions_of(versions, fleet, folder)
        trusted = trust_of(trust, fleet_of(fleet))
    for path in paths:
        try:
            with Progress() as progress:
                progress.update(f"{short(path)}: comparing the files with the manifest")
                manifest, signer = check_signed(path, trusted)
                progress.update(f"{short(path)}: running the golden requests in a fresh process")
                proof = check_golden(path, manifest)
        except ExportError as error:
            results.append({"path": str(path), "intact": False, "error": str(error)})
            if not as_json:
                click.echo(f"Error: {short(path)}: {error}", err=True)
        else:
            results.append(
                {
                    "path": str(path),
                    "intact": True,
                    "golden_requests": proof.requests,
                    "device": proof.device,
                    "signed_by": signer,
                }
            )
            if not as_json:
                click.echo(
                    f"{short(path)}: {len(manifest.files)} files intact, {proof.requests} golden requests {proof} "
                    f"(tolerances: {proof.device}){f', signed by {signer}' if signer else ''}"
                )
    if as_json:
        click.echo(json.dumps({"versions": results}, indent=2))
    if damaged := [result for result in results if not result["intact"]]:
        if as_json:
            raise CommandError("\n".join(f"{result['path']}: {result['error']}" for result in damaged))
        sys.exit(FAILED)


def _allowed(path: Path, file: Path, folder: Path | None) -> tuple[str, ...]:
    """Return the rules that models.yaml lets the version in `path` break."""
    from tfserving.serving.models_yaml.fleet import read_fleet

    if not file.exists():
        return ()
    fleet = read_fleet(file)
    model = path.absolute().parent
    name = model.name
    return (
        fleet.models[name].allow if name in fleet.models and model == (folder or fleet.folder).absolute() / name else ()
    )
