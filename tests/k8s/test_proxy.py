"""The component `proxy`: what Envoy passes on to a server, and what is lost when pods are replaced."""

from __future__ import annotations

import subprocess
import urllib.error
import urllib.request

import grpc

from tests.k8s.called import code_of
from tests.k8s.deployed import Pods
from tests.k8s.replaced import clients, restart

PATHS = {
    "/v1/models/scaled": 200,
    "/v1/models/scaled/labels/stable/metadata": 200,
    "/v1/models/none": 404,
    "/v1/modelsx": 404,
    "/monitoring/prometheus/metrics": 404,
    "/v1/models/../../monitoring/prometheus/metrics": 404,
    "/v1/models/..%2f..%2fmonitoring/prometheus/metrics": 400,
    "/alive": 404,
}
METHODS = {
    ("ModelService/GetModelStatus", "GetModelStatusRequest"): grpc.StatusCode.OK,
    # It gets to the server, which misses the inputs.
    ("PredictionService/Predict", "PredictRequest"): grpc.StatusCode.INVALID_ARGUMENT,
    ("ModelService/HandleReloadConfigRequest", "ReloadConfigRequest"): grpc.StatusCode.UNIMPLEMENTED,
}


def address(pods: Pods) -> str:
    return pods.kubectl("get", "service", "serving", "--output=jsonpath={.spec.clusterIP}")


def test_envoy_passes_on_requests_and_nothing_that_changes_or_measures_the_server(proxied: Pods) -> None:
    def status(path: str) -> int:
        try:
            with urllib.request.urlopen(f"http://{address(proxied)}:8501{path}", timeout=10) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code

    assert {path: status(path) for path in PATHS} == PATHS
    with grpc.insecure_channel(f"{address(proxied)}:8500") as channel:
        assert {one: code_of(channel, *one) for one in METHODS} == METHODS


def test_no_request_is_lost_while_pods_are_replaced_and_none_of_them_fails(proxied: Pods) -> None:
    """`python -m tests.k8s.replaced` does the same for 20,000 requests."""
    words = ["--namespace", proxied.namespace, "get", "pods", "--watch", "--output=jsonpath={.status.phase} "]
    command = [proxied.cluster.program, "--kubeconfig", str(proxied.cluster.kubeconfig), *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watch:
        try:
            with clients(proxied) as load:
                restart(proxied)
        finally:
            watch.kill()
        assert watch.stdout is not None
        phases = set(watch.stdout.read().split())
    assert load.lost == []
    assert min(load.answered["REST"], load.answered["gRPC"]) > 100
    assert load.closed > 10
    # The old pod's end.
    assert phases == {"Pending", "Running", "Succeeded"}
