"""How the fleet runs on Kubernetes: the keys of `kubernetes:` in models.yaml."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field, model_validator

from tfserving.serving.docker.image_names import moves
from tfserving.serving.models_yaml import patterns
from tfserving.serving.models_yaml.autoscaling import Autoscaling
from tfserving.serving.models_yaml.errors import shown
from tfserving.serving.models_yaml.object_store import Cidr, ObjectStore
from tfserving.serving.models_yaml.server import ENVOY, Strict

# In the order in which they are applied.
Component = Literal[
    "cpu",
    "embedded",
    "gpu",
    "volume",
    "object-store",
    "monitoring",
    "gateway",
    "proxy",
    "rollouts",
    "kserve",
    "argo-rollouts",
]
COMPONENTS: tuple[Component, ...] = get_args(Component)
# NVIDIA's device plugin ends the name of a GPU that pods share with this, and begins that of a MIG slice with that.
# https://docs.nvidia.com/datacenter/cloud-native/gpu-operator/latest/gpu-sharing.html
# https://docs.nvidia.com/datacenter/cloud-native/gpu-operator/latest/gpu-operator-mig.html
SHARED, SLICE = ".shared", "nvidia.com/mig-"
_UNITS = {"Mi": 20, "Gi": 30, "Ti": 40}
Namespace = Annotated[str, Field(pattern=patterns.KUBERNETES_NAME)]


LabelKey = Annotated[str, Field(pattern=patterns.LABEL_KEY)]
LabelValue = Annotated[str, Field(pattern=patterns.LABEL_VALUE)]
# Kubernetes keeps these domains for itself
# (https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#syntax-and-character-set).
_RESERVED = ("kubernetes.io", "k8s.io")
# Those of the labels that the toolkit selects objects by, or sets itself.
_TAKEN = {f"app.kubernetes.io/{name}" for name in ("name", "instance", "component", "managed-by", "version")}


def _fixed(image: str) -> str:
    """Return the name of an image that stays the same. Raises ValueError for another one."""
    if moves(image):
        raise ValueError(
            f"got {shown(image)}, which names another image later. Use a tag of its own, such as `:1`, or a digest"
        )
    return image


Image = Annotated[str, Field(pattern=patterns.IMAGE), AfterValidator(_fixed)]


def in_bytes(size: str) -> int:
    """Return the bytes of a size like `10Gi`."""
    return int(size[:-2]) << _UNITS[size[-2:]]


def _extended(name: str) -> str:
    """Return the name of an extended resource. Raises ValueError for one that Kubernetes keeps for itself."""
    domain = name.partition("/")[0]
    if domain.startswith("requests.") or any(domain == one or domain.endswith(f".{one}") for one in _RESERVED):
        raise ValueError(f"got {shown(name)}, whose domain Kubernetes reserves. Use the name that the node lists")
    return name


class Gpu(Strict):
    """For the component `gpu`: the GPUs of a pod."""

    count: Annotated[
        int, Field(ge=1, description="Number of GPUs for each pod; 1 for a share or a slice of a GPU.")
    ] = 1
    resource: Annotated[
        str,
        Field(
            description="The name of the nodes' resource, as the device plugin names it: `nvidia.com/gpu`, "
            "`nvidia.com/gpu.shared` with time-slicing, or a MIG slice such as `nvidia.com/mig-1g.10gb`.",
            pattern=patterns.EXTENDED_RESOURCE,
        ),
        AfterValidator(_extended),
    ] = "nvidia.com/gpu"
    runtime_class: Annotated[
        str | None,
        Field(
            description="The RuntimeClass of the pods, such as `nvidia`. Default: none, for nodes whose default "
            "runtime is NVIDIA's.",
            pattern=patterns.KUBERNETES_NAME,
        ),
    ] = None
    node_selector: Annotated[
        dict[LabelKey, LabelValue],
        Field(description="Labels of nodes with GPUs. Default: the label of NVIDIA's GPU Operator."),
    ] = Field(default_factory=lambda: {"nvidia.com/gpu.present": "true"})

    @model_validator(mode="after")
    def _one_part(self) -> Gpu:
        if self.count == 1 or not self.is_part:
            return self
        why = (
            "a share of a GPU. More shares bring no more computing time. Set count to 1"
            if self.is_shared
            else "a slice of a GPU. A process uses one slice. Set count to 1, and choose a larger slice"
        )
        raise ValueError(f"count is {self.count}, and {self.resource} is {why}")

    @property
    def is_shared(self) -> bool:
        """Whether several pods use a GPU at the same time, and its memory: NVIDIA's suffix with time-slicing or MPS."""
        return self.resource.endswith(SHARED)

    @property
    def is_part(self) -> bool:
        """Whether the resource is a share of a GPU, or a slice of one with memory of its own, by MIG."""
        return self.is_shared or self.resource.startswith(SLICE)


class Monitoring(Strict):
    """For the component `monitoring`: the Prometheus Operator and its alerts."""

    namespace: Annotated[Namespace, Field(description="The namespace of Prometheus.")] = "monitoring"
    labels: Annotated[
        dict[str, str], Field(description="Labels that Prometheus selects ServiceMonitors and rules by.")
    ] = Field(default_factory=dict)
    error_rate: Annotated[
        float, Field(gt=0, lt=1, description="The share of failed requests that raises an alert.")
    ] = 0.01
    p99_ms: Annotated[
        float, Field(gt=0, description="The 99th percentile of the latency, in milliseconds, that raises an alert.")
    ] = 1000
    runbook_url: Annotated[
        str | None,
        Field(description="Where docs/runbooks.md is published, for the links of alerts.", pattern=patterns.PAGE),
    ] = None


class Gateway(Strict):
    """For the component `gateway`: the Gateway of the routes."""

    name: Annotated[str, Field(description="The name of the Gateway.", pattern=patterns.KUBERNETES_NAME)]
    namespace: Annotated[Namespace, Field(description="The namespace of the Gateway.")]
    hostname: Annotated[str, Field(description="The host name for REST.", pattern=patterns.HOST)]
    grpc_hostname: Annotated[
        str | None,
        Field(description="The host name for gRPC. Default: `grpc.` and the hostname.", pattern=patterns.HOST),
    ] = None

    @model_validator(mode="after")
    def _two_hosts(self) -> Gateway:
        if self.grpc_hostname == self.hostname:
            raise ValueError(
                f"grpc_hostname is {self.hostname}, the hostname of REST; Gateway API allows one kind of route for "
                "each host"
            )
        if self.grpc_hostname is None and self.hostname.startswith("*."):
            raise ValueError(f"hostname is {self.hostname}, so grpc_hostname is required")
        return self

    @property
    def grpc_host(self) -> str:
        """The host name for gRPC."""
        return self.grpc_hostname or f"grpc.{self.hostname}"


class ArgoRollouts(Strict):
    """For the component `argo-rollouts`: how a Rollout decides. Its steps are those of the key `rollout`."""

    prometheus: Annotated[
        str | None,
        Field(
            description="The address of Prometheus, such as `http://prometheus-operated.monitoring:9090`. Without it, "
            "only the golden requests decide.",
            pattern=patterns.ENDPOINT,
        ),
    ] = None
    load_seconds: Annotated[
        int, Field(ge=1, le=86_400, description="Seconds after which pods that aren't ready stop the rollout.")
    ] = 600
    dns: Annotated[
        tuple[Cidr, ...],
        Field(
            description="Addresses of DNS servers that aren't pods in `kube-system`, such as `169.254.20.10/32` for "
            "NodeLocal DNSCache. The network policy lets the Job that verifies connect to them."
        ),
    ] = ()


class Proxy(Strict):
    """For the component `proxy`: Envoy in front of the server."""

    image: Annotated[Image, Field(description="The image of Envoy, with a tag or digest.")] = ENVOY
    cpu: Annotated[str, Field(description="CPUs that Envoy requests.", pattern=patterns.CPUS)] = "100m"
    memory: Annotated[
        str, Field(description="The request and the limit of Envoy's memory.", pattern=patterns.MEMORY_SIZE)
    ] = "256Mi"
    max_connections: Annotated[
        int, Field(ge=1, le=65536, description="The limit of connections and of requests in flight of a pod.")
    ] = 4096


class Kubernetes(Strict):
    """The servers of a namespace."""

    namespace: Annotated[Namespace, Field(description="The namespace, which must exist.")] = "default"
    name_prefix: Annotated[
        str,
        Field(
            description="The beginning of every object's name, such as `fraud-`, for several fleets in a namespace.",
            pattern=patterns.NAME_PREFIX,
        ),
    ] = ""
    domain: Annotated[
        str,
        Field(description="The domain of the toolkit's own labels and annotations.", pattern=patterns.DOMAIN),
    ] = "tfserving.internal"
    labels: Annotated[
        dict[LabelKey, LabelValue],
        Field(description="More labels of every object and pod, such as `team`, or `app.kubernetes.io/part-of`."),
    ] = Field(default_factory=dict)
    components: Annotated[tuple[Component, ...], Field(description="Folders of k8s/components to add.")] = ()
    image: Annotated[
        Image | None, Field(description="The image. Default: the image of the base or of its components.")
    ] = None
    toolkit_image: Annotated[
        Image,
        Field(
            description="The toolkit's own image, of k8s/Dockerfile: it copies models from an object store, and runs "
            "rollouts in the cluster.",
        ),
    ] = "serving-toolkit:1"
    replicas: Annotated[int, Field(ge=1, description="The smallest number of pods.")] = 2
    max_replicas: Annotated[
        int, Field(ge=1, description="The largest number of pods. If it equals `replicas`, there is no autoscaler.")
    ] = 10
    autoscaling: Annotated[Autoscaling, Field(description="When the autoscaler adds and removes pods.")] = Autoscaling()
    cpu: Annotated[
        str,
        Field(
            description="CPUs that a pod requests. With the component `cpu`, a whole number, and the limit too.",
            pattern=patterns.CPUS,
        ),
    ] = "1"
    memory: Annotated[
        str, Field(description="The request and the limit of a pod's memory.", pattern=patterns.MEMORY_SIZE)
    ] = "2Gi"
    node_selector: Annotated[
        dict[LabelKey, LabelValue],
        Field(
            description="Labels of the nodes for the pods. `kubernetes.io/arch` is `amd64`, unless set here or the "
            "image is that of the embedded server."
        ),
    ] = Field(default_factory=dict)
    ready_model: Annotated[
        str | None,
        Field(
            description="A model that a pod needs to be ready. Default: a pod is ready while its server responds, also "
            "when one of its models fails."
        ),
    ] = None
    claim: Annotated[
        str,
        Field(
            description="For the component `volume`: the PersistentVolumeClaim with the models.",
            pattern=patterns.KUBERNETES_NAME,
        ),
    ] = "models"
    copy_size: Annotated[
        str,
        Field(
            description="For the component `volume` with `trust`: disk space for a pod's own copies of the versions.",
            pattern=patterns.DISK_SIZE,
        ),
    ] = "10Gi"
    gpu: Annotated[Gpu, Field(description="For the component `gpu`: GPUs and their nodes.")] = Gpu()
    object_store: Annotated[
        ObjectStore | None, Field(description="For the component `object-store`: the place of the models.")
    ] = None
    monitoring: Annotated[Monitoring, Field(description="For the component `monitoring`: the Prometheus Operator.")] = (
        Monitoring()
    )
    proxy: Annotated[Proxy, Field(description="For the component `proxy`: Envoy.")] = Proxy()
    gateway: Annotated[Gateway | None, Field(description="For the component `gateway`: the Gateway.")] = None
    argo_rollouts: Annotated[
        ArgoRollouts, Field(description="For the component `argo-rollouts`: how a Rollout decides.")
    ] = ArgoRollouts()
    clients: Annotated[
        Literal["namespace", "labelled"],
        Field(
            description="Which pods of the namespace the network policy lets in: all, or those with the label `client`."
        ),
    ] = "namespace"
    drain_seconds: Annotated[
        int,
        Field(
            ge=2,
            le=3600,
            description="How long a terminating pod keeps serving, in seconds. gRPC connections live half as long.",
        ),
    ] = 30
    kubectl_seconds: Annotated[
        float,
        Field(
            gt=0, le=3600, description="Longest call of kubectl, in seconds, except calls that wait for pods to end."
        ),
    ] = 60

    @model_validator(mode="after")
    def _most_is_most(self) -> Kubernetes:
        if self.max_replicas < self.replicas:
            raise ValueError(f"max_replicas {self.max_replicas} is below replicas {self.replicas}")
        return self

    @model_validator(mode="after")
    def _labels_are_free(self) -> Kubernetes:
        if any(self.domain == one or self.domain.endswith(f".{one}") for one in _RESERVED):
            raise ValueError(f"domain is {self.domain}, which Kubernetes reserves. Use a domain of your own")
        for label in self.labels:
            if label in _TAKEN or label.startswith(f"{self.domain}/"):
                raise ValueError(f"labels contains {label}, which the toolkit sets. Use another label")
        return self

    @model_validator(mode="after")
    def _components_are_complete(self) -> Kubernetes:
        for component, key, settings in (
            ("object-store", "object_store", self.object_store),
            ("gateway", "gateway", self.gateway),
        ):
            if settings is None and component in self.components:
                raise ValueError(f"the component {component!r} needs the key {key}")
            if settings is not None and component not in self.components:
                raise ValueError(f"{key} needs the component {component!r}. Add it to components")
        for one, other in (("volume", "object-store"), ("kserve", "argo-rollouts")):
            if one in self.components and other in self.components:
                raise ValueError(f"the components {one!r} and {other!r} exclude each other")
        if "kserve" in self.components and (
            self.autoscaling.model_fields_set - {"cpu_percent"} or self.autoscaling.cpu_percent is None
        ):
            raise ValueError("autoscaling: the component 'kserve' has cpu_percent only: the autoscaler is KServe's")
        if "cpu" in self.components and not self.cpu.isdecimal():
            raise ValueError(f"cpu is {self.cpu}; the component 'cpu' needs a whole number")
        return self

    @property
    def scales(self) -> bool:
        """Whether an autoscaler sets the number of pods."""
        return self.max_replicas > self.replicas

    @property
    def ordered(self) -> tuple[Component, ...]:
        """The components, each once, in the order in which they are applied."""
        return tuple(component for component in COMPONENTS if component in self.components)
