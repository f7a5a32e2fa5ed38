"""Where pods get the models from with the component `object-store`: `kubernetes.object_store` in models.yaml."""

from __future__ import annotations

import contextlib
import ipaddress
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from tfserving.serving.models_yaml import patterns
from tfserving.serving.models_yaml.errors import shown
from tfserving.serving.models_yaml.server import Strict

_HTTPS = 443


def _network(text: str) -> str:
    """Return addresses with a mask. Raises ValueError."""
    try:
        return str(ipaddress.ip_network(text))
    except ValueError:
        raise ValueError(f"got {shown(text)}, expected addresses such as 10.1.2.0/24") from None


Cidr = Annotated[str, AfterValidator(_network)]


class Egress(Strict):
    """Where the network policy lets pods of the component `object-store` connect to."""

    cidrs: Annotated[
        tuple[Cidr, ...],
        Field(description="Addresses of the store, such as `10.1.2.0/24`. Default: all public addresses."),
    ] = ()
    namespace: Annotated[
        str | None,
        Field(
            description="The namespace of the store, if its pods are in this cluster.",
            pattern=patterns.KUBERNETES_NAME,
        ),
    ] = None
    ports: Annotated[
        tuple[Annotated[int, Field(ge=1, le=65535)], ...],
        Field(description="Ports of the store, or of its pods. Default: the port of `endpoint`, or 443."),
    ] = ()
    dns: Annotated[
        tuple[Cidr, ...],
        Field(
            description="Addresses of DNS servers other than the pods `kube-dns` of `kube-system`, such as "
            "`169.254.20.10/32`."
        ),
    ] = ()


class ObjectStore(Strict):
    """For the component `object-store`: the place of the versions that `tfserving export publish` copied."""

    url: Annotated[
        str,
        Field(description="The folder with MODEL/VERSION, such as `s3://bucket/prefix`.", pattern=patterns.BUCKET),
    ]
    endpoint: Annotated[
        str | None,
        Field(description="The address of an S3 service other than Amazon's.", pattern=patterns.ENDPOINT),
    ] = None
    secret: Annotated[
        str | None,
        Field(
            description="The Secret with the file `credentials` of AWS, or with `key.json` of a Google account. Not "
            "needed if the pods' ServiceAccount has access.",
            pattern=patterns.KUBERNETES_NAME,
        ),
    ] = None
    account_annotations: Annotated[
        dict[str, str],
        Field(
            description="Annotations of the ServiceAccount that give it a role in a cloud, such as "
            "`eks.amazonaws.com/role-arn`."
        ),
    ] = Field(default_factory=dict)
    interval: Annotated[int, Field(ge=1, le=1800, description="Seconds between checks for new versions.")] = 30
    newest: Annotated[
        int, Field(ge=1, description="Versions of each model that a pod keeps, in addition to those it serves.")
    ] = 2
    size: Annotated[str, Field(description="Disk space for the versions.", pattern=patterns.DISK_SIZE)] = "10Gi"
    egress: Annotated[Egress, Field(description="Where the network policy lets pods connect to.")] = Egress()

    @model_validator(mode="after")
    def _is_reached(self) -> ObjectStore:
        in_cluster = "." not in self._host or ".svc." in f"{self._host}."
        if self.endpoint and in_cluster and not (self.egress.cidrs or self.egress.namespace):
            raise ValueError(
                f"endpoint is {self.endpoint}, in this cluster. Set egress.namespace to the namespace of its pods, and "
                "egress.ports to their ports"
            )
        return self

    @property
    def scheme(self) -> Literal["s3", "gs"]:
        """The kind of store."""
        return "s3" if self.url.startswith("s3://") else "gs"

    @property
    def key_file(self) -> str:
        """The key of the Secret, and the name of its file."""
        return {"s3": "credentials", "gs": "key.json"}[self.scheme]

    @property
    def key_variable(self) -> str:
        """The variable by which the store's library finds that file."""
        return {"s3": "AWS_SHARED_CREDENTIALS_FILE", "gs": "GOOGLE_APPLICATION_CREDENTIALS"}[self.scheme]

    @property
    def cidrs(self) -> tuple[str, ...]:
        """The addresses of the store, if they are known."""
        if not self.egress.cidrs and self.endpoint and not self.egress.namespace:
            with contextlib.suppress(ValueError):
                return (str(ipaddress.ip_network(self._host)),)
        return self.egress.cidrs

    @property
    def ports(self) -> tuple[int, ...]:
        """The ports of the store."""
        if self.egress.ports or not self.endpoint:
            return self.egress.ports or (_HTTPS,)
        parts = urlsplit(self.endpoint)
        return (parts.port or (_HTTPS if parts.scheme == "https" else 80),)

    @property
    def _host(self) -> str:
        return urlsplit(self.endpoint or "").hostname or ""
