"""How a new version is rolled out: the keys of `rollout:` in models.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator

from tfserving.clients.address import read_address
from tfserving.serving.models_yaml.quality import Drift, MetricLimits
from tfserving.serving.models_yaml.server import Strict


class Rollout(Strict):
    """The gates between the steps of a rollout."""

    window: Annotated[
        float,
        Field(gt=0, description="Shortest time of a comparison of two versions, in seconds."),
    ] = 30
    longest: Annotated[
        float, Field(gt=0, description="Longest time of a comparison without a clear result, in seconds.")
    ] = 600
    latency: Annotated[
        float, Field(gt=1, description="A version that is slower than the old one by this factor is stopped.")
    ] = 1.5
    slack_ms: Annotated[
        float, Field(ge=0, description="Additional latency that is always allowed, in milliseconds.")
    ] = 0
    error_rate: Annotated[
        float,
        Field(
            gt=0, le=1, description="Allowed increase of the share of failed requests. Twice that stops the rollout."
        ),
    ] = 0.01
    bake: Annotated[
        float,
        Field(ge=0, description="How long the old version stays loaded after all requests have moved, in seconds."),
    ] = 60
    probe: Annotated[
        float,
        Field(
            ge=0,
            le=100,
            description="Golden requests per second that the probe sends to the servers of each version. 0: none.",
        ),
    ] = 5
    address: Annotated[
        str | None,
        Field(
            description="The address that clients use, such as grpc://HOST:PORT. The probe sends its requests there. "
            "Default: to each server in turn."
        ),
    ] = None
    weights: Annotated[
        tuple[Annotated[int, Field(ge=1, le=100)], ...],
        Field(description="With pods: the percentage of requests that the new pods get in each step. The last is 100."),
    ] = (5, 25, 50, 100)
    quality: Annotated[
        dict[str, MetricLimits],
        Field(description="Limits of the metrics in the manifests of all models, by name of the metric."),
    ] = Field(default_factory=dict)
    drift: Annotated[Drift, Field(description="How much responses to the same requests may change.")] = Drift()
    shadow: Annotated[
        Path | None,
        Field(
            description="Captured requests that are replayed to both versions before any client moves: a file of "
            "`tfserving capture`, or a request log. Relative to models.yaml."
        ),
    ] = None
    shadow_requests: Annotated[
        int, Field(ge=1, le=100_000, description="The largest number of captured requests to replay, drawn at random.")
    ] = 500
    commands: Annotated[
        tuple[Annotated[tuple[str, ...], Field(min_length=1)], ...],
        Field(description="Your own gates, run before `stable` moves. A command passes if it exits with 0."),
    ] = ()
    command_seconds: Annotated[float, Field(gt=0, description="Longest run of such a command, in seconds.")] = 600
    manual: Annotated[bool, Field(description="Wait for `rollout promote` before `stable` moves.")] = False

    @field_validator("address")
    @classmethod
    def _address_is_one(cls, address: str | None) -> str | None:
        if address is not None:
            read_address(address)
        return address

    @field_validator("weights")
    @classmethod
    def _weights_grow(cls, weights: tuple[int, ...]) -> tuple[int, ...]:
        if list(weights) != sorted({*weights}) or weights[-1:] != (100,):
            raise ValueError(f"got {list(weights)}, expected an increasing list that ends with 100")
        return weights
