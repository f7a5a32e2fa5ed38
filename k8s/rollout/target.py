"""What a rollout moves: servers behind small protocols, so that a laptop rehearses what a cluster does."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from tfserving.k8s.rollout.state import Request, State
from tfserving.serving.engines import own_url


class RolloutError(Exception):
    """A rollout can't be begun or go on; nothing was changed by what raised it."""


class HeldError(RolloutError):
    """Somebody else is rolling this model out."""


class GateError(Exception):
    """The new version is worse than the old one, or can't be judged; the text says so with figures."""


@dataclass(frozen=True)
class Serve:
    """What servers are to serve of a model."""

    model: str
    versions: tuple[int, ...]
    labels: Mapping[str, int]

    def applied(self, config: Any) -> Any:
        """`config`, a ModelServerConfig, with this in the place of what it said of the model."""
        changed = type(config)()
        changed.CopyFrom(config)
        for model in changed.model_config_list.config:
            if model.name == self.model:
                model.ClearField("model_version_policy")
                model.model_version_policy.specific.versions.extend(sorted(self.versions))
                model.ClearField("version_labels")
                model.version_labels.update(self.labels)
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

    def tell(self, serve: Serve) -> None:
        """Has it serve this; returns when it knows, which may be before it does."""

    def leaves(self) -> bool:
        """Whether it is taken away or gone, so that no client is sent to it any more."""


def url(instance: Instance) -> str:
    """Where to send a server our own requests."""
    return own_url(instance.grpc or "", instance.rest, tls=instance.grpc is None)


class Target(Protocol):
    """Servers that serve the same."""

    def instances(self) -> list[Instance]:
        """Those that there are now. Raises RolloutError when there are none."""

    def keep(self, serve: Serve) -> None:
        """Has servers that start from now on begin with this."""

    def finish(self, serve: Serve) -> None:
        """Notes in models.yaml what is served now for good."""

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
