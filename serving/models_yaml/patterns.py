"""Patterns of texts in models.yaml, and what an error calls a text that matches."""

from __future__ import annotations

import re
from pathlib import Path

from tfserving.foundation.quality import FUNCTION as FUNCTION_PATTERN

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}")
# TensorFlow Serving's REST paths end a label at '/' and ':', and don't decode escapes:
# https://github.com/tensorflow/serving/blob/2.20.0/tensorflow_serving/model_servers/http_rest_api_handler.cc
# These characters need no escape in a URL (RFC 3986, section 2.3); '=' separates label and version in a command. The
# length is that of a label's value on Kubernetes.
LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
LABEL_WORDS = "1 to 63 letters, digits, '_', '.' and '-', the first a letter or digit, such as canary"

# https://mlflow.org/docs/latest/ml/tracking/artifact-stores and /ml/model-registry
_MLFLOW = re.compile(r"(models|runs):/.*", re.DOTALL)

FUNCTION = f"^{FUNCTION_PATTERN.pattern}$"
IMAGE = r"^[\w][\w.:/+-]*(@sha256:[0-9a-f]{64})?$"
KUBERNETES_NAME = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
NAME_PREFIX = r"^([a-z]([-a-z0-9]{0,28}[a-z0-9])?-)?$"
DOMAIN = r"^[a-z0-9]([-a-z0-9]{0,62})?(\.[a-z0-9]([-a-z0-9]{0,62})?)+$"
# https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#syntax-and-character-set
LABEL_KEY = r"^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$"
LABEL_VALUE = r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$"
# https://kubernetes.io/docs/concepts/configuration/manage-resources-containers/#extended-resources
EXTENDED_RESOURCE = r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$"
HOST = r"^(\*\.)?[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$"
DISK_SIZE = r"^\d+(Mi|Gi|Ti)$"
MEMORY_SIZE = r"^\d+(Mi|Gi)$"
CPUS = r"^\d+(\.\d+)?m?$"
BUCKET = r"^(s3|gs)://[^/\s]+\S*$"
PAGE = r"^https?://[^/\s#]+(/[^\s#]*)?$"
ENDPOINT = r"^https?://[^/\s:]+(:\d+)?/?$"
EXPECTED = {
    FUNCTION: "'module:function'",
    IMAGE: "the name of an image, such as tensorflow/serving:2.21.0 or NAME@sha256: and 64 digits",
    KUBERNETES_NAME: "a Kubernetes name: up to 63 lower-case letters, digits and '-'",
    NAME_PREFIX: "up to 31 lower-case letters, digits and '-', the first a letter and the last '-', such as fraud-",
    DOMAIN: "a domain, such as serving.example.com",
    LABEL_KEY: "the key of a label, such as team or example.com/team",
    LABEL_VALUE: "the value of a label: up to 63 letters, digits, '-', '_' and '.'",
    EXTENDED_RESOURCE: "the name of a node's resource, such as nvidia.com/gpu or nvidia.com/mig-1g.10gb",
    HOST: "a host name, such as models.example.com",
    DISK_SIZE: "a size such as 512Mi or 10Gi",
    MEMORY_SIZE: "a size such as 512Mi or 2Gi",
    CPUS: "a number of CPUs, such as 2 or 500m",
    BUCKET: "a URL such as s3://bucket/prefix or gs://bucket/prefix",
    PAGE: "the address of a page, such as https://wiki.example.com/runbooks",
    ENDPOINT: "a URL such as https://minio.example.com:9000",
}


def is_mlflow_uri(source: Path | str) -> bool:
    """Return whether `source` is a URI of MLflow's registry or of a run's artifacts, and no path."""
    return bool(_MLFLOW.fullmatch(str(source)))
