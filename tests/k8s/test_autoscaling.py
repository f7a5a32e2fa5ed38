"""The autoscaler with a real metrics-server: pods come and go under load, and no request is lost."""

from __future__ import annotations

import json

import pytest

from tests.cluster.node import Cluster
from tests.k8s.deployed import Pods
from tests.k8s.load import BY_STABLE, UNLABELLED, Load
from tests.servers import wait_for

# An idle pod takes 3m of CPU time, and a request 0.6 ms.
KUBERNETES = (
    "kubernetes: {{namespace: {0}, components: [volume], cpu: 50m, memory: 1Gi, drain_seconds: 4, max_replicas: 3, "
    "autoscaling: {{cpu_percent: 20, scale_down_seconds: 0}}}}\n"
)


def load(fleet: Pods, rate: float) -> Load:
    return fleet.load(rate=rate, kinds=(UNLABELLED, BY_STABLE))


def pods_ready(fleet: Pods) -> int:
    """How many pods are ready, of those that aren't about to end."""
    found = json.loads(fleet.kubectl("get", "pods", "--output=json"))["items"]
    conditions = [pod["status"].get("conditions", ()) for pod in found if "deletionTimestamp" not in pod["metadata"]]
    return sum(any(one["type"] == "Ready" and one["status"] == "True" for one in of) for of in conditions)


@pytest.fixture
def fleet(no_pods: Pods) -> Pods:
    """A fleet of two pods."""
    no_pods.say(KUBERNETES)
    no_pods.k8s("apply")
    return no_pods


def test_pods_come_with_the_load_and_go_with_it(
    fleet: Pods,
    metrics_server: Cluster,  # noqa: ARG001 - it needs pods
) -> None:
    def replicas() -> int:
        return int(fleet.kubectl("get", "deployment", "serving", "--output=jsonpath={.spec.replicas}"))

    def idle() -> bool:
        status = json.loads(fleet.kubectl("get", "hpa", "serving", "--output=json"))["status"]
        metrics = [one for one in status.get("currentMetrics") or [] if one.get("resource")]
        return bool(metrics) and metrics[0]["resource"]["current"]["averageUtilization"] < 15 and replicas() == 2

    wait_for(idle, 90, "two idle pods")
    with load(fleet, 80) as sent:
        wait_for(lambda: pods_ready(fleet) == 3, 120, "a third pod")
        before = sent.answered
        wait_for(lambda: sent.answered > before + 100)
    assert sent.failures == []
    with load(fleet, 4) as sent:
        wait_for(lambda: replicas() == pods_ready(fleet) == 2, 120, "two pods again")
        before = sent.answered
        # Clients of the pod that ends find another one.
        wait_for(lambda: sent.answered > before + 30)
    assert sent.failures == []
