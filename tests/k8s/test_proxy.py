"""The component `proxy`: Envoy in front of the server. It loses no request when pods are replaced."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator

import grpc
import pytest

from tests.cluster.node import Cluster
from tests.k8s.deployed import Pods, unapplied
from tests.k8s.replaced import KUBERNETES, clients_of, restart
from tests.servers import wait_for
from tfserving.foundation.messages import message
from tfserving.serving.models_yaml.server import ENVOY

METHODS = {
    "tensorflow.serving.ModelService/GetModelStatus": (grpc.StatusCode.OK, "GetModelStatusRequest"),
    # It gets to the server, which misses the inputs.
    "tensorflow.serving.PredictionService/Predict": (grpc.StatusCode.INVALID_ARGUMENT, "PredictRequest"),
    "tensorflow.serving.ModelService/HandleReloadConfigRequest": (grpc.StatusCode.UNIMPLEMENTED, None),
}
PATHS = {
    "/v1/models/scaled": 200,
    "/v1/models/scaled/labels/stable/metadata": 200,
    "/v1/models/none": 404,
    "/monitoring/prometheus/metrics": 404,
    "/v1/models/%2e%2e/%2e%2e/monitoring/prometheus/metrics": 404,
    "/v1/models/..%2f..%2fmonitoring/prometheus/metrics": 400,
    "/alive": 404,
}


@pytest.fixture(scope="module")
def proxied(
    cluster: Cluster, docker_host: str, scaled_versions: object, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pods]:
    """A pod with the proxy."""
    if not cluster.has_image(ENVOY):
        cluster.load_image(docker_host, ENVOY)
    pods = unapplied(cluster, scaled_versions, tmp_path_factory.mktemp("proxied"), KUBERNETES.format(", proxy", 1))
    try:
        pods.k8s("apply")
        wait_for(pods.reachable, what="the Service's address")
        yield pods
    finally:
        pods.remove()
