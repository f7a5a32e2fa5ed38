"""How the fleet is served: the keys of `server:` and `compose:` in models.yaml."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from tfserving.serving.docker.image_names import GPU_SUFFIX
from tfserving.serving.models_yaml import patterns
from tfserving.serving.models_yaml.errors import shown

# The release whose messages this toolkit uses, and whose image is the default.
TENSORFLOW_SERVING = "2.21.0"
IMAGE = f"tensorflow/serving:{TENSORFLOW_SERVING}"
# The digests are those of the images' indexes, for all architectures: docs/provenance.md has their sources.
PROMETHEUS = "prom/prometheus:v3.15.0@sha256:efd719c99d83b060d9daefdcf00360461adf279f45ef5391f8d111892118753e"
NODE_EXPORTER = "prom/node-exporter:v1.12.1@sha256:1b4e4438faca4dd7e001dd445d161a4a2091b0fededa84093b3a8dfeae1f1be0"
GRAFANA = "grafana/grafana:13.2.3@sha256:b28bae15e219c998fb0e0424ed724930cc61b1f61fb404d47c862f9a23f9e572"
# Of Compose, and of pods.
ENVOY = "envoyproxy/envoy:v1.39.3@sha256:dd85940439de19a0b6ae8419610363ea0ad351d9a994ea007161c206ec1e1865"

# The largest number in the configuration of TensorFlow Serving and of Docker.
_MOST = (1 << 31) - 1
_LEAST_MEMORY = 64 << 20
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def bytes_of(text: object) -> object:
    """Return `2g`, `512m`, `1.5GiB` or a number as bytes. Raises ValueError for anything else."""
    if text is None or (type(text) is int and text >= _LEAST_MEMORY):
        return text
    found = re.fullmatch(r"(\d{1,15}(?:\.\d+)?)\s*([kmg]?)(?:i?b)?", str(text).strip().lower())
    size = int(float(found[1]) * _UNITS[found[2]]) if found and type(text) in (str, int) else 0
    if size < _LEAST_MEMORY:
        raise ValueError(f"got {shown(text)}, expected a size of at least 64m, such as 512m or 2g")
    return size


def _which_gpus(value: object) -> object:
    """Return device numbers as Docker expects them; one error for a wrong value."""
    if isinstance(value, list) and value and all(type(device) in {int, str} for device in value):
        return tuple(map(str, value))
    if value in (None, "all") or (type(value) is int and value >= 1):
        return value
    raise ValueError(
        f"got {shown(value)}, expected all, a number of GPUs such as 1, or a list of devices such as [0, 1]"
    )


class Strict(BaseModel):
    """Part of models.yaml, where an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Batching(Strict):
    """BatchingParameters of TensorFlow Serving, with its names and defaults. On a GPU some defaults differ."""

    max_batch_size: Annotated[int, Field(ge=1, le=_MOST, description="Most rows in a request, and in a batch.")] = 1000
    batch_timeout_micros: Annotated[
        int, Field(ge=0, le=_MOST, description="Longest wait of a request for others, in microseconds.")
    ] = 0
    max_enqueued_batches: Annotated[
        int | None,
        Field(
            ge=1,
            le=_MOST,
            description="Batches that wait. Requests beyond them fail with UNAVAILABLE. Default: 10; on a GPU that "
            "splits requests, 10 times the batches of the largest request.",
        ),
    ] = None
    num_batch_threads: Annotated[
        int | None,
        Field(ge=1, le=_MOST, description="Batches that run at a time. Default: the number of CPUs; on a GPU 2."),
    ] = None
    allowed_batch_sizes: Annotated[
        tuple[Annotated[int, Field(ge=1, le=_MOST)], ...] | None,
        Field(
            description="Sizes to which batches are padded, increasing. The last one must be max_batch_size, or "
            "max_execution_batch_size if larger requests are split. []: any size. Default: any size; on a GPU powers "
            "of two up to 32, or up to a smaller max_batch_size."
        ),
    ] = None
    pad_variable_length_inputs: Annotated[
        bool, Field(description="Pad inputs of different lengths to the same length.")
    ] = False
    enable_large_batch_splitting: Annotated[
        bool | None,
        Field(
            description="Split requests that are larger than max_execution_batch_size. Default: false; on a GPU "
            "without allowed_batch_sizes true."
        ),
    ] = None
    max_execution_batch_size: Annotated[
        int | None,
        Field(
            ge=1,
            le=_MOST,
            description="Largest batch that runs, if larger requests are split. Default: max_batch_size; on a GPU "
            "without allowed_batch_sizes 64, or a smaller max_batch_size.",
        ),
    ] = None


class TlsFiles(Strict):
    """PEM files for TLS on gRPC; TensorFlow Serving has no TLS on REST. Relative to models.yaml."""

    certificate: Annotated[Path, Field(description="The server's certificate, with its chain.")]
    key: Annotated[Path, Field(description="Its private key.")]
    client_ca: Annotated[Path | None, Field(description="The certificate authorities of clients.")] = None
    verify_clients: Annotated[bool, Field(description="Refuse clients without a certificate of client_ca.")] = False


class Envoy(Strict):
    """A proxy in front of REST, for TLS and traffic splits. Files are relative to models.yaml."""

    image: Annotated[str, Field(description="The image of Envoy, with a tag or digest.", pattern=patterns.IMAGE)] = (
        ENVOY
    )
    port: Annotated[int, Field(ge=1, le=65535, description="The port where Envoy listens, with HTTPS.")] = 8443
    certificate: Annotated[Path, Field(description="Envoy's certificate, with its chain, PEM.")]
    key: Annotated[Path, Field(description="The certificate's private key, PEM.")]
    client_ca: Annotated[
        Path | None,
        Field(description="The certificate authorities of clients. With it, clients need a certificate of one."),
    ] = None
    split: Annotated[
        dict[str, Annotated[int, Field(ge=0, le=100)]],
        Field(
            description="By model, the percentage of requests without a version that goes to the canary. The rest "
            "goes to the label `stable`."
        ),
    ] = {}


class Compose(Strict):
    """The services that `tfserving compose up` starts beside the server."""

    prometheus: Annotated[str, Field(description="The image of Prometheus.", pattern=patterns.IMAGE)] = PROMETHEUS
    prometheus_port: Annotated[int, Field(ge=1, le=65535, description="The port where Prometheus listens.")] = 9090
    memory_exporter: Annotated[
        str | None,
        Field(
            description="The image of node-exporter, which exports the server's memory to Prometheus. `null`: none.",
            pattern=patterns.IMAGE,
        ),
    ] = NODE_EXPORTER
    grafana: Annotated[str | None, Field(description="The image of Grafana. `null`: none.", pattern=patterns.IMAGE)] = (
        GRAFANA
    )
    grafana_port: Annotated[int, Field(ge=1, le=65535, description="The port where Grafana listens.")] = 3000
    envoy: Annotated[Envoy | None, Field(description="TLS and traffic splits for REST. Default: none.")] = None


class ServerSettings(Strict):
    """How the server of the fleet runs. Some settings are only for containers."""

    image: Annotated[
        str | None,
        Field(
            description=f"The image, with a tag or digest. Default: {IMAGE}, or {IMAGE}-gpu with `gpus`.",
            pattern=patterns.IMAGE,
        ),
    ] = None
    memory: Annotated[
        Annotated[int, Field(ge=_LEAST_MEMORY, le=1 << 62)] | None,
        BeforeValidator(bytes_of),
        Field(description="Memory limit of a container, such as `2g`. Default: none."),
    ] = None
    cpus: Annotated[float | None, Field(gt=0, le=100_000, description="CPU limit of a container. Default: none.")] = (
        None
    )
    pids: Annotated[
        int | None,
        Field(
            ge=256,
            le=_MOST,
            description="Limit of processes and threads of a container. Default: computed from the models and the "
            "machine's CPUs, at least 4096.",
        ),
    ] = None
    grpc_max_threads: Annotated[
        int,
        Field(
            ge=1,
            le=1 << 16,
            description="gRPC calls at a time. TensorFlow Serving starts a thread for each and refuses more. The "
            "embedded server ignores this; its calls wait.",
        ),
    ] = 1024
    rest_api_num_threads: Annotated[
        int,
        Field(
            ge=1,
            le=1 << 14,
            description="REST requests at a time in TensorFlow Serving; others wait. The embedded server ignores this.",
        ),
    ] = 256
    drain_seconds: Annotated[
        float,
        Field(ge=0, le=3600, description="Longest wait for requests in flight before a server ends."),
    ] = 60
    restart: Annotated[
        Literal["no", "on-failure", "unless-stopped", "always"],
        Field(description="When Docker restarts a container that has ended."),
    ] = "unless-stopped"
    gpus: Annotated[
        Literal["all"] | int | tuple[str, ...] | None,
        BeforeValidator(_which_gpus),
        Field(
            description="The GPUs: `all`, a number, or a list of devices such as [0, 1]. Default: none for a "
            "container, those that CUDA_VISIBLE_DEVICES leaves visible for a process on this machine."
        ),
    ] = None
    gpu_memory_fraction: Annotated[
        float | None,
        Field(
            gt=0,
            le=1,
            description="The part of GPU memory that the server allocates when it starts; with `gpu_memory_growth`, "
            "the most that it allocates.",
        ),
    ] = None
    gpu_memory_growth: Annotated[
        bool | None,
        Field(
            description="Allocate GPU memory when it is needed, not at the start. Default: true for the embedded "
            "server without `gpu_memory_fraction`, else false."
        ),
    ] = None
    tf32: Annotated[
        bool,
        Field(
            description="On a GPU, compute float32 in TF32: faster for large batches, with errors of 1e-4 to 5e-2 of "
            "the outputs' scale. Golden outputs are computed without it."
        ),
    ] = False
    deterministic: Annotated[
        bool,
        Field(
            description="On a GPU, choose cuDNN's algorithms by rule, not by a measurement at each start, so that "
            "replicas return the same bits."
        ),
    ] = False
    batching: Annotated[Batching | None, Field(description="Combine requests into batches. Default: no batching.")] = (
        None
    )
    monitoring: Annotated[bool, Field(description="Serve a metrics page for Prometheus on the REST port.")] = True
    tls: Annotated[TlsFiles | None, Field(description="TLS on gRPC. Default: none.")] = None
    flags: Annotated[
        dict[str, str | int | float | bool],
        Field(description="Other flags of tensorflow_model_server, by name without dashes."),
    ] = {}

    @field_validator("flags", mode="before")
    @classmethod
    def _flags_are_known(cls, flags: object) -> object:
        from tfserving.serving.models_yaml.flag_names import GENERATED, wrong

        for name, value in flags.items() if isinstance(flags, dict) else ():
            if name in GENERATED:
                raise ValueError(f"the toolkit sets the flag {name}. Use {GENERATED[name]} instead")
            if problem := wrong(name, value):
                raise ValueError(problem)
        return flags

    @property
    def image_name(self) -> str:
        """The image, or its default."""
        return self.image or (f"{IMAGE}{GPU_SUFFIX}" if self.gpus else IMAGE)
