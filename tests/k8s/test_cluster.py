"""What the components come to on a real cluster; the base and its volume are in test_cluster_rollout.py."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from tests.cluster.node import Cluster
from tests.exporting import export_scaled
from tests.k8s.called import code_of
from tests.k8s.deployed import volume
from tests.k8s.load import BY_STABLE, UNLABELLED, Load
from tests.servers import wait_for
from tfserving.serving.models_yaml.kubernetes import COMPONENTS

ROOT = Path(__file__).resolve().parents[2]
MODELS = "models:\n  scaled:\n    builder: tests.scaled:build\n    labels: {stable: 1}\n"
OTHER = "  other:\n    builder: tests.scaled:build\n    labels: {stable: 1}\n"
VOLUME = "namespace: {0}, components: [volume{1}], cpu: 50m, memory: 1Gi, drain_seconds: 4"
GATEWAY = ", gateway: {{name: contour, namespace: projectcontour, hostname: {0}.test}}"
# The base has nine objects.
MORE = {"argo-rollouts": 2, "monitoring": 3, "gateway": 4, "kserve": -1, "proxy": 1, "rollouts": 3}


@dataclasses.dataclass
class Fleet:
    """A fleet of `scaled` in a namespace of its own."""

    cluster: Cluster
    namespace: str
    folder: Path
    file: str = "models.yaml"

    def say(self, components: str = "", more: str = "", replicas: str = "replicas: 1", models: str = MODELS) -> None:
        """Has models.yaml name these components beside the volume."""
        said = f"{VOLUME.format(self.namespace, components)}, {replicas}{more.format(self.namespace)}"
        (self.folder / self.file).write_text(f"{models}kubernetes: {{{said}}}\n")

    def k8s(self, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tfserving", "k8s", *words, "--fleet", str(self.folder / self.file)]
        path = f"{Path(self.cluster.program).parent}:{os.environ['PATH']}"
        env = {**os.environ, "KUBECONFIG": str(self.cluster.kubeconfig), "PATH": path}
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr
        return done

    def kubectl(self, *words: str) -> str:
        return self.cluster.kubectl("--namespace", self.namespace, *words)


@contextlib.contextmanager
def made(cluster: Cluster, versions: Path, folder: Path) -> Iterator[Fleet]:
    """A fleet that has version 1, and whose namespace has nothing but the volume."""
    fleet = Fleet(cluster, f"k8s-{uuid.uuid4().hex[:8]}", folder / "fleet")
    shutil.copytree(versions / "1", fleet.folder / "models/scaled/1")
    subprocess.run(["chmod", "-R", "a+rX", str(fleet.folder)], check=True)
    fleet.say()
    try:
        cluster.apply(volume(fleet.namespace, fleet.folder / "models"), fleet.namespace)
        yield fleet
    finally:
        cluster.run("delete", "namespace", fleet.namespace, "--wait=false")
        cluster.run("delete", "persistentvolume", fleet.namespace, "--wait=false")


@pytest.fixture
def fleet(cluster: Cluster, scaled_versions: Path, tmp_path: Path) -> Iterator[Fleet]:
    with made(cluster, scaled_versions, tmp_path) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def applied(
    cluster: Cluster, scaled_versions: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Fleet]]:
    """Applies components to a fleet that the tests of this file share: those of an earlier test go, its pods stay."""
    with made(cluster, scaled_versions, tmp_path_factory.mktemp("applied")) as fleet:

        def apply(components: str = "", more: str = "") -> Fleet:
            fleet.say(components, more)
            fleet.k8s("apply")
            return fleet

        yield apply


@pytest.mark.parametrize("folder", ["base", *(f"overlays/{component}" for component in COMPONENTS)])
def test_what_kustomize_makes_is_accepted(cluster: Cluster, folder: str) -> None:
    """By a real API server, which knows every field, also of other projects' kinds."""
    made = cluster.kubectl("kustomize", str(ROOT / "k8s" / folder))
    said = cluster.kubectl("apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-", stdin=made)
    assert said.count("serverside-applied (server dry run)") == 9 + MORE.get(Path(folder).name, 0), said


def test_the_base_serves_the_fleet_that_its_image_has(cluster: Cluster, docker_host: str, tmp_path: Path) -> None:
    """The base as it lies in the repository, but for the processors that its pods want: the node has too few."""
    said = "".join(f"  {name}:\n    builder: tests.scaled:build\n" for name in ("digits", "dense"))
    (tmp_path / "models.yaml").write_text(f"models:\n{said}")
    export_scaled(tmp_path / "models.yaml", (1,))
    words = ["tfserving", "image", "--tag", "serving-fleet:1", "--fleet", str(tmp_path / "models.yaml")]
    env = {**os.environ, "DOCKER_HOST": docker_host}
    subprocess.run([sys.executable, "-m", *words], cwd=ROOT, env=env, check=True, capture_output=True)
    cluster.load_image(docker_host, "serving-fleet:1")
    namespace = f"base-{uuid.uuid4().hex[:8]}"
    made = cluster.kubectl("kustomize", str(ROOT / "k8s/base")).replace('cpu: "1"', "cpu: 50m")
    try:
        cluster.apply(volume(namespace, tmp_path), namespace)
        cluster.kubectl("-n", namespace, "apply", "--server-side", "--validate=strict", "-f", "-", stdin=made)
        cluster.kubectl("-n", namespace, "rollout", "status", "deployment/serving", "--timeout=120s")
        address = cluster.kubectl("-n", namespace, "get", "service", "serving", "-o", "jsonpath={.spec.clusterIP}")
        servers = ["--server", f"grpc://{address}:8500,http://{address}:8501"]
        folders = [str(tmp_path / "models" / name / "1") for name in ("digits", "dense")]
        verify = [sys.executable, "-m", "tfserving", "verify", *folders, *servers]
        done = subprocess.run(verify, cwd=ROOT, capture_output=True, text=True, check=False)
        assert "all 10 golden requests of 2 models equal" in done.stdout, done.stdout + done.stderr
    finally:
        cluster.run("delete", "namespace", namespace, "--wait=false")
        cluster.run("delete", "persistentvolume", namespace, "--wait=false")


def test_a_gateway_leads_to_the_pods_and_not_to_what_changes_them(applied: Callable[..., Fleet]) -> None:
    fleet = applied(", gateway", GATEWAY)
    status = "jsonpath={.status.addresses[0].value}"
    gateway = fleet.cluster.kubectl("-n", "projectcontour", "get", "gateway", "contour", "-o", status)

    def rest(path: str) -> int:
        request = urllib.request.Request(f"http://{gateway}{path}", headers={"Host": f"{fleet.namespace}.test"})
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    wait_for(lambda: rest("/v1/models/scaled/labels/stable/metadata") == 200, what="the route's first answer")
    assert rest("/monitoring/prometheus/metrics") == 404

    options = [("grpc.default_authority", f"grpc.{fleet.namespace}.test")]
    with grpc.insecure_channel(f"{gateway}:80", options=options) as channel:
        wait_for(
            lambda: code_of(channel, "ModelService/GetModelStatus", "GetModelStatusRequest") == grpc.StatusCode.OK,
            what="the route's first answer",
        )
        # It gets to the server, which misses the inputs.
        assert code_of(channel, "PredictionService/Predict", "PredictRequest") == grpc.StatusCode.INVALID_ARGUMENT
        refused = code_of(channel, "ModelService/HandleReloadConfigRequest", "ReloadConfigRequest")
        assert refused == grpc.StatusCode.UNIMPLEMENTED


def test_models_come_and_go_while_others_serve(applied: Callable[..., Fleet]) -> None:
    fleet = applied()
    shutil.copytree(fleet.folder / "models/scaled", fleet.folder / "models/other")
    address = fleet.kubectl("get", "service", "serving", "--output=jsonpath={.spec.clusterIP}")
    with Load((f"grpc://{address}:8500", f"http://{address}:8501"), kinds=(UNLABELLED, BY_STABLE)) as load:
        for models, served in ((MODELS + OTHER, {"scaled", "other"}), (MODELS, {"scaled"})):
            fleet.say(models=models)
            fleet.k8s("apply")
            pods = json.loads(fleet.k8s("status", "--json").stdout)["pods"]
            # As many as the autoscaler wants.
            assert {frozenset(pod["models"]) for pod in pods if not pod["terminating"]} == {frozenset(served)}
            if "other" in served:
                # It stays as long as models.yaml has it.
                assert "the cluster also serves other." in fleet.k8s("apply", "scaled", code=2).stderr
            answered = load.answered
            wait_for(lambda answered=answered: load.answered > answered + 20)  # type: ignore[misc]
    assert load.failures == []


def test_the_autoscalers_pods_stay(applied: Callable[..., Fleet]) -> None:
    """Also when there was none before, and the manifests had their number."""
    fleet = applied()
    fleet.kubectl("scale", "deployment/serving", "--replicas=2")
    fleet.say(replicas="replicas: 2, max_replicas: 2")
    fleet.k8s("apply")
    assert fleet.kubectl("get", "hpa", "--output=name") == ""
    fleet.say()
    fleet.k8s("apply")
    assert fleet.kubectl("get", "deployment", "serving", "--output=jsonpath={.spec.replicas}") == "2"
    served = "  scaled: version 1 AVAILABLE, stable → 1. Clients get version 1, stable"
    assert fleet.k8s("status").stdout.count(served) == 2


def test_what_is_not_said_any_more_is_removed_and_nothing_of_others(applied: Callable[..., Fleet]) -> None:
    fleet = applied(", monitoring")
    other = dataclasses.replace(fleet, file="other.yaml")
    other.say(more=", name_prefix: other-")
    other.k8s("apply")
    before = json.loads(other.k8s("status", "--json").stdout)
    assert [pod["pod"].startswith("other-serving-") for pod in before["pods"]] == [True]
    assert fleet.k8s("diff").stdout == ""
    fleet.kubectl("create", "configmap", "mine", "--from-literal=a=b")
    fleet.kubectl("label", "configmap", "mine", "app.kubernetes.io/instance=serving")
    fleet.say()
    said = fleet.k8s("diff", code=1).stdout
    assert "ServiceMonitor serving would be removed" in said
    fleet.k8s("apply")
    assert fleet.kubectl("get", "servicemonitors,prometheusrules", "--output=name") == ""
    assert fleet.k8s("diff").stdout == ""
    fleet.k8s("delete")
    left = fleet.kubectl("get", "deployments,services,configmaps,hpa,pdb", "--output=name").split()
    alone = [name for name in left if "/other-serving" not in name]
    assert sorted(alone) == ["configmap/kube-root-ca.crt", "configmap/mine"]
    # Another fleet of the namespace goes on as before.
    assert other.k8s("diff").stdout == ""
    assert json.loads(other.k8s("status", "--json").stdout) == before


def test_what_is_somebody_elses_is_not_taken(fleet: Fleet) -> None:
    fleet.kubectl("create", "service", "clusterip", "serving", "--tcp=80:80")
    said = fleet.k8s("apply", code=2).stderr
    assert f"Service serving of namespace {fleet.namespace} was not created by this toolkit" in said
    fleet.say(more=", autoscaling: {{requests_in_flight: 4}}")
    said = fleet.k8s("apply", code=2).stderr
    assert "the cluster has no API custom.metrics.k8s.io, which requests_per_second and requests_in_flight need" in said
    assert fleet.kubectl("get", "deployments", "--output=name") == ""
    fleet.say()
    file = fleet.folder / "models.yaml"
    file.write_text(file.read_text().replace(fleet.namespace, "no-such"))
    assert fleet.k8s("apply", code=2).stderr == (
        "Error: the cluster has no namespace 'no-such'. Create it with `kubectl create namespace no-such`, or set "
        "another `kubernetes.namespace`.\n"
    )


def test_the_role_edit_of_a_namespace_is_enough(fleet: Fleet) -> None:
    """It doesn't cover kinds of other projects, which the cluster has."""
    fleet.kubectl("create", "serviceaccount", "team")
    fleet.kubectl("create", "rolebinding", "team", "--clusterrole=edit", f"--serviceaccount={fleet.namespace}:team")
    config = json.loads(fleet.cluster.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": fleet.kubectl("create", "token", "team").strip()}
    (fleet.folder / "team.kubeconfig").write_text(json.dumps(config))
    fleet.cluster = dataclasses.replace(fleet.cluster, kubeconfig=fleet.folder / "team.kubeconfig")
    assert " (server dry run)" in fleet.k8s("apply", "--dry-run").stdout
    assert "+kind: Deployment" in fleet.k8s("diff", code=1).stdout
    assert fleet.k8s("delete").stdout.count("No resources found") == 3


def test_a_model_that_cannot_be_loaded_is_told_in_the_servers_words(fleet: Fleet) -> None:
    (fleet.folder / "models/scaled/1/saved_model.pb").write_bytes(b"not a graph")
    said = fleet.k8s("apply", code=1).stderr
    # TensorFlow Serving's, as they were recorded; it doesn't name the file.
    assert "exit code 255: a model failed to load" in said
    assert "{name: scaled version: 1} due to error: OUT_OF_RANGE: Read less bytes than requested" in said
