"""Options of the rollout commands: the model, and where its servers are."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tfserving.foundation.command.options import complete_models

if TYPE_CHECKING:
    from tfserving.k8s.kubectl import Kubectl
    from tfserving.k8s.rollout.target import Store
    from tfserving.serving.models_yaml.fleet import Fleet

model_argument = click.argument("model", shell_complete=complete_models)
context_option = click.option("--context", metavar="NAME", help="The kubectl context.  [default: the current one]")

direct_option = click.option(
    "--direct", is_flag=True, help="Connect to the pods' own addresses, from within the cluster."
)


@dataclasses.dataclass(frozen=True)
class Place:
    """Where the servers are: on this machine, or in a namespace of a cluster."""

    cluster: bool
    namespace: str | None
    context: str | None
    direct: bool = False

    def kubectl(self, fleet: Fleet) -> Kubectl:
        """Return the kubectl of the namespace."""
        from tfserving.k8s.kubectl import Kubectl

        namespace = self.namespace or fleet.kubernetes.namespace
        return Kubectl(namespace, self.context, fleet.kubernetes.kubectl_seconds, self.direct)

    def in_namespace(self, fleet: Fleet) -> Fleet:
        """Return the fleet with the settings of the namespace."""
        if self.namespace is None:
            return fleet
        settings = fleet.kubernetes.model_copy(update={"namespace": self.namespace})
        return fleet.model_copy(update={"kubernetes": settings})

    def store(self, fleet: Fleet, model: str) -> Store:
        """Return the store with the state of the model's rollouts."""
        if self.cluster:
            from tfserving.k8s.names import Names
            from tfserving.k8s.rollout.cluster import ClusterStore

            return ClusterStore(self.kubectl(fleet), Names.of(fleet), model)
        from tfserving.k8s.rollout.local import LocalStore

        return LocalStore(fleet, model)


def place_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options for where the servers are; the command gets one argument `place`."""

    @functools.wraps(command)
    def placed(*, cluster: bool, namespace: str | None, context: str | None, direct: bool, **others: object) -> None:
        for name, value in (("--namespace", namespace), ("--context", context), ("--direct", direct or None)):
            if value is not None and not (cluster or others.get("in_cluster")):
                raise click.UsageError(f"{name} needs --cluster.")
        cluster = cluster or bool(others.get("in_cluster"))
        return command(place=Place(cluster, namespace, context, direct), **others)

    for option in reversed(
        (
            click.option("--cluster", is_flag=True, help="Use the pods of a cluster, not the servers of this machine."),
            click.option("--namespace", metavar="NAME", help="The namespace.  [default: that of models.yaml]"),
            context_option,
            direct_option,
        )
    ):
        placed = option(placed)
    return placed


def read_with(path: Path, model: str) -> Fleet:
    """Read a fleet that must contain `model`. Raises FleetError."""
    from tfserving.serving.models_yaml.fleet import read_fleet

    read = read_fleet(path)
    read.select((model,))
    return read
