"""What a rollout moves: servers behind small protocols, so that a laptop rehearses what a cluster does."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from tfserving.k8s.rollout.state import Figure, Request, State
from tfserving.serving.engines import own_url
from tfserving.serving.models_yaml.fleet import canary_name
from tfserving.serving.served import Served


class RolloutError(Exception):
    """A rollout can't be begun or go on; nothing was changed by what raised it."""


class HeldError(RolloutError):
    """Somebody else is rolling this model out."""


class GateError(Exception):
    """The new version is worse than the old one, or can't be judged; `figure` is what a gate saw of it, if anything."""

    def __init__(self, text: str, figure: Figure | None = None) -> None:
        super().__init__(text)
        self.figure = figure


@dataclass(frozen=True)
class Serve:
    """What servers are to serve of `model`: under each name versions, and what labels mean there.

    `served` has the model's own name first. The names of a model are its own and that of its canary: where `served`
    has none of them, servers are to forget it.
    """

    model: str
    served: tuple[Served, ...]

    def applied(self, config: Any) -> Any:
        """`config`, a ModelServerConfig, with this in the place of what it says of the model."""
        changed = type(config)()
        for before in config.model_config_list.config:
            if before.name != canary_name(self.model):
                changed.model_config_list.config.add().CopyFrom(before)
            if before.name != self.model:
                continue
            del changed.model_config_list.config[-1]
            for one in self.served:
                model = changed.model_config_list.config.add()
                model.CopyFrom(before)
                model.name = one.name
                model.ClearField("model_version_policy")
                model.model_version_policy.specific.versions.extend(sorted(one.versions))
                model.ClearField("version_labels")
                model.version_labels.update(one.labels)
        return changed


class Instance(Protocol):
    """One server."""

    @property
    def name(self) -> str:
        """What it is called in what is said of it."""

    @property
    def grpc(self) -> str | None:
        """Where gRPC is, HOST:PORT; None where it has TLS, and REST is asked alone."""

    @property
    def rest(self) -> str:
        """Where REST is, HOST:PORT."""

    def tell(self, serve: Serve, *, keep: bool = True) -> None:
        """Has it serve this; returns when it knows, which may be before it does.

        With `keep` it serves this, too, when it starts again. A server that polls its configuration always does.
        """

    def leaves(self) -> bool:
        """Whether it is taken away or gone, so that no client is sent to it any more."""


@dataclass(frozen=True)
class Reached:
    """A version of a model on a server, under the name that the server has it there."""

    instance: Instance
    name: str
    version: int


def url(instance: Instance) -> str:
    """Where to send a server our own requests."""
    return own_url(instance.grpc or "", instance.rest, tls=instance.grpc is None)


class Target(Protocol):
    """Servers that serve the same."""

    def instances(self) -> list[Instance]:
        """Those that there are now. Raises RolloutError when there are none."""

    def keep(self, serve: Serve) -> None:
        """Has servers that start from now on begin with this."""

    def finish(self, model: str, labels: Mapping[str, int]) -> None:
        """Writes the labels that a model has for good to models.yaml."""

    def close(self) -> None:
        """Gives up what it needed to reach the servers."""


class Store(Protocol):
    """Where a rollout's state is kept, so that another shell sees it and can go on with it."""

    def load(self) -> State | None:
        """The state of the last rollout of the model; None when there was none."""

    def others(self) -> list[State]:
        """The last rollouts of other models, where one may be in the way of another."""

    def save(self, state: State) -> None:
        """Keeps `state`, whole or not at all."""

    def ask(self, request: Request) -> None:
        """Asks the one that rolls out for something."""

    def asked(self) -> Request | None:
        """What was asked for, which is forgotten by it."""

    def lease(self) -> AbstractContextManager[None]:
        """The right to roll this model out, which only one has at a time. Raises HeldError."""

    def held(self) -> bool:
        """Whether somebody has that right now."""
