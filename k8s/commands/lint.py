"""`k8s lint`."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tfserving.foundation.command.errors import FAILED, WRONG, CommandError
from tfserving.foundation.command.options import fleet_option, json_option, models_argument
from tfserving.foundation.command.suggest import did_you_mean
from tfserving.k8s.commands.failures import failing
from tfserving.k8s.commands.overlays import overlay_option, read_fleet_with
from tfserving.k8s.commands.place import context_option

if TYPE_CHECKING:
    from tfserving.k8s.kubectl import Object


@click.command(
    epilog="""\b
Examples:
  tfserving k8s lint
  tfserving k8s lint --cluster           also what the API server refuses
  helm template chart | tfserving k8s lint --file -

\b
Exit codes: 0 no findings; 1 findings; 2 wrong usage, models.yaml or file; 3
the cluster can't be reached."""
)
@models_argument
@fleet_option
@overlay_option
@click.option(
    "--file",
    "files",
    multiple=True,
    type=click.Path(path_type=Path, allow_dash=True),
    metavar="FILE",
    help="Check the manifests in a file, not those of models.yaml; `-` is stdin. Repeat it for several.",
)
@click.option("--allow", multiple=True, metavar="RULE", help="Accept what breaks a rule. Repeat it for several.")
@click.option("--cluster", is_flag=True, help="Also let the cluster check the manifests; nothing changes there.")
@context_option
@json_option
def lint(
    names: tuple[str, ...],
    fleet: Path,
    overlays: tuple[str, ...],
    files: tuple[Path, ...],
    allow: tuple[str, ...],
    cluster: bool,
    context: str | None,
    as_json: bool,
) -> None:
    """Check the manifests by the rules of platform teams.

    They include Pod Security at its level `restricted`.
    docs/kubernetes_lint.md explains each rule and how to fix what breaks it.
    """
    from tfserving.k8s import rendering
    from tfserving.k8s.kubectl import Kubectl
    from tfserving.k8s.lint.admission import admission
    from tfserving.k8s.lint.manifests import Manifests
    from tfserving.k8s.lint.rules import lint as lint_manifests

    _check_usage(names, overlays, files, allow, context, cluster=cluster)
    with failing(WRONG):
        if files:
            kubectl = Kubectl(context=context)
            objects = [one for file in files for one in _read(file)]
        else:
            read, names, kubectl = read_fleet_with(fleet, names, context, overlays)
            objects = rendering.objects(rendering.render(read, names, kubectl))
        try:
            found = lint_manifests(objects, allow)
        except (AttributeError, KeyError, TypeError):
            if not files:
                raise
            # The rules rely on the form of each kind, which the API server checks.
            raise CommandError(
                f"{', '.join(map(str, files))}: an object does not have the form of its kind. "
                "`kubectl apply --dry-run=server` prints the field.",
                WRONG,
            ) from None
        if cluster:
            found += [one for one in admission(Manifests(tuple(objects)), kubectl) if one.rule not in allow]
    if as_json:
        content = {"objects": len(objects), "findings": [dataclasses.asdict(one) for one in found]}
        click.echo(json.dumps(content, indent=2))
    else:
        plural = "" if len(found) == 1 else "s"
        click.echo(f"{len(objects)} objects: {len(found) or 'no'} finding{plural}")
        for one in found:
            click.echo(f"  {one}")
    if found:
        sys.exit(FAILED)


def _check_usage(
    names: tuple[str, ...],
    overlays: tuple[str, ...],
    files: tuple[Path, ...],
    allow: tuple[str, ...],
    context: str | None,
    *,
    cluster: bool,
) -> None:
    from tfserving.k8s.lint.findings import RULES

    if files and (names or overlays):
        raise click.UsageError("--file excludes MODEL and --overlay, which are of models.yaml.")
    if context is not None and not cluster:
        raise click.UsageError("--context needs --cluster.")
    for name in allow:
        if name not in RULES:
            raise click.UsageError(
                f"--allow {name}: there is no such rule.{did_you_mean(name, RULES)} The rules are {', '.join(RULES)}."
            )


def _read(path: Path) -> list[Object]:
    from tfserving.foundation.files import read_bounded
    from tfserving.k8s.lint.reading import LARGEST_BYTES, ManifestError, read

    try:
        if str(path) == "-":
            data = sys.stdin.buffer.read(LARGEST_BYTES + 1)
            if len(data) > LARGEST_BYTES:
                raise ValueError(f"it has more than {LARGEST_BYTES} bytes")
        else:
            data = read_bounded(path, LARGEST_BYTES)
        return read(data.decode(), str(path))
    except ManifestError as error:
        raise CommandError(str(error), WRONG) from None
    except UnicodeDecodeError:
        raise CommandError(f"{path} is not UTF-8", WRONG) from None
    except ValueError as error:
        raise CommandError(f"{path}: {error}", WRONG) from None
