"""When the autoscaler adds and removes pods: the keys of `kubernetes.autoscaling` in models.yaml."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from tfserving.serving.models_yaml.server import Strict


class Autoscaling(Strict):
    """What each pod has on average. Of several values, the one that needs the most pods counts."""

    cpu_percent: Annotated[
        int | None, Field(ge=1, le=10000, description="CPU time, in percent of `cpu`; `null`: it doesn't count.")
    ] = 70
    requests_per_second: Annotated[
        float | None, Field(ge=0.001, description="Inference requests in each second. Needs the Prometheus adapter.")
    ] = None
    requests_in_flight: Annotated[
        float | None,
        Field(ge=0.001, description="Inference requests that the server works on. Needs the Prometheus adapter."),
    ] = None
    scale_down_seconds: Annotated[
        int, Field(ge=0, le=3600, description="How long fewer pods must suffice before some are removed, in seconds.")
    ] = 300

    @model_validator(mode="after")
    def _something_counts(self) -> Autoscaling:
        if self.cpu_percent is None and not self.custom:
            raise ValueError("cpu_percent is null. Set requests_per_second or requests_in_flight instead")
        return self

    @property
    def custom(self) -> dict[str, float]:
        """The values that need the Prometheus adapter, by their names."""
        values = {name: getattr(self, name) for name in ("requests_per_second", "requests_in_flight")}
        return {name: value for name, value in values.items() if value is not None}
