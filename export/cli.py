"""The command `tfserving export`: makes versions of models, each with its proof inside, and looks after them."""

from __future__ import annotations

import click

from tfserving.export.commands.build import build
from tfserving.export.commands.judge import check, lint
from tfserving.export.commands.publish import publish
from tfserving.export.commands.versions import diff, inspect, list_versions, prune
from tfserving.foundation.command.group import Group


@click.group(
    cls=Group,
    epilog="""\b
Examples:
  tfserving export build                             a new version of every model in models.yaml
  tfserving export build digits                      of one model
  tfserving export build spam=train.spam:build       a model that is not in models.yaml
  tfserving export lint some/saved_model             what would break when any SavedModel is served
  tfserving export check digits                      whether the newest version is whole, to the last bit
  tfserving export inspect digits/3                  its signatures, sizes, golden requests
  tfserving export diff digits/2 digits/3            what is different
  tfserving export publish digits 3 s3://bucket/models
  tfserving export prune --keep 3                    removes old versions

\b
Exit codes: 0 done; 1 an export failed, or something is wrong with a version; 2 wrong usage, a wrong models.yaml or a
builder that can't be found; 130 stopped by Ctrl-C, 143 by SIGTERM.""",
)
def main() -> None:
    """Exports TensorFlow models as versions that carry their own proof.

    A version is a SavedModel with golden requests and the answers that the model gave in process. It is written out of
    a server's sight, loaded in a fresh process that has none of the model's code, and put into its place only when
    the answers are the same there.
    """


for command in (build, lint, check, list_versions, inspect, diff, publish, prune):
    main.add_command(command)
