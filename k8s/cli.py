"""The command `tfserving k8s`."""

from __future__ import annotations

import click

from tfserving.foundation.command.group import Group
from tfserving.k8s.commands.chart import chart
from tfserving.k8s.commands.cluster import apply, delete, diff, render, status
from tfserving.k8s.commands.lint import lint


@click.group(
    cls=Group,
    epilog="""\b
Examples:
  tfserving k8s diff      what would change on the cluster
  tfserving k8s apply     run the models there
  tfserving k8s status    the pods, and what they serve

\b
`tfserving rollout start MODEL --cluster` rolls out a new version.""",
)
def main() -> None:
    """Run the models on Kubernetes.

    kubectl must be installed and signed in to a cluster. The key `kubernetes`
    of models.yaml has the settings.
    """


for _command in (render, lint, chart, apply, diff, delete, status):
    main.add_command(_command)
