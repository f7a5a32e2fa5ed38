"""The command `tfserving k8s`: the fleet on a cluster, and rollouts, there and on this machine."""

from __future__ import annotations

import click

from tfserving.k8s.commands.cluster import apply, delete, diff, render, status
from tfserving.k8s.commands.rollout import rollout
from tfserving.serving.commands.options import Commands


@click.group(
    cls=Commands,
    epilog="""\b
Examples:
  tfserving k8s apply                             the fleet on a cluster
  tfserving k8s rollout start digits --dry-run    what a rollout to the newest version would do
  tfserving k8s rollout start digits              does it
  tfserving k8s rollout status digits             how far it is, from any shell

\b
Exit codes: 0 done; 1 the new version was rolled back, or something failed on the way; 2 something was wrong
before anything changed; 130 interrupted, to be gone on with.""",
)
def main() -> None:
    """Runs the fleet on Kubernetes, and rolls new model versions out, step by step, and back by itself."""


for _command in (render, apply, diff, delete, status, rollout):
    main.add_command(_command)
