"""The servers of a rollout, behind small protocols: a laptop runs the same code as a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from tfserving.foundation.devices import Device
from tfserving.k8s.rollout.state import Figure, Request, State
from tfserving.serving.engines import own_url
from tfserving.serving.models_yaml.fleet import canary_name
from tfserving.serving.served import Served


class RolloutError(Exception):
    """A rollout can't start or continue; the step that raised this changed nothing."""


class NoServerError(RolloutError):
    """No server of the model can be reached."""


class HeldError(RolloutError):
    """Another process is rolling this model out."""


class GateError(Exception):
    """The new version is worse than the old one, or can't be judged; `figure` is the measurement, if any."""

    def __init__(self, text: str, figure: Figure | None = None) -> None:
        super().__init__(text)
        self.figure = figure


@dataclass(frozen=True)
class Serve:
    """The target configuration of `model`: versions and labels under each of its names.

    `served` has the model's own name first. A model has two names, its own and that of its canary. A name that `served`
    lacks is unloaded.
    """

    model: str
    served: tuple[Served, ...]

    def applied(self, config: Any) -> Any:
        """Return a copy of `config`, a ModelServerConfig, with this configuration of the model."""
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
        """Its name in messages."""

    @property
    def grpc(self) -> str | None:
        """The gRPC address, HOST:PORT; None with TLS, where only REST is used."""

    @property
    def rest(self) -> str:
        """The REST address, HOST:PORT."""

    @property
    def device(self) -> Device | None:
        """The kind of device that it computes on, by its settings; None if they don't determine it."""

    def configure(self, serve: Serve, *, keep: bool = True) -> None:
        """Send it this configuration; return once it has received it, which may be before it is loaded.

        With `keep`, a restart begins with this configuration. A server that polls its configuration always keeps it.
        """

    def leaves(self) -> bool:
        """Return whether it is terminating or gone, so that clients are no longer sent to it."""


@dataclass(frozen=True)
class Reached:
    """A version of a model on a server, and the name under which the server has it."""

    instance: Instance
    name: str
    version: int


def url(instance: Instance) -> str:
    """Return the URL for the rollout's own requests to a server."""
    return own_url(instance.grpc or "", instance.rest, tls=instance.grpc is None)


class Target(Protocol):
    """Servers with the same configuration."""

    def instances(self) -> list[Instance]:
        """Return the servers that run now. Raises RolloutError when there are none."""

    def keep(self, serve: Serve) -> None:
        """Let servers that start from now on begin with this configuration."""

    def finish(self, model: str, labels: Mapping[str, int]) -> None:
        """Write the final labels of a model to models.yaml."""

    def close(self) -> None:
        """Release the connections to the servers."""


class Store(Protocol):
    """Where the state of a rollout is stored, so that another process can read it and resume the rollout."""

    def load(self) -> State | None:
        """Return the state of the last rollout of the model; None when there was none."""

    def others(self) -> list[State]:
        """Return the last rollouts of other models, where rollouts exclude one another."""

    def save(self, state: State) -> None:
        """Store `state`, whole or not at all."""

    def send_request(self, request: Request) -> None:
        """Leave a request for the process that runs the rollout."""

    def take_request(self) -> Request | None:
        """Return the request that was left, and remove it."""

    def lease(self) -> AbstractContextManager[None]:
        """Hold the right to roll this model out, which one process has at a time. Raises HeldError."""

    def held(self) -> bool:
        """Return whether a process holds that right now."""
