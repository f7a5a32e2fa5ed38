"""How a new version takes over: what `rollout:` in models.yaml may say."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator

from tfserving.clients.address import read_address
from tfserving.serving.models_yaml.quality import Drift, MetricLimits
from tfserving.serving.models_yaml.server import Strict


class Rollout(Strict):
    """The gates between the steps of a rollout, and how long they look."""

    window: Annotated[
        float,
        Field(gt=0, description="Seconds for which two versions are compared before the new one may go on, at least."),
    ] = 30
    longest: Annotated[
        float, Field(gt=0, description="Seconds after which a comparison that isn't clear is decided as it stands.")
    ] = 600
    latency: Annotated[
        float, Field(gt=1, description="A version that takes so many times as long as the old one is stopped.")
    ] = 1.5
    slack_ms: Annotated[float, Field(ge=0, description="Milliseconds more that are never too many.")] = 0
    error_rate: Annotated[
        float, Field(gt=0, le=1, description="How much more may fail, as a part of all; twice that is stopped.")
    ] = 0.01
    bake: Annotated[
        float, Field(ge=0, description="Seconds for which the old version stays loaded once all requests have moved.")
    ] = 60
    probe: Annotated[
        float,
        Field(
            ge=0,
            le=100,
            description="Golden requests that the probe sends in a second to the servers of each version. 0 is none.",
        ),
    ] = 5
    address: Annotated[
        str | None,
        Field(
            description="Where clients send requests, grpc://HOST:PORT, say: the probe does, too. Without it the probe "
            "sends to the servers in turn."
        ),
    ] = None
    weights: Annotated[
        tuple[Annotated[int, Field(ge=1, le=100)], ...],
        Field(description="By pods, how many percent of the requests the new ones get, step by step; 100 at last."),
    ] = (5, 25, 50, 100)
    quality: Annotated[
        dict[str, MetricLimits],
        Field(description="By name of a metric in the manifests of every model, how far it may go."),
    ] = Field(default_factory=dict)
    drift: Annotated[Drift, Field(description="How far answers to the same requests may move.")] = Drift()
    shadow: Annotated[
        Path | None,
        Field(
            description="Captured requests, replayed to both versions before any client moves: what `tfserving client "
            "capture` writes, or a request log. Relative to the file that says it."
        ),
    ] = None
    shadow_requests: Annotated[
        int, Field(ge=1, le=100_000, description="How many of them are replayed at most, drawn at random.")
    ] = 500
    commands: Annotated[
        tuple[Annotated[tuple[str, ...], Field(min_length=1)], ...],
        Field(description="Gates of your own, run before `stable` moves: a command passes when it exits with 0."),
    ] = ()
    command_seconds: Annotated[float, Field(gt=0, description="Seconds after which such a command has failed.")] = 600
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
            raise ValueError(f"{list(weights)} don't grow to 100")
        return weights
