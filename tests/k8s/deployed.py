"""A fleet of `scaled` on pods of a cluster, and the toolkit's commands for it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from tests.cluster.node import Cluster
from tests.k8s.followed import Followed, followed
from tests.k8s.load import Load
from tests.k8s.rolled import MODELS
from tests.servers import wait_for
from tfserving.k8s.names import Names
from tfserving.k8s.rollout.state import Phase
from tfserving.serving.models_yaml.fleet import read_fleet

ROOT = Path(__file__).resolve().parents[2]
# Of 5 % of the requests, the smallest share without this, it takes 20 seconds to be sure.
ROLLOUT = (
    "rollout: {window: 0.3, bake: 0.5, longest: 30, latency: 8, error_rate: 0.2, probe: 30, weights: [25, 50, 100]}\n"
)
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

    def load(self, model: str = "scaled", **settings: Any) -> Load:
        address = self.kubectl("get", "service", "serving", "--output=jsonpath={.spec.clusterIP}")
        return Load((f"grpc://{address}:8500", f"http://{address}:8501"), model=model, **settings)

    def reachable(self) -> bool:
        """Whether the Service leads to a server, over both protocols."""
        address = self.kubectl("get", "service", "serving", "--output=jsonpath={.spec.clusterIP}")
        with contextlib.ExitStack() as stack:
            probes = [stack.enter_context(socket.socket()) for _ in range(2)]
            return all(probe.connect_ex((address, port)) == 0 for probe, port in zip(probes, (8500, 8501), strict=True))

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

    def k8s(self, *words: str, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        """`tfserving k8s WORDS` for this fleet; it must exit with `code`, if any."""
        return self.run(
            [sys.executable, "-m", "tfserving", "k8s", *words, "--fleet", str(self.folder / "models.yaml")], code
        )

    def say(self, kubernetes: str, models: str = MODELS) -> None:
        """Has models.yaml say this of the cluster."""
        (self.folder / "models.yaml").write_text(models + ROLLOUT + kubernetes.format(self.namespace))

    def run(self, words: list[str], code: int | None) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(words, cwd=ROOT, env=self.env, capture_output=True, text=True, check=False)
        assert code is None or done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr
        return done

    @contextlib.contextmanager
    def following(self, *words: str) -> Iterator[Followed]:
        """A rollout that holds wherever a phase begins."""
        with followed(self.command(*words)[3:], self.folder / "followed.txt", self.env) as rollout:
            yield rollout

    def through(self, load: Load, *words: str, code: int = 0) -> str:
        """A rollout to its end, of whose phases `load` hears before they begin; returns what it printed."""
        with self.following(*words) as rollout:
            rollout.until(None, load.enters)
            assert rollout.process.returncode == code, rollout.said
            assert "Traceback" not in rollout.said
            return rollout.said

    def killed_at(self, phase: Phase, load: Load, *words: str, weight: int = 0, held: bool = False) -> None:
        """Starts a rollout, or goes on with one, and kills it where `phase` begins.

        With `held` nobody else may roll out as long as it lives, and then until nobody has renewed its lease for the
        time that this says. Without, the lease is made as old as that.
        """
        with self.following("start", "scaled", *words) as rollout:
            assert rollout.until(phase, load.enters, weight), rollout.said
            if held:
                assert " is rolling out 'scaled'" in self.rollout("start", "scaled", code=2).stderr
            rollout.kill()
        (lease,) = json.loads(self.kubectl("get", "leases", "--output=json"))["items"]
        seconds = timedelta(seconds=lease["spec"]["leaseDurationSeconds"])
        if held:
            renewed = datetime.fromisoformat(lease["spec"]["renewTime"].replace("Z", "+00:00"))
            wait_for(lambda: datetime.now(timezone.utc) > renewed + seconds, what="the end of its lease")
        else:
            before = (datetime.now(timezone.utc) - seconds).isoformat(timespec="microseconds").replace("+00:00", "Z")
            renewed_before = json.dumps({"spec": {"renewTime": before}})
            self.kubectl("patch", "lease", lease["metadata"]["name"], "--type=merge", f"--patch={renewed_before}")
        assert not self.state()["running"]

    def lose_a_pod(self, load: Load, track: str = "stable", *, drained: bool = False) -> None:
        """Deletes one of the pods, which drains, waited for with `drained`; another one takes its place.

        A pod that drains goes on with the version that it has: no rollout changes that any more.
        """
        load.some_end()
        selector = f"--selector={Names().pods(track)}"
        pod = self.kubectl("get", "pods", "--output=name", "--field-selector=status.phase=Running", selector).split()[0]
        self.kubectl("delete", pod, f"--wait={str(drained).lower()}")

    def is_back(self, kubernetes: str) -> bool:
        """Takes away what a test has brought; whether the pods are then as they were before it."""
        self.say(kubernetes)
        self.kubectl("delete", "configmaps,leases", f"--selector={Names().rollouts}")
        for version in (self.folder / "models/scaled").iterdir():
            if version.name != "1":
                shutil.rmtree(version)
        status = self.k8s("status", "--json", code=None)
        found = json.loads(status.stdout)["pods"] if not status.returncode else []
        served = [pod["models"]["scaled"] for pod in found if pod["ready"] and "scaled" in pod["models"]]
        right = [
            one["labels"] == {"stable": 1}
            and [found["version"] for found in one["versions"] if found["state"] == "AVAILABLE"] == [1]
            for one in served
        ]
        wanted = read_fleet(self.folder / "models.yaml").kubernetes.replicas
        return len(found) == wanted == sum(right) and not self.k8s("diff", code=None).returncode

    def remove(self) -> None:
        self.cluster.run("delete", "namespace", self.namespace, "--wait=false")
        self.cluster.run("delete", "persistentvolume", self.namespace, "--wait=false")

    def state(self) -> dict[str, Any]:
        return dict(json.loads(self.rollout("status", "scaled", "--json").stdout)["rollouts"][0])


def unapplied(cluster: Cluster, versions: Path, folder: Path, kubernetes: str) -> Pods:
    """A fleet that has version 1, in a new namespace with nothing but the volume."""
    made = Pods(cluster, f"rollout-{uuid.uuid4().hex[:8]}", folder / "fleet")
    shutil.copytree(versions, made.folder / "later")
    (made.folder / "models/scaled").mkdir(parents=True)
    made.say(kubernetes)
    made.have(1)
    cluster.apply(volume(made.namespace, made.folder / "models"), made.namespace)
    return made


def at_version_1(cluster: Cluster, versions: Path, folder: Path, deployed: dict[str, Pods], kubernetes: str) -> Pods:
    """Pods that serve version 1 and never had a rollout: those of an earlier test where that is so of them again."""
    if (made := deployed.get(kubernetes)) and made.is_back(kubernetes):
        return made
    if made:
        made.remove()
    # Whatever becomes of them, the next test looks at them first, and the session removes them.
    deployed[kubernetes] = made = unapplied(cluster, versions, folder, kubernetes)
    done = made.k8s("apply")
    assert "Every pod serves scaled." in done.stderr, done.stderr
    # The node's rules follow the pods' readiness after a moment.
    wait_for(made.reachable, what="the Service's address")
    return made
