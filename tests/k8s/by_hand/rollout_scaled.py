"""The second Deployment of a rollout by pods is scaled, and the first one keeps its pods, under load.

By hand, since it takes minutes: `pytest tests/k8s/by_hand/rollout_scaled.py`
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.node import Cluster
from tests.k8s.deployed import Pods, unapplied
from tests.k8s.load import BY_STABLE, UNLABELLED, Load
from tests.servers import wait_for

KUBERNETES = (
    "kubernetes: {{namespace: {0}, components: [volume, gateway], cpu: 50m, memory: 1Gi, drain_seconds: 4, "
    "replicas: 1, max_replicas: 2, autoscaling: {{cpu_percent: 20, scale_down_seconds: 0}}, "
    "gateway: {{name: contour, namespace: projectcontour, hostname: {0}.test}}}}\n"
)

pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def fleet(cluster: Cluster, scaled_versions: Path, tmp_path: Path) -> Iterator[Pods]:
    made = unapplied(cluster, scaled_versions, tmp_path, KUBERNETES)
    try:
        assert "Every pod serves scaled." in made.k8s("apply").stderr
        yield made
    finally:
        made.remove()


def load(fleet: Pods, rate: float) -> Load:
    status = "jsonpath={.status.addresses[0].value}"
    gateway = fleet.cluster.kubectl("-n", "projectcontour", "get", "gateway", "contour", "-o", status)
    # gRPC's host can't be set for one client.
    return Load((f"http://{gateway}:80",), host=f"{fleet.namespace}.test", kinds=(UNLABELLED, BY_STABLE), rate=rate)


def counts(fleet: Pods) -> dict[str, int]:
    """How many pods each Deployment is to have."""
    found = json.loads(fleet.kubectl("get", "deployments", "--output=json"))["items"]
    return {one["metadata"]["name"]: one["spec"]["replicas"] for one in found}


def test_both_deployments_have_the_pods_that_the_load_needs(
    fleet: Pods,
    metrics_server: Cluster,  # noqa: ARG001 - it needs pods
) -> None:
    fleet.have(2)
    wait_for(lambda: counts(fleet) == {"serving": 1}, 120, "one idle pod")
    seen: list[dict[str, int]] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(1):
            if (now := counts(fleet)) not in seen[-1:]:
                seen.append(now)

    watching = threading.Thread(target=look)
    watching.start()
    try:
        with load(fleet, 6) as sent, fleet.following("start", "scaled", "--by-pods") as rollout:
            wait_for(lambda: sent.answered > 20)
            # All requests go to the second Deployment, and it holds there.
            assert rollout.until("baking", sent.enters), rollout.said
            with load(fleet, 80) as more:
                more.enters(rollout.states[-1])
                wait_for(lambda: counts(fleet)["serving-canary"] == 2, 180, "a second new pod")
                ready = ("rollout", "status", "deployment/serving-canary", "--timeout=120s")
                fleet.kubectl(*ready)
                before = more.answered
                wait_for(lambda: more.answered > before + 200)
            assert more.failures == []
            rollout.until(None, sent.enters)
            assert rollout.process.returncode == 0, rollout.said
            wait_for(lambda: counts(fleet) == {"serving": 1}, 120, "one pod again")
        assert sent.failures == []
    finally:
        over.set()
        watching.join()
    print(seen)
    # As long as there is a second Deployment, the first one loses no pod, however idle it is.
    first = [one["serving"] for one in seen if "serving-canary" in one]
    assert first == sorted(first)
    assert first[-1] == 2
