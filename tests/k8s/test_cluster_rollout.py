"""Rollouts over the pods of a real cluster, under load through its Service."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.node import Cluster
from tests.exporting import export_scaled
from tests.k8s.load import Load
from tests.k8s.test_rollout import MODELS, resealed
from tests.servers import wait_for
from tfserving.foundation.golden import RECORDS

ROOT = Path(__file__).resolve().parents[2]
ROLLOUT = "rollout: {window: 1, samples: 20, bake: 1, longest: 60, latency: 4, slack_ms: 100}\n"
KUBERNETES = "kubernetes: {{namespace: {0}, components: [volume], cpu: 50m, memory: 1Gi, drain_seconds: 6}}\n"


def volume(name: str, models: Path) -> str:
    """A namespace with restricted Pod Security, and a volume in it that has the models."""
    claim = {"accessModes": ["ReadOnlyMany"], "storageClassName": name}
    metadata: dict[str, Any] = {"name": name, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}
    capacity = {"storage": "1Gi"}
    items = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata},
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": name},
            "spec": {**claim, "capacity": capacity, "hostPath": {"path": str(models), "type": "Directory"}},
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "models", "namespace": name},
            "spec": {**claim, "resources": {"requests": capacity}},
        },
    ]
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})


@dataclass
class Pods:
    """A fleet of `scaled` in a namespace of its own, and the toolkit's rollouts of it."""

    cluster: Cluster
    namespace: str
    folder: Path

    def kubectl(self, *words: str) -> str:
        return self.cluster.kubectl("--namespace", self.namespace, *words)

    def settled(self) -> None:
        self.kubectl("rollout", "status", "deployment/serving", "--timeout=180s")
        wait_for(lambda: len(json.loads(self.kubectl("get", "pods", "--output=json"))["items"]) == 2, what="two pods")

    def load(self, model: str = "scaled") -> Load:
        address = self.kubectl("get", "service", "serving", "--output=jsonpath={.spec.clusterIP}")
        return Load((f"grpc://{address}:8500", f"http://{address}:8501"), model=model)

    def have(self, version: int) -> Path:
        target = self.folder / "models/scaled" / str(version)
        shutil.copytree(self.folder / "later" / str(version), target)
        subprocess.run(["chmod", "-R", "a+rX", str(target)], check=True)
        return target

    def command(self, *words: str) -> list[str]:
        return [
            sys.executable,
            "-m",
            "tfserving",
            "k8s",
            "rollout",
            *words,
            "--cluster",
            "--fleet",
            str(self.folder / "models.yaml"),
        ]

    @property
    def env(self) -> dict[str, str]:
        path = f"{Path(self.cluster.program).parent}:{os.environ['PATH']}"
        return {**os.environ, "KUBECONFIG": str(self.cluster.kubeconfig), "PATH": path}

    def rollout(self, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        return self.run(self.command(*words), code)

    def k8s(self, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """`tfserving k8s WORDS` for this fleet; it must exit with `code`."""
        return self.run(
            [sys.executable, "-m", "tfserving", "k8s", *words, "--fleet", str(self.folder / "models.yaml")], code
        )

    def say(self, kubernetes: str, models: str = MODELS) -> None:
        """Has models.yaml say this of the cluster."""
        (self.folder / "models.yaml").write_text(models + ROLLOUT + kubernetes.format(self.namespace))

    def run(self, words: list[str], code: int) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(words, cwd=ROOT, env=self.env, capture_output=True, text=True, check=False)
        assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr
        return done

    def killed_at(self, step: str, *words: str, held: bool = False) -> None:
        """Starts a rollout, or goes on with one, and kills it as soon as it says that it is at `step`."""
        command = self.command("start", "scaled", *words)
        with subprocess.Popen(command, cwd=ROOT, env=self.env, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            said = []
            for line in process.stderr:
                said.append(line)
                if line.startswith(step):
                    break
            else:
                pytest.fail(f"it never came to {step!r}:\n{''.join(said)}")
            if held:
                # Nobody else may as long as it lives.
                assert "is being rolled out by" in self.rollout("start", "scaled", code=2).stderr
            process.kill()
        wait_for(lambda: not self.state()["running"], what="the end of its lease")

    def state(self) -> dict[str, Any]:
        return dict(json.loads(self.rollout("status", "scaled", "--json").stdout)["rollout"])


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Versions 1 to 4 of `scaled`, whose scales these are; 4 is slow."""
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "models.yaml").write_text(MODELS.replace("    labels: {stable: 1}\n", ""))
    export_scaled(folder / "models.yaml", (1, 2, 3, 4), slow=4)
    return folder


@pytest.fixture
def pods(cluster: Cluster, exported: Path, tmp_path: Path) -> Iterator[Pods]:
    made = Pods(cluster, f"rollout-{uuid.uuid4().hex[:8]}", tmp_path / "fleet")
    shutil.copytree(exported / "models/scaled", made.folder / "later")
    (made.folder / "models/scaled").mkdir(parents=True)
    made.say(KUBERNETES)
    made.have(1)
    try:
        cluster.apply(volume(made.namespace, made.folder / "models"), made.namespace)
        done = made.k8s("apply")
        assert "Every pod serves scaled." in done.stderr, done.stderr
        yield made
    finally:
        cluster.run("delete", "namespace", made.namespace, "--wait=false")
        cluster.run("delete", "persistentvolume", made.namespace, "--wait=false")


def test_what_is_applied_is_proven_told_and_removed(pods: Pods) -> None:
    found = pods.kubectl("get", "service", "serving", "--output=jsonpath={.spec.clusterIP}")
    servers = ["--grpc", f"{found}:8500", "--rest", f"{found}:8501"]
    verify = [sys.executable, "-m", "tfserving", "client", "verify", str(pods.folder / "models/scaled/1"), *servers]
    assert "all 5 golden requests of 1 model equal" in pods.run(verify, 0).stdout
    status = json.loads(pods.k8s("status", "--json").stdout)["pods"]
    assert [(pod["ready"], pod["restarts"], pod["trouble"]) for pod in status] == [(True, 0, None)] * 2

    # A label that only a rollout may move, and pods that don't come up, are told; the old ones go on serving.
    moved = (pods.folder / "models.yaml").read_text().replace("stable: 1", "stable: 2")
    pods.have(2)
    (pods.folder / "models.yaml").write_text(moved)
    said = pods.k8s("apply", code=1).stderr
    assert "`tfserving k8s rollout start scaled VERSION --cluster` moves them" in said
    for setting, reason in (
        ("image: nowhere.invalid/none:1", "image nowhere.invalid/none:1 can't be had: "),
        ("cpu: '4000'", "finds no node: 0/1 nodes are available: 1 Insufficient cpu"),
        ("memory: 64Mi", "ran out of memory; `kubernetes.memory` gives it more"),
    ):
        key = setting.partition(":")[0]
        kept = [part for part in KUBERNETES.strip().removesuffix("}}").split(", ") if not part.startswith(f"{key}:")]
        pods.say(", ".join([*kept, setting]) + "}}\n")
        assert reason in pods.k8s("apply", code=1).stderr, setting
        with pods.load() as load:
            wait_for(lambda load=load: load.answered > 10)  # type: ignore[misc]
        assert load.failures == []

    pods.k8s("delete")
    assert pods.k8s("status").stdout == "No pods; `tfserving k8s apply` makes them.\n"
    kinds = "deployments,services,configmaps,serviceaccounts,hpa,pdb,networkpolicies"
    left = pods.kubectl("get", kinds, "--output=name", "--selector=app.kubernetes.io/instance=serving")
    assert left == ""


def test_a_version_takes_over_on_every_pod_under_load_and_goes_back(pods: Pods) -> None:
    pods.have(2)
    with pods.load() as load:
        wait_for(lambda: load.answered > 50)
        done = pods.rollout("start", "scaled")
        assert done.stderr.count("golden requests of 1 model equal over gRPC and REST") == 4, done.stderr
        assert "scaled version 2 is stable." in done.stderr
        seen = load.versions[2]
        wait_for(lambda: load.versions[2] > seen + 20)

        # What pods start with is what is served.
        pods.kubectl("rollout", "restart", "deployment/serving")
        pods.settled()
        one = load.versions[1]
        seen = load.versions[2]
        wait_for(lambda: load.versions[2] > seen + 20)
        assert load.versions[1] == one

        pods.rollout("undo", "scaled")
        seen = load.versions[1]
        wait_for(lambda: load.versions[1] > seen + 20)
    assert load.failures == []
    assert "stable: 1" in (pods.folder / "models.yaml").read_text()
    assert pods.kubectl("get", "leases", "--output=name") == ""


def test_what_is_worse_is_stopped_and_pods_come_and_go(pods: Pods) -> None:
    wrong = pods.have(2)
    shutil.copy(pods.folder / "later/3" / RECORDS, wrong / RECORDS)
    resealed(wrong, RECORDS)
    broken = pods.have(3)
    (broken / "saved_model.pb").write_bytes(b"\x08\x01broken")
    resealed(broken, "saved_model.pb")
    shutil.copytree(pods.have(4), half := pods.folder / "models/scaled/5")
    next((half / "variables").glob("variables.data*")).unlink()
    with pods.load() as load:
        for version, code, reason in (
            (2, 1, "rolled back: proving: serving-"),
            (3, 1, "rolled back: loading: model 'scaled': version 3 END"),
            (4, 1, "rolled back: canary: serving-"),
            (5, 2, "No such file or directory, and the manifest lists it"),
        ):
            assert reason in pods.rollout("start", "scaled", str(version), code=code).stderr, version
        assert pods.state()["phase"] == "rolled-back"
        pods.kubectl("scale", "deployment/serving", "--replicas=3")
        pods.kubectl("rollout", "status", "deployment/serving", "--timeout=180s")
        pods.kubectl("scale", "deployment/serving", "--replicas=2")
        pods.settled()
    assert load.failures == []
    assert set(load.versions) == {1}


def test_another_model_is_answered_as_quickly_meanwhile(pods: Pods) -> None:
    pods.k8s("delete")
    models = f"{MODELS}  other:\n    builder: tests.scaled:build\n    labels: {{stable: 1}}\n"
    pods.say(KUBERNETES, models)
    export_scaled(pods.folder / "models.yaml", (1,), model="other")
    subprocess.run(["chmod", "-R", "a+rX", str(pods.folder / "models")], check=True)
    pods.k8s("apply")
    pods.have(2)
    with pods.load() as moved, pods.load("other") as other:
        wait_for(lambda: other.answered > 300)
        before, alone = len(other.seconds), other.p99()
        pods.rollout("start", "scaled")
        meanwhile = other.p99(before)
    assert moved.failures == other.failures == []
    assert set(other.versions) == {1}
    # Both share two processors with the cluster and with who rolls out.
    assert meanwhile < max(3 * alone, alone + 0.1), (alone, meanwhile)


def test_clients_that_try_again_miss_no_pod_that_is_killed(pods: Pods) -> None:
    with pods.load() as load:
        wait_for(lambda: load.answered > 50)
        pod = pods.kubectl("get", "pods", "--output=name").split()[0]
        # At once, without leaving the Services first and without answering what it was asked.
        pods.kubectl("delete", pod, "--grace-period=0", "--force")
        pods.settled()
        answered = load.answered
        wait_for(lambda: load.answered > answered + 50)
    assert load.failures == []


def test_one_that_is_killed_at_every_step_is_gone_on_with_by_another(pods: Pods) -> None:
    pods.have(2)
    with pods.load() as load:
        for step in ("Loading", "Asking", "Label canary", "Label stable", "Baking", "Unloading"):
            pods.killed_at(step, held=step == "Label stable")
        pods.rollout("start", "scaled")
        seen = load.versions[2]
        wait_for(lambda: load.versions[2] > seen + 20)
    assert load.failures == []
    assert pods.state()["phase"] == "done"


def test_the_page_is_followed(pods: Pods) -> None:
    """The toolkit's commands on it, from top to bottom, of another model, whose version 2 is exported meanwhile."""
    page = (ROOT / "docs/kubernetes.md").read_text().replace("digits", "scaled")
    lines = "".join(re.findall(r"^```sh\n(.*?)^```$", page, re.M | re.S)).splitlines()
    commands = [line.split()[3:] for line in lines if line.startswith("tfserving k8s ")]
    assert [words[0] for words in commands] == ["apply", "apply", "status", "rollout", "rollout", "delete"]
    pods.have(2)
    with pods.load() as load:
        for words in commands[:-1]:
            pods.k8s(*words)
    assert load.failures == []
    assert set(load.versions) == {1, 2}
    pods.k8s(*commands[-1])
