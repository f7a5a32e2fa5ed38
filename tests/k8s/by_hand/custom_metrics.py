"""The autoscaler acts on requests in flight and per second: real servers, Prometheus and its adapter, the page's rules.

By hand, since the adapter takes minutes to build: `pytest tests/k8s/by_hand/custom_metrics.py`
"""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.cluster import aggregated, binaries
from tests.cluster.node import Cluster
from tests.k8s import prometheus
from tests.k8s.deployed import ROOT, Pods, unapplied
from tests.k8s.load import BY_STABLE, UNLABELLED
from tests.servers import wait_for

KUBERNETES = (
    "kubernetes: {{namespace: {0}, components: [volume], cpu: 50m, memory: 1Gi, drain_seconds: 4, replicas: 1, "
    "max_replicas: 2, autoscaling: {{cpu_percent: null, METRIC, scale_down_seconds: 0}}}}\n"
)

pytestmark = pytest.mark.timeout(1800)


def fetch(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310
            return str(answer.read())
    except OSError:
        return ""


@pytest.fixture
def fleet(cluster: Cluster, docker_host: str, scaled_versions: Path, tmp_path: Path) -> Iterator[Pods]:
    """A fleet that is yet to be applied, with an adapter that has the rules of the page."""
    binaries.build(binaries.ADAPTER)
    if not cluster.has_image(prometheus.IMAGE):
        cluster.load_image(docker_host, prometheus.IMAGE)
    page = (ROOT / "docs/kubernetes.md").read_text()
    (values,) = re.findall(r"^```yaml\n(rules:\n.*?)^```$", page, re.M | re.S)
    rules = yaml.safe_load(values)["rules"]["custom"]
    made = unapplied(cluster, scaled_versions, tmp_path, KUBERNETES.replace("METRIC", "requests_in_flight: 1"))
    try:
        with prometheus.running(cluster, made.namespace) as address:
            # Before that the adapter would reach somebody else there, and keep the connection.
            wait_for(lambda: "Ready" in fetch(f"{address}/-/ready"), what="Prometheus' address")
            with aggregated.prometheus_adapter(cluster, address, rules):
                yield made
    finally:
        made.remove()


@pytest.mark.parametrize("metric", ["requests_per_second: 40", "requests_in_flight: 0.05"])
def test_pods_come_with_requests_and_go_with_them(fleet: Pods, metric: str) -> None:
    fleet.say(KUBERNETES.replace("METRIC", metric))
    fleet.k8s("apply")
    wait_for(fleet.reachable, what="the Service's address")

    def replicas() -> int:
        return int(fleet.kubectl("get", "deployment", "serving", "--output=jsonpath={.spec.replicas}"))

    def average() -> str:
        """What the autoscaler found at last."""
        status = json.loads(fleet.kubectl("get", "hpa", "serving", "--output=json"))["status"]
        return str([one["pods"]["current"] for one in status.get("currentMetrics") or [] if one.get("pods")])

    with fleet.load(rate=100, kinds=(UNLABELLED, BY_STABLE)) as sent:
        wait_for(lambda: replicas() == 2, 240, "a second pod")
        print("under load:", average())
        fleet.kubectl("rollout", "status", "deployment/serving", "--timeout=120s")
        before = sent.answered
        wait_for(lambda: sent.answered > before + 300)
    assert sent.failures == []
    with fleet.load(rate=4, kinds=(UNLABELLED, BY_STABLE)) as sent:
        wait_for(lambda: replicas() == 1, 300, "one pod again")
        print("without:", average())
        before = sent.answered
        wait_for(lambda: sent.answered > before + 40)
    assert sent.failures == []
