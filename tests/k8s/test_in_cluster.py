"""A rollout that a Job runs: it goes on without the one who started it, and without its pod."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.cluster.node import Cluster
from tests.docker.engine import TOOLKIT
from tests.k8s.deployed import ROOT, Pods
from tests.k8s.load import BY_STABLE, UNLABELLED
from tests.servers import wait_for
from tfserving.k8s.rollout.state import State

JOB = "serving-rollout-scaled"
# By in-place rollouts: what the account may do, and what it may not.
MAY = ("list pods", "update configmap/serving-models", "update lease.coordination.k8s.io/serving-rollout-scaled")
MAY_NOT = (
    "patch pods",
    "create pods/exec",
    "get secrets",
    "list configmaps",
    "update configmap/another",
    "patch deployment.apps/serving",
    "update role.rbac.authorization.k8s.io/serving-rollout",
)


def said(path: Path) -> str:
    return path.read_text()


def may(pods: Pods, what: str) -> bool:
    verb, resource = what.split()
    account = f"system:serviceaccount:{pods.namespace}:serving-rollout"
    words = ["auth", "can-i", verb, resource, f"--as={account}", f"--namespace={pods.namespace}"]
    command = [pods.cluster.program, "--kubeconfig", str(pods.cluster.kubeconfig), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() == "yes"


def test_it_outlives_its_client_and_its_pod(cluster: Cluster, docker_host: str, pods: Pods, tmp_path: Path) -> None:
    cluster.load_image(docker_host, TOOLKIT)
    pods.have(2)
    assert (
        "The Job serving-rollout-scaled runs it" in pods.rollout("start", "scaled", "--in-cluster", "--dry-run").stdout
    )
    assert pods.kubectl("get", "serviceaccounts", "serving-rollout", "--ignore-not-found") == ""

    with pods.load(kinds=(UNLABELLED, BY_STABLE)) as load:
        wait_for(lambda: load.answered > 20)
        first = tmp_path / "first"
        with first.open("w") as file:
            words = pods.command("start", "scaled", "--in-cluster", "--manual")
            client = subprocess.Popen(words, cwd=ROOT, env=pods.env, stderr=file, start_new_session=True)
        wait_for(lambda: "Paused before phase `stable`" in said(first) or client.poll() is not None, 120, said(first))
        client.send_signal(signal.SIGINT)
        assert client.wait(30) == 130, said(first)
        assert f"The Job {JOB} continues the rollout." in said(first)
        assert "golden requests of 1 model equal over gRPC and REST" in said(first)
        # Clients have moved nowhere, and the pods are reached at their own addresses.
        assert set(load.versions) == {1}
        assert pods.state()["running"]
        assert "rolls" in pods.rollout("pause", "scaled").stderr
        with ThreadPoolExecutor() as pool:
            assert list(pool.map(lambda one: may(pods, one), (*MAY, *MAY_NOT))) == [True] * len(MAY) + [False] * len(
                MAY_NOT
            )

        # Its pod is gone at once, and another one goes on with what was asked of it.
        selector = f"--selector=batch.kubernetes.io/job-name={JOB}"
        (pod,) = pods.kubectl("get", "pods", selector, "--output=name").split()
        load.enters(State("scaled", 1, 2, {"stable": 1}, (1,), (2,), phase="stable"))
        pods.kubectl("delete", pod, "--grace-period=0", "--force")
        assert "Sent `promote`" in pods.rollout("promote", "scaled").stderr
        done = pods.rollout("start", "scaled", "--in-cluster")
        assert "scaled version 2 is stable." in done.stderr, done.stderr
        load.enters(State("scaled", 1, 2, {"stable": 1}, (1,), (2,), phase="done"))
        seen = load.versions[2]
        wait_for(lambda: load.versions[2] > seen + 20)
    assert load.failures == []
    assert re.search(r"labels:\s+stable: 2\n", (pods.folder / "models.yaml").read_text())
    (job,) = json.loads(pods.kubectl("get", "jobs", "--output=json"))["items"]
    assert job["status"]["succeeded"] == 1
    assert not pods.state()["running"]
