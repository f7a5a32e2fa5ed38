"""How the fleet runs on Kubernetes: what `kubernetes:` in models.yaml may say."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from tfserving.serving.models_yaml.server import Strict

# In the order in which they are put on top of each other.
Component = Literal["cpu", "embedded", "gpu", "volume", "object-store", "monitoring", "gateway", "kserve"]
COMPONENTS: tuple[Component, ...] = get_args(Component)
_IMAGE = r"^[\w][\w.:/@+-]*$"
_NAME = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
_HOST = r"^(\*\.)?[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$"
_SIZE = r"^\d+(Mi|Gi|Ti)$"

Namespace = Annotated[str, Field(pattern=_NAME)]


class Gpu(Strict):
    """With `gpu`: what a pod gets, and where."""

    count: Annotated[int, Field(ge=1, description="GPUs of a pod.")] = 1
    node_selector: Annotated[
        dict[str, str], Field(description="Labels of the nodes that have them; those of NVIDIA's GPU Operator.")
    ] = Field(default_factory=lambda: {"nvidia.com/gpu.present": "true"})


class ObjectStore(Strict):
    """With `object-store`: where the versions are that `tfserving export publish` copied there."""

    url: Annotated[
        str,
        Field(
            description="The folder that has MODEL/VERSION, `s3://bucket/prefix`.", pattern=r"^(s3|gs)://[^/\s]+\S*$"
        ),
    ]
    endpoint: Annotated[
        str | None,
        Field(description="The address of an S3 that isn't Amazon's.", pattern=r"^https?://[^/\s:]+(:\d+)?/?$"),
    ] = None
    secret: Annotated[
        str | None,
        Field(
            description="The Secret whose keys become the environment: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY. None "
            "where the account of the pods has the right.",
            pattern=_NAME,
        ),
    ] = None
    account_annotations: Annotated[
        dict[str, str],
        Field(
            description="Annotations of the ServiceAccount, by which a cloud knows it: `eks.amazonaws.com/role-arn`."
        ),
    ] = Field(default_factory=dict)
    image: Annotated[str, Field(description="The image of k8s/Dockerfile.", pattern=_IMAGE)] = "serving-sync:1"
    interval: Annotated[int, Field(ge=1, le=1800, description="Seconds between looks for new versions.")] = 30
    newest: Annotated[
        int, Field(ge=1, description="How many of each model's versions a pod keeps, beside those that are served.")
    ] = 2
    size: Annotated[str, Field(description="Space for them on a node's disk.", pattern=_SIZE)] = "10Gi"


class Monitoring(Strict):
    """With `monitoring`: who scrapes, and what is alarming."""

    namespace: Annotated[Namespace, Field(description="Where Prometheus is.")] = "monitoring"
    labels: Annotated[
        dict[str, str], Field(description="Labels by which Prometheus finds the ServiceMonitor and the rules.")
    ] = Field(default_factory=dict)
    error_rate: Annotated[float, Field(gt=0, lt=1, description="The part of requests that may fail.")] = 0.01
    p99_ms: Annotated[float, Field(gt=0, description="What one request in a hundred may take longer than.")] = 1000


class Gateway(Strict):
    """With `gateway`: the Gateway that routes are for."""

    name: Annotated[str, Field(description="Its name.", pattern=_NAME)]
    namespace: Annotated[Namespace, Field(description="Its namespace.")]
    hostname: Annotated[str, Field(description="The host of REST.", pattern=_HOST)]
    grpc_hostname: Annotated[
        str | None,
        Field(description="The host of gRPC, another one; `grpc.` before it, when not given.", pattern=_HOST),
    ] = None

    @model_validator(mode="after")
    def _two_hosts(self) -> Gateway:
        if self.grpc_hostname == self.hostname:
            raise ValueError(
                f"grpc_hostname {self.hostname} is that of REST; Gateway API has one kind of route for a host"
            )
        if self.grpc_hostname is None and self.hostname.startswith("*."):
            raise ValueError(f"grpc_hostname must be given, when hostname is {self.hostname}")
        return self

    @property
    def grpc_host(self) -> str:
        """The host of gRPC."""
        return self.grpc_hostname or f"grpc.{self.hostname}"


class Kubernetes(Strict):
    """The server of a namespace. What isn't said is as in `k8s/base`."""

    namespace: Annotated[Namespace, Field(description="Its namespace, which must exist.")] = "default"
    components: Annotated[
        tuple[Component, ...], Field(description="Folders of k8s/components that are put on top.")
    ] = ()
    image: Annotated[
        str | None,
        Field(description="The image; what the base or its components name, when not given.", pattern=_IMAGE),
    ] = None
    replicas: Annotated[int, Field(ge=1, description="Pods at the least.")] = 2
    max_replicas: Annotated[int, Field(ge=1, description="Pods at the most.")] = 10
    cpu: Annotated[
        str, Field(description="What a pod requests; whole ones and the limit with `cpu`.", pattern=r"^\d+(\.\d+)?m?$")
    ] = "1"
    memory: Annotated[str, Field(description="What a pod requests and is limited to.", pattern=r"^\d+(Mi|Gi)$")] = "2Gi"
    claim: Annotated[str, Field(description="With `volume`, the claim that has the models.", pattern=_NAME)] = "models"
    gpu: Annotated[Gpu, Field(description="GPUs and their nodes.")] = Gpu()
    object_store: Annotated[ObjectStore | None, Field(description="Where the models are.")] = None
    monitoring: Annotated[Monitoring, Field(description="The Prometheus Operator.")] = Monitoring()
    gateway: Annotated[Gateway | None, Field(description="The Gateway.")] = None
    drain_seconds: Annotated[
        int,
        Field(ge=2, le=3600, description="How long a pod that ends still answers; gRPC connections live half as long."),
    ] = 30

    kubectl_seconds: Annotated[
        float,
        Field(gt=0, le=3600, description="What one call of kubectl may take, but for those that wait for pods to end."),
    ] = 60

    @model_validator(mode="after")
    def _most_is_most(self) -> Kubernetes:
        if self.max_replicas < self.replicas:
            raise ValueError(f"max_replicas {self.max_replicas} is below replicas {self.replicas}")
        return self

    @model_validator(mode="after")
    def _components_are_complete(self) -> Kubernetes:
        for component, key, said in (
            ("object-store", "object_store", self.object_store),
            ("gateway", "gateway", self.gateway),
        ):
            if said is None and component in self.components:
                raise ValueError(f"component {component!r} needs the key {key}")
            if said is not None and component not in self.components:
                raise ValueError(f"{key} is for the component {component!r}, which components doesn't name")
        for one, other in (("volume", "object-store"), ("embedded", "gpu")):
            if one in self.components and other in self.components:
                raise ValueError(f"components {one!r} and {other!r} exclude each other")
        if "cpu" in self.components and not self.cpu.isdecimal():
            raise ValueError(f"cpu {self.cpu!r} is not whole; component 'cpu' gives a pod CPUs of its own")
        return self

    @property
    def ordered(self) -> tuple[Component, ...]:
        """The components, each once, in the order in which they fit on each other."""
        return tuple(component for component in COMPONENTS if component in self.components)
