"""What the commands of rollouts share: which model, and where its servers are."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from tfserving.k8s.kubectl import Kubectl
    from tfserving.k8s.rollout.target import Store
    from tfserving.serving.models_yaml.fleet import Fleet

model_argument = click.argument("model")


@dataclasses.dataclass(frozen=True)
class Place:
    """Where the servers are: on this machine, or in a namespace of a cluster."""

    cluster: bool
    namespace: str | None
    context: str | None

    def kubectl(self, fleet: Fleet) -> Kubectl:
        """What reaches the namespace."""
        from tfserving.k8s.kubectl import Kubectl

        return Kubectl(self.namespace or fleet.kubernetes.namespace, self.context, fleet.kubernetes.kubectl_seconds)

    def there(self, fleet: Fleet) -> Fleet:
        """The fleet as it is in the namespace."""
        if self.namespace is None:
            return fleet
        said = fleet.kubernetes.model_copy(update={"namespace": self.namespace})
        return fleet.model_copy(update={"kubernetes": said})

    def store(self, fleet: Fleet, model: str) -> Store:
        """Where the state of the model's rollouts is kept."""
        if self.cluster:
            from tfserving.k8s.rollout.cluster import ClusterStore

            return ClusterStore(self.kubectl(fleet), model)
        from tfserving.k8s.rollout.local import LocalStore

        return LocalStore(fleet, model)


def place_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options that say where the servers are, made into one argument `place`."""

    @functools.wraps(command)
    def placed(*, cluster: bool, namespace: str | None, context: str | None, **others: object) -> None:
        return command(place=Place(cluster, namespace, context), **others)

    for option in reversed(
        (
            click.option("--cluster", is_flag=True, help="The pods of a cluster instead of this machine's servers."),
            click.option("--namespace", help="With --cluster, the namespace; that of models.yaml when not given."),
            click.option("--context", help="With --cluster, kubectl's context; the current one when not given."),
        )
    ):
        placed = option(placed)
    return placed
