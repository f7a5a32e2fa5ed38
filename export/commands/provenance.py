"""`tfserving export provenance`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from tfserving.export.commands.selection import checked_input, find_version, fleet_of, folder_option
from tfserving.foundation.command.errors import WRONG, CommandError
from tfserving.foundation.command.options import complete_models, fleet_option, writable


@click.command(
    epilog="""\b
Examples:
  tfserving export provenance digits/3
  tfserving export provenance digits/3 --output digits-3.intoto.json
  tfserving export provenance digits/3 --sign sign.key --output digits-3.dsse.json"""
)
@click.argument("version", metavar="MODEL[/VERSION]|FOLDER", shell_complete=complete_models)
@fleet_option
@folder_option
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=writable(),
    metavar="FILE",
    help="Write it to this file.  [default: stdout]",
)
@click.option(
    "--builder-id",
    metavar="URI",
    help="The platform that ran the export, such as the URL of a CI workflow.  [default: this toolkit, anywhere]",
)
@click.option(
    "--sign",
    metavar="KEY",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Sign it with the private key in this PEM file. TFSERVING_SIGN_PASSWORD has the key's password.",
)
def provenance(
    version: str,
    fleet: Path,
    folder: Path | None,
    output: Path | None,
    builder_id: str | None,
    sign: Path | None,
) -> None:
    """Print the provenance of a version for other tools.

    It is an in-toto statement with a SLSA provenance predicate, as JSON. Its subjects are the files of the version,
    which are checked first. With --sign it is a DSSE envelope with that statement. It contains what the export
    recorded: a signature shows who vouches for it.
    """
    from tfserving.foundation.extras import missing_for_signatures
    from tfserving.foundation.files import written_whole

    if missing := missing_for_signatures("export provenance"):
        raise CommandError(missing, WRONG)
    from tfserving.export.private_keys import read_private_key
    from tfserving.export.slsa import BUILDER, is_uri, signed, statement

    if builder_id is not None and not is_uri(builder_id):
        raise click.UsageError(f"--builder-id: got {builder_id!r}, expected a URI such as https://ci.example/workflow")
    with checked_input():
        found = fleet_of(fleet)
        models = folder or (found.folder if found else Path("models"))
        key = read_private_key(sign, models)[0] if sign else None
        content = statement(find_version(version, fleet, folder), builder_id or BUILDER)
    text = json.dumps(content, indent=2, sort_keys=True)
    if key is not None:
        text = json.dumps(signed(text.encode(), key))
    if output is None:
        click.echo(text)
        return
    try:
        with written_whole(output) as file:
            file.write(f"{text}\n".encode())
    except OSError as error:
        raise CommandError(f"{output} can't be written: {error.strerror}") from None
