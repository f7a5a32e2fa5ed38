"""A fleet as an InferenceService of a real KServe, under load through its Services."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.node import Cluster
from tests.k8s.deployed import Pods, unapplied
from tests.servers import wait_for

KSERVE = (
    "kubernetes: {{namespace: {0}, components: [volume, kserve], cpu: 50m, memory: 1Gi, drain_seconds: 4, "
    "replicas: 1}}\n"
)
MORE = KSERVE.replace("1Gi", "1100Mi")


@pytest.fixture
def service(kserve: Cluster, scaled_versions: Path, tmp_path: Path) -> Iterator[Pods]:
    """A fleet that is yet to be applied, as an InferenceService."""
    made = unapplied(kserve, scaled_versions, tmp_path, KSERVE)
    yield made
    made.remove()


def the(pods: Pods, kind: str, name: str = "serving-predictor") -> dict[str, Any]:
    return dict(json.loads(pods.kubectl("get", kind, name, "--output=json")))


def test_kserve_serves_replaces_rolls_out_and_deletes(service: Pods) -> None:
    pods = service
    assert "Every pod serves scaled." in pods.k8s("apply").stderr
    (found,) = json.loads(pods.k8s("status", "--json").stdout)["pods"]
    assert found["ready"]
    assert found["models"]["scaled"]["labels"] == {"stable": 1}
    assert pods.k8s("diff").stdout == ""

    # KServe's objects have our settings, and nothing leads to the pods but our Services and KServe's own.
    scaler = the(pods, "hpa")["spec"]
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (1, 10)
    assert scaler["metrics"][0]["resource"]["target"]["averageUtilization"] == 70
    deployment = the(pods, "deployment")["spec"]
    assert deployment["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    (container,) = deployment["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["cpu"] == "1k"
    assert pods.kubectl("get", "ingresses,httproutes", "--output=name") == ""
    assert the(pods, "service")["spec"]["ports"][0]["targetPort"] == 8501

    pods.have(2)
    wait_for(pods.reachable, what="the Service's address")
    with pods.load(rate=20) as load:
        wait_for(lambda: load.answered > 20)
        before = found["pod"]
        pods.say(MORE)
        pods.k8s("apply")
        (found,) = json.loads(pods.k8s("status", "--json").stdout)["pods"]
        assert found["pod"] != before
        assert found["ready"]
        done = pods.through(load, "start", "scaled")
        assert done.count("golden requests of 1 model equal over gRPC and REST") == 2, done
        seen = load.versions[2]
        wait_for(lambda: load.versions[2] > seen + 20)
    assert load.failures == []
    assert set(load.versions) == {1, 2}

    assert "`kserve`" in pods.rollout("start", "scaled", "--by-pods", code=2).stderr
    pods.k8s("delete")
    kinds = "inferenceservices,deployments,services,configmaps,hpa,pdb,pods"
    assert pods.kubectl("get", kinds, "--output=name", "--selector=app.kubernetes.io/instance=serving") == ""
