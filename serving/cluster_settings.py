"""How the fleet runs on Kubernetes: what `kubernetes:` in models.yaml may say."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from serving.settings import Strict

Component = Literal["embedded", "gpu", "volume"]


class Kubernetes(Strict):
    """The server of a namespace. What isn't said is as in `k8s/base`."""

    namespace: Annotated[
        str, Field(description="Its namespace, which must exist.", pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")
    ] = "default"
    components: Annotated[
        tuple[Component, ...], Field(description="Folders of k8s/components that are put on top.")
    ] = ()
    image: Annotated[
        str | None, Field(description="The image; what the base or its components name, when not given.")
    ] = None
    replicas: Annotated[int, Field(ge=1, description="Pods at the least.")] = 2
    max_replicas: Annotated[int, Field(ge=1, description="Pods at the most.")] = 10
    cpu: Annotated[str, Field(description="What a pod requests.", pattern=r"^\d+(\.\d+)?m?$")] = "1"
    memory: Annotated[str, Field(description="What a pod requests and is limited to.", pattern=r"^\d+(Mi|Gi)$")] = "2Gi"
    claim: Annotated[str, Field(description="With `volume`, the claim that has the models.")] = "models"
    drain_seconds: Annotated[
        int,
        Field(ge=2, le=3600, description="How long a pod that ends still answers; gRPC connections live half as long."),
    ] = 30

    @model_validator(mode="after")
    def _most_is_most(self) -> Kubernetes:
        if self.max_replicas < self.replicas:
            raise ValueError(f"max_replicas {self.max_replicas} is below replicas {self.replicas}")
        return self
