"""Versions become canaries by the real controller of Argo Rollouts, under load through the clients' Service."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster import argo_rollouts
from tests.cluster.node import Cluster
from tests.k8s import prometheus
from tests.k8s.deployed import ROOT, Pods, unapplied
from tests.k8s.load import BY_STABLE, UNLABELLED, Load
from tests.k8s.rolled import resealed
from tests.servers import wait_for
from tfserving.foundation.golden import RECORDS
from tfserving.k8s.rollout.state import State

MODELS = "models:\n  scaled:\n    builder: tests.scaled:build\n    labels: {{stable: {0}}}\n"
ROLLOUT = "rollout: {{window: 6, bake: 2, longest: 60, latency: 4, error_rate: 0.2, weights: [50, 100]}}\n"
KUBERNETES = (
    "kubernetes: {{namespace: {1}, components: [volume, argo-rollouts], cpu: 50m, memory: 1Gi, drain_seconds: 6, "
    "replicas: 1, max_replicas: 1, argo_rollouts: {{prometheus: '{2}'}}}}\n"
)


@dataclass
class Fleet(Pods):
    """A fleet whose versions Argo Rollouts rolls out."""

    prometheus: str

    def commits(self, version: int) -> None:
        """Has models.yaml say that clients get this version."""
        text = (MODELS + ROLLOUT + KUBERNETES).format(version, self.namespace, self.prometheus)
        (self.folder / "models.yaml").write_text(text)

    def toolkit(self, *words: str) -> None:
        """`tfserving WORDS` for this fleet."""
        self.run([sys.executable, "-m", "tfserving", *words, "--fleet", str(self.folder / "models.yaml")], 0)

    def measured(self) -> set[tuple[str, str]]:
        """Each measurement of a gate, and how it ended."""
        runs = json.loads(self.kubectl("get", "analysisruns", "--output=json"))["items"]
        found = [result for run in runs for result in run["status"].get("metricResults", [])]
        return {(result["name"], one["phase"]) for result in found for one in result["measurements"]}

    def settled(self) -> None:
        """Waits until only one server runs."""
        selector = "--selector=app.kubernetes.io/name=tensorflow-serving"
        wait_for(lambda: self.kubectl("get", "pods", selector, "--output=name").count("pod/") == 1, what="one pod")


@pytest.fixture(scope="module")
def fleet(
    cluster: Cluster,
    docker_host: str,
    toolkit: str,  # noqa: ARG001 - the image of the Job
    scaled_versions: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Fleet]:
    """A fleet at version 1, with its Prometheus."""
    if not cluster.has_image(prometheus.IMAGE):
        cluster.load_image(docker_host, prometheus.IMAGE)
    with argo_rollouts.running(cluster.kubectl):
        made = unapplied(cluster, scaled_versions, tmp_path_factory.mktemp("argo"), "")
        try:
            with prometheus.running(cluster, made.namespace) as address:
                fleet = Fleet(cluster, made.namespace, made.folder, address)
                fleet.commits(1)
                fleet.k8s("apply")
                wait_for(fleet.reachable, what="the Service's address")
                yield fleet
        finally:
            made.remove()


def moving(load: Load, old: int, new: int, phase: str) -> None:
    """Tells the load which of two versions are due."""
    load.enters(State("scaled", old, new, {}, (old,), (new,), strategy="pods", phase=phase))  # type: ignore[arg-type]


def test_the_golden_requests_and_the_figures_decide(fleet: Fleet) -> None:
    wrong = fleet.have(2)
    shutil.copy(fleet.folder / "later/3" / RECORDS, wrong / RECORDS)
    resealed(wrong, str(RECORDS))
    fleet.have(3)
    with fleet.load(rate=30, kinds=(UNLABELLED, BY_STABLE)) as load:
        # No client reaches a version whose outputs are wrong.
        fleet.commits(2)
        said = fleet.k8s("apply", "--wait", "600", code=1).stderr
        assert "the Rollout serving was stopped: RolloutAborted: " in said, said
        assert "2 of 2 comparisons failed, the first: scaled version 2, " in said, said
        assert set(load.versions) == {1}

        # Another one, by the commands of the page.
        page = (ROOT / "docs/argo_rollouts.md").read_text().replace("digits stable=2", "scaled stable=3")
        lines = "".join(re.findall(r"^```sh\n(.*?)^```$", page, re.M | re.S)).splitlines()
        assert lines == ["tfserving k8s apply", "tfserving labels set scaled stable=3", "tfserving k8s apply"]
        moving(load, 1, 3, "stable")
        for line in lines[1:]:
            words = line.split()[1:]
            fleet.toolkit(*words, *(["--wait", "600"] if words == ["k8s", "apply"] else []))
        fleet.settled()
        moving(load, 1, 3, "done")
        seen = load.versions[3]
        wait_for(lambda: load.versions[3] > seen + 20)
    assert load.failures == []
    measured = fleet.measured()
    assert {name for name, _ in measured} == {"verify", "errors", "latency"}
    assert {phase for name, phase in measured if name != "verify"} == {"Successful"}
    assert fleet.k8s("diff").stdout == ""
    assert "scaled: version 3 AVAILABLE, stable → 3. Clients get version 3" in fleet.k8s("status").stdout
