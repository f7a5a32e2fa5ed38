"""How the fleet is served: what `server:` in models.yaml may say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

# The release whose messages this toolkit speaks, and so the image that it runs unless told otherwise.
TENSORFLOW_SERVING = "2.21.0"
IMAGE = f"tensorflow/serving:{TENSORFLOW_SERVING}"

_IMAGE_NAME = r"^[\w][\w.:/@+-]*$"
# What a configuration of TensorFlow Serving and of Docker has room for.
_MOST = (1 << 31) - 1
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def bytes_of(text: object) -> object:
    """`2g`, `512m`, `1.5GiB` or a number as bytes; what is none of these stays what it is, for pydantic to refuse."""
    if isinstance(text, str) and (
        found := re.fullmatch(r"(\d{1,15}(?:\.\d+)?)\s*([kmg]?)(?:i?b)?", text.strip().lower())
    ):
        return int(float(found[1]) * _UNITS[found[2]])
    return text


def _which_gpus(said: object) -> object:
    """Device numbers as Docker wants them; one error for a wrong value."""
    if isinstance(said, list) and said and all(type(device) in {int, str} for device in said):
        return tuple(map(str, said))
    if said in (None, "all") or (type(said) is int and said >= 1):
        return said
    raise ValueError(f"{said!r} is not 'all', how many (1), or a list of devices ([0, 1])")


class Strict(BaseModel):
    """What models.yaml says: a key that isn't known is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Batching(Strict):
    """BatchingParameters, as TensorFlow Serving names them; what isn't said is its default."""

    max_batch_size: Annotated[int, Field(ge=1, le=_MOST, description="Rows in a batch.")] = 1000
    batch_timeout_micros: Annotated[int, Field(ge=0, le=_MOST, description="How long a request waits for others.")] = 0
    max_enqueued_batches: Annotated[
        int, Field(ge=1, le=_MOST, description="Batches that wait; one more is UNAVAILABLE.")
    ] = 10
    num_batch_threads: Annotated[
        int | None, Field(ge=1, le=_MOST, description="Batches that run at a time; as many as CPUs.")
    ] = None
    allowed_batch_sizes: Annotated[
        tuple[Annotated[int, Field(ge=1, le=_MOST)], ...],
        Field(description="Sizes that batches are padded to, increasing; the last one is max_batch_size."),
    ] = ()
    pad_variable_length_inputs: Annotated[bool, Field(description="Pad inputs of different lengths.")] = False
    enable_large_batch_splitting: Annotated[bool, Field(description="Split requests that are larger.")] = False
    max_execution_batch_size: Annotated[
        int | None, Field(ge=1, le=_MOST, description="Rows that run at a time, when larger requests are split.")
    ] = None


class TlsFiles(Strict):
    """PEM files for TLS on gRPC, the only port where TensorFlow Serving has it. Relative to models.yaml."""

    certificate: Annotated[Path, Field(description="The server's certificate, with its chain.")]
    key: Annotated[Path, Field(description="Its private key.")]
    client_ca: Annotated[Path | None, Field(description="The authorities that clients' certificates are from.")] = None
    verify_clients: Annotated[bool, Field(description="Refuse clients that have none.")] = False


class Envoy(Strict):
    """A proxy before REST, which has no TLS in TensorFlow Serving. Files are relative to models.yaml."""

    image: Annotated[str, Field(description="Its image, by tag or digest.", pattern=_IMAGE_NAME)] = (
        "envoyproxy/envoy:v1.40.0"
    )
    port: Annotated[int, Field(ge=1, le=65535, description="Where it listens, with HTTPS.")] = 8443
    certificate: Annotated[Path, Field(description="Its certificate, with its chain, PEM.")]
    key: Annotated[Path, Field(description="The certificate's private key, PEM.")]
    client_ca: Annotated[
        Path | None, Field(description="The authorities that clients' certificates must be from; none are asked for.")
    ] = None
    split: Annotated[
        dict[str, Annotated[int, Field(ge=0, le=100)]],
        Field(
            description="By model, how many of 100 requests that name no version go to its canary; the others go "
            "to label `stable`."
        ),
    ] = {}


class Compose(Strict):
    """What `make up` starts beside the server."""

    prometheus: Annotated[str, Field(description="The image of Prometheus.", pattern=_IMAGE_NAME)] = (
        "prom/prometheus:v3.16.0"
    )
    prometheus_port: Annotated[int, Field(ge=1, le=65535, description="Where Prometheus listens.")] = 9090
    memory_exporter: Annotated[
        str | None,
        Field(
            description="The image of node-exporter, which tells Prometheus the server's memory; `null` for none.",
            pattern=_IMAGE_NAME,
        ),
    ] = "prom/node-exporter:v1.12.1"
    grafana: Annotated[str | None, Field(description="The image of Grafana; `null` for none.", pattern=_IMAGE_NAME)] = (
        "grafana/grafana:13.2.3"
    )
    grafana_port: Annotated[int, Field(ge=1, le=65535, description="Where Grafana listens.")] = 3000
    envoy: Annotated[Envoy | None, Field(description="TLS and a traffic split for REST; none when not given.")] = None


class ServerSettings(Strict):
    """How the fleet's server runs, whatever engine runs it; some settings are for containers alone."""

    image: Annotated[
        str | None,
        Field(
            description=f"The image, by tag or digest; {IMAGE}, or {IMAGE}-gpu with `gpus`, when not given.",
            pattern=_IMAGE_NAME,
        ),
    ] = None
    memory: Annotated[
        int | None,
        BeforeValidator(bytes_of),
        Field(ge=64 << 20, le=1 << 62, description="A container's limit, `2g` say; none when not given."),
    ] = None
    cpus: Annotated[float | None, Field(gt=0, le=100_000, description="A container's limit; none when not given.")] = (
        None
    )
    pids: Annotated[
        int | None,
        Field(
            ge=256,
            le=_MOST,
            description="A container's limit of processes and threads; what its models and threads need, and at least "
            "4096, when not given.",
        ),
    ] = None
    grpc_max_threads: Annotated[
        int,
        Field(
            ge=1,
            le=1 << 16,
            description="gRPC calls at a time: TensorFlow Serving refuses more. It starts a thread for each call when "
            "it comes. The embedded server lets calls wait instead, and does not read this.",
        ),
    ] = 1024
    rest_api_num_threads: Annotated[
        int,
        Field(
            ge=1,
            le=1 << 14,
            description="REST requests that TensorFlow Serving runs at a time; others wait. The embedded server does "
            "not read this.",
        ),
    ] = 256
    drain_seconds: Annotated[
        float,
        Field(ge=0, le=3600, description="How long a server that ends waits for requests in flight, at most."),
    ] = 60
    restart: Annotated[
        Literal["no", "on-failure", "unless-stopped", "always"],
        Field(description="When Docker starts a container again that ended."),
    ] = "unless-stopped"
    gpus: Annotated[
        Literal["all"] | int | tuple[str, ...] | None,
        BeforeValidator(_which_gpus),
        Field(description="`all`, how many, or which devices: [0, 1]."),
    ] = None
    gpu_memory_fraction: Annotated[
        float | None, Field(gt=0, le=1, description="--per_process_gpu_memory_fraction: the part taken at the start.")
    ] = None
    gpu_memory_growth: Annotated[
        bool, Field(description="Take GPU memory when it is needed instead of all of it at the start.")
    ] = False
    batching: Annotated[Batching | None, Field(description="Run requests together that wait; no, when not given.")] = (
        None
    )
    monitoring: Annotated[bool, Field(description="Have a page for Prometheus on the REST port.")] = True
    tls: Annotated[TlsFiles | None, Field(description="TLS on gRPC; none when not given.")] = None
    flags: Annotated[
        dict[str, str | int | float | bool],
        Field(description="More flags of tensorflow_model_server, by name without dashes."),
    ] = {}

    @model_validator(mode="after")
    def _flags_are_known(self) -> ServerSettings:
        from tfserving.serving.models_yaml.flag_names import GENERATED, wrong

        for name, value in self.flags.items():
            if name in GENERATED:
                raise ValueError(f"flags.{name}: the toolkit sets it; {GENERATED[name]} says what to")
            if problem := wrong(name, value):
                raise ValueError(f"flags.{name}: {problem}")
        return self

    @property
    def image_name(self) -> str:
        """The image that is asked for, or that fits."""
        return self.image or (f"{IMAGE}-gpu" if self.gpus else IMAGE)
