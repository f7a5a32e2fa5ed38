"""`tfserving export sign`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tfserving.export.commands.judge import versions_argument
from tfserving.export.commands.selection import checked_input, fleet_of, folder_option, short, versions_of
from tfserving.export.commands.signers import key_option, signer_of, trust_of, untrusted
from tfserving.foundation.command.errors import FAILED, CommandError
from tfserving.foundation.command.options import fleet_option, json_option

if TYPE_CHECKING:
    from tfserving.export.signing import Signer


@click.command(
    epilog="""\b
Examples:
  tfserving export sign                        the newest of each model
  tfserving export sign digits/3 --key sign.key
  tfserving export sign digits --key sigstore  without a key

\b
Exit codes: 0 every version is signed; 1 one is not."""
)
@versions_argument
@fleet_option
@folder_option
@key_option
@json_option
def sign(versions: tuple[str, ...], fleet: Path, folder: Path | None, key: str | None, as_json: bool) -> None:
    """Sign versions that exist.

    Each is checked first, as `export check` does without running it. Its files stay as they are. The new signature
    replaces the one that is there, in one step: use it when a key is replaced. It vouches for the files as they are
    now, so sign only what nobody else could have changed.
    """
    results: list[dict[str, Any]] = []
    with checked_input():
        found = fleet_of(fleet)
        paths = versions_of(versions, fleet, folder)
        trust = trust_of((), found)
        signer = signer_of(key, found, folder or (found.folder if found else Path("models")))
        if signer is None:
            raise click.UsageError("nobody signs. Name a private key: --key KEY, or `sign: {key: KEY}` in models.yaml")
        if warning := untrusted(signer, trust):
            click.echo(f"Warning: {warning}", err=True)
    for path in paths:
        result = _sign(path, signer)
        results.append(result)
        if as_json:
            continue
        if "error" in result:
            click.echo(f"Error: {short(path)}: {result['error']}", err=True)
        else:
            before = f", instead of {result['instead_of']}" if result["instead_of"] else ""
            click.echo(f"{short(path)}: signed by {result['signed_by']}{before}")
    if as_json:
        click.echo(json.dumps({"versions": results}, indent=2))
    if failed := [f"{result['path']}: {result['error']}" for result in results if "error" in result]:
        if as_json:
            raise CommandError("\n".join(failed))
        sys.exit(FAILED)


def _sign(path: Path, signer: Signer) -> dict[str, Any]:
    """Sign the version in `path`, and return what --json prints of it."""
    from tfserving.export.check import check_files
    from tfserving.export.errors import ExportError
    from tfserving.export.staging import Staging, check_writable
    from tfserving.foundation.command.progress import Progress
    from tfserving.foundation.golden import is_version
    from tfserving.foundation.trust import TrustError
    from tfserving.foundation.trust.bundle import read_bundle

    place = path.absolute()
    try:
        with Progress() as progress:
            check_writable(place.parent)
            progress.update(f"{short(path)}: comparing the files with the manifest")
            manifest = check_files(path)
            if is_version(place.name) and (place.parent.name, int(place.name)) != (manifest.model, manifest.version):
                raise ExportError(f"it is version {manifest.version} of {manifest.model}, and not signed as another")
            try:
                before = read_bundle(path)
                claimed = before.claimed if before else None
            except TrustError:
                claimed = "a signature that can't be read"
            progress.update(f"{short(path)}: signing")
            with Staging(place.parent) as staging:
                signer.sign(path, staging.scratch, manifest.digest)
    except ExportError as error:
        return {"path": str(path), "error": str(error)}
    except OSError as error:
        return {"path": str(path), "error": f"{error.filename or path}: {error.strerror}"}
    return {"path": str(path), "signed_by": signer.who, "instead_of": claimed}
