"""The command group `tfserving export`: makes versions of models, and manages them."""

from __future__ import annotations

import click

from tfserving.export.commands.build import build
from tfserving.export.commands.judge import check, lint
from tfserving.export.commands.provenance import provenance
from tfserving.export.commands.prune import prune
from tfserving.export.commands.publish import publish
from tfserving.export.commands.published import fetch
from tfserving.export.commands.sign import sign
from tfserving.export.commands.versions import diff, inspect, list_versions
from tfserving.foundation.command.group import Group


@click.group(
    cls=Group,
    epilog="""\b
Examples:
  tfserving export build                         every model of models.yaml
  tfserving export build digits
  tfserving export build spam=train.spam:build   not in models.yaml
  tfserving export lint some/saved_model         any SavedModel
  tfserving export check digits
  tfserving export inspect digits/3
  tfserving export diff digits/2 digits/3
  tfserving export publish digits/3 s3://bucket/models
  tfserving export list s3://bucket/models       what is published
  tfserving export fetch s3://bucket/models digits/3
  tfserving export prune --keep 3""",
)
def main() -> None:
    """Export models as versions with golden requests inside.

    A version is a SavedModel with golden requests: example requests and the outputs that the model returned for them in
    Python. `export build` writes the version to a hidden folder and loads it in a fresh process that has none of the
    model's code. The version is published only if it returns the same outputs there.
    """


for command in (build, list_versions, inspect, check, sign, provenance, lint, diff, prune, publish, fetch):
    main.add_command(command)
