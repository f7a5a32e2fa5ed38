"""The Helm chart, by the real helm: it makes what `render` makes, and each value changes what it must."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.cluster import binaries
from tests.cluster.node import Cluster
from tests.k8s.deployed import volume
from tests.k8s.needed import KUBECTL
from tests.k8s.test_manifests import NEEDED, pod, server, the
from tests.serving.fleets import fleet
from tfserving.k8s.chart import files, writing
from tfserving.k8s.chart.marks import dumped
from tfserving.k8s.kubectl import Kubectl, Object
from tfserving.k8s.rendering import objects, render
from tfserving.serving.models_yaml.fleet import read_fleet
from tfserving.serving.models_yaml.kubernetes import COMPONENTS

ROOT = Path(__file__).resolve().parents[2]
MODELS = "models:\n  digits:\n    builder: m:build\n"
DIGEST = f"sha256:{'5' * 64}"
ALL = (
    "components: [cpu, object-store, monitoring, gateway, rollouts], name_prefix: a-, cpu: '3',"
    # Texts that YAML 1.1 reads as a boolean and a number.
    " labels: {team: 'y', build: '12e4'},"
    " monitoring: {labels: {release: p}, namespace: watch}, gateway: {name: g, namespace: gw, hostname: m.example.com},"
    f" object_store: {{url: 's3://bucket/models', secret: keys}}, image: 'registry:5000/serving:1@{DIGEST}'"
)

# helm is built with the cluster's programs.
pytestmark = [
    pytest.mark.cluster,
    KUBECTL,
    pytest.mark.skipif(not binaries.HELM.folder.exists(), reason="helm isn't built: `python -m tests.cluster build`"),
]


def helm(*words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [str(binaries.HELM.path("helm")), *words]
    return subprocess.run(command, env={**os.environ, **(env or {})}, capture_output=True, text=True, check=False)


@dataclass(frozen=True)
class Chart:
    """A chart of a fleet on disk, and the manifests of the same."""

    folder: Path
    rendered: list[Object]

    def template(self, *words: str, release: str = "serving") -> list[Object]:
        done = helm("template", release, str(self.folder), *words)
        assert done.returncode == 0, done.stderr
        return objects(done.stdout)

    def refusal(self, *words: str, release: str = "serving") -> str:
        done = helm("template", release, str(self.folder), *words)
        assert done.returncode == 1, done.stdout
        return done.stderr


def chart_of(folder: Path, kubernetes: str, more: str = "") -> Chart:
    read = fleet(folder, f"{MODELS}{more}kubernetes: {{{kubernetes}}}\n")
    names = read.select(())
    writing.write(folder / "chart", files.chart(read, names, Kubectl()))
    return Chart(folder / "chart", objects(render(read, names, Kubectl())))


def by_name(found: list[Object]) -> dict[tuple[str, str], Object]:
    return {(one["kind"], one["metadata"]["name"]): one for one in found}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Chart:
    """A chart with a value of every kind."""
    return chart_of(tmp_path_factory.mktemp("whole"), ALL)


@pytest.mark.parametrize("component", [None, *COMPONENTS])
def test_helm_makes_what_render_makes(tmp_path: Path, component: str | None) -> None:
    said = [f"components: [{component}]", NEEDED.get(component, "")] if component else []
    image = [] if component in ("volume", "object-store") else ["image: 'fleet:1'"]
    chart = chart_of(tmp_path, ", ".join(filter(None, [*said, *image])))
    assert by_name(chart.template()) == by_name(chart.rendered)


def trusting(folder: Path) -> Chart:
    """A chart of a fleet that trusts a key and a root."""
    for name, block in (("release.pub", "PUBLIC KEY"), ("root.pem", "CERTIFICATE")):
        (folder / name).write_text(f"-----BEGIN {block}-----\nTUlJ\n-----END {block}-----\n")
    images = ", ".join(f"{key}: 'r/{key}:1@{DIGEST}'" for key in ("image", "toolkit_image"))
    settings = f"components: [object-store], {NEEDED['object-store']}, {images}"
    more = "trust: {keys: [release.pub], certificates: [root.pem], identities: [{identity: a@b.test, issuer: i}]}\n"
    return chart_of(folder, settings, more)


def test_whom_pods_trust_is_a_value_and_so_is_no_tag(tmp_path: Path) -> None:
    """Another installation may trust others, but not nobody, and a change replaces the pods."""
    chart, other = trusting(tmp_path), tmp_path / "other.pub"
    other.write_text("-----BEGIN PUBLIC KEY-----\nTUlK\n-----END PUBLIC KEY-----\n")
    made = {(kind, name): one for (kind, name), one in by_name(chart.template()).items() if kind == "ConfigMap"}
    assert made == {key: one for key, one in by_name(chart.rendered).items() if key[0] == "ConfigMap"}
    found = chart.template("--set-file", f"trust.keys.other={other}", "--set", r"trust.keys.1-release\.pub=null")
    (data,) = (one["data"] for one in found if one["metadata"]["name"].startswith("serving-trust-"))
    assert data["key-other"] == other.read_text()
    assert sorted(data) == ["certificate-1-root.pem", "key-other", "trust.json"]
    before, after = (
        the(objects, "Deployment")["spec"]["template"]["metadata"]["annotations"]["tfserving.internal/trust"]
        for objects in (chart.template(), found)
    )
    assert before != after
    nobody = [f"trust.{key}=null" for key in (r"keys.1-release\.pub", r"certificates.1-root\.pem", "identities")]
    for words in (["--set", ",".join(nobody)], ["--set", "trust=null"]):
        assert "trust names nobody" in chart.refusal(*words)
    (tmp_path / "private").write_text("-----BEGIN EC PRIVATE KEY-----\nTUlK\n-----END EC PRIVATE KEY-----\n")
    assert "does not match pattern" in chart.refusal("--set-file", f"trust.keys.mine={tmp_path / 'private'}")
    for image in ("image", "toolkitImage"):
        assert f"'/{image}/digest': minLength" in chart.refusal("--set", f"{image}.digest=")


def test_a_release_has_the_names_of_its_prefix(whole: Chart) -> None:
    """Also without an autoscaler, and in another namespace. Braces of Prometheus and Grafana stay as they are."""
    assert (
        by_name(whole.template(release="a")) == by_name(whole.template(release="a-serving")) == by_name(whole.rendered)
    )
    rule = the(whole.rendered, "PrometheusRule", "a-serving")["spec"]["groups"][0]["rules"][0]
    assert "{{ $labels.job }}" in rule["annotations"]["summary"]
    other = whole.template("--namespace", "123", "--set", "maxReplicas=2", release="b")
    assert {one["metadata"]["namespace"] for one in other} == {"123"}
    assert all(one["metadata"]["name"].startswith("b-serving") for one in other)
    assert the(other, "Deployment", "b-serving")["spec"]["replicas"] == 2
    assert "HorizontalPodAutoscaler" not in {one["kind"] for one in other}
    done = helm("lint", "--strict", str(whole.folder))
    assert "1 chart(s) linted, 0 chart(s) failed" in done.stdout, done.stdout


def test_each_value_changes_all_places_that_have_it(whole: Chart) -> None:
    values = {
        "image": {"repository": "other/server", "tag": "2", "digest": ""},
        "toolkitImage": {"repository": "other/toolkit", "tag": "3"},
        "imagePullSecrets": [{"name": "registry"}],
        "replicas": 3,
        "maxReplicas": 7,
        "autoscaling": {"cpuPercent": 55, "scaleDownSeconds": 9},
        "cpu": 5,
        "memory": "3Gi",
        "labels": {"team": "yes"},
        "gateway": {"name": "h", "namespace": "hw", "hostname": "n.example.com"},
        "monitoring": {"labels": {"release": "q"}, "namespace": "look"},
        "objectStore": {"url": "s3://other/models", "secret": "others"},
        "podAnnotations": {"a.b/c": "1"},
        "podLabels": {"d": "2"},
        "nodeSelector": {"e": "3"},
        "tolerations": [{"key": "f", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "priorityClassName": "high",
        "service": {"annotations": {"g": "4"}},
        "serviceAccount": {"annotations": {"h": "5"}},
    }
    assert set(values) == set(yaml.safe_load((whole.folder / "values.yaml").read_text()))
    (whole.folder.parent / "mine.yaml").write_text(dumped(values))
    found = whole.template("--values", str(whole.folder.parent / "mine.yaml"), release="a")
    spec, container = pod(found), server(found)
    template = the(found, "Deployment", "a-serving")["spec"]["template"]
    assert container["image"] == "other/server:2"
    assert {one["image"] for one in spec["initContainers"]} == {"other/toolkit:3"}
    assert {one["metadata"]["labels"]["app.kubernetes.io/version"] for one in found} == {"2"}
    account = the(found, "ServiceAccount", "a-serving")
    assert account["imagePullSecrets"] == [{"name": "registry"}]
    assert account["metadata"]["annotations"] == {"h": "5"}
    assert "annotations" not in the(found, "ServiceAccount", "a-serving-rollout")["metadata"]
    scaler = the(found, "HorizontalPodAutoscaler", "a-serving")["spec"]
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (3, 7)
    assert scaler["metrics"][0]["resource"]["target"]["averageUtilization"] == 55
    assert scaler["behavior"]["scaleDown"]["stabilizationWindowSeconds"] == 9
    assert container["resources"]["requests"]["cpu"] == container["resources"]["limits"]["cpu"] == "5"
    assert "--tensorflow_intra_op_parallelism=5" in container["args"]
    assert container["resources"]["limits"]["memory"] == "3Gi"
    assert {one["metadata"]["labels"]["team"] for one in [*found, template]} == {"yes"}
    assert the(found, "HTTPRoute", "a-serving")["spec"]["hostnames"] == ["n.example.com"]
    assert the(found, "GRPCRoute", "a-serving")["spec"]["hostnames"] == ["grpc.n.example.com"]
    assert the(found, "GRPCRoute", "a-serving")["spec"]["parentRefs"] == [{"name": "h", "namespace": "hw"}]
    policy = json.dumps(the(found, "NetworkPolicy", "a-serving"))
    assert '"hw"' in policy
    assert '"look"' in policy
    assert the(found, "ServiceMonitor", "a-serving")["metadata"]["labels"]["release"] == "q"
    for one in spec["initContainers"]:
        assert "s3://other/models" in one["args"]
    assert '"others"' in json.dumps(spec)
    assert template["metadata"]["annotations"]["a.b/c"] == "1"
    assert template["metadata"]["labels"]["d"] == "2"
    assert spec["nodeSelector"]["e"] == "3"
    assert spec["tolerations"] == [{"key": "f", "operator": "Exists"}]
    assert spec["affinity"] == {"nodeAffinity": {}}
    assert spec["priorityClassName"] == "high"
    assert {one["metadata"]["annotations"]["g"] for one in found if one["kind"] == "Service"} == {"4"}
    for text in ("bucket/models", "keys", "m.example.com", "registry:5000", "serving-toolkit:1"):
        assert text not in json.dumps(found), text


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--set", "image.tag=latest"), "at '/image/tag': 'not' failed"),
        (("--set", "image.tag=,image.digest="), "at '/image': 'anyOf' failed"),
        (("--set", "image.digest=sha256:1"), "at '/image/digest'"),
        (("--set", "replica=3"), "additional properties 'replica' not allowed"),
        (("--set", "replicas=0"), "at '/replicas': minimum"),
        (("--set", "memory=lots"), "at '/memory'"),
        (("--set", "cpu=1.5"), "at '/cpu'"),
        (("--set", "gateway.hostname=*.example.com"), "at '/gateway/hostname'"),
        (("--set", r"podLabels.app\.kubernetes\.io/name=x"), "invalid propertyName 'app.kubernetes.io/name'"),
        (("--set", "labels.a b=x"), "additional properties 'a b' not allowed"),
        (("--set", "replicas=20"), "maxReplicas 10 is below replicas 20"),
    ],
)
def test_wrong_values_are_refused(whole: Chart, words: tuple[str, ...], reason: str) -> None:
    assert reason in whole.refusal(*words, release="a")


def test_a_release_whose_services_could_have_no_name_is_refused(whole: Chart) -> None:
    assert "got the release 1, expected a name" in whole.refusal(release="1")
    assert "got the release" in whole.refusal(release="a" * 40)


def test_only_an_earlier_chart_is_replaced_and_whole(
    tmp_path: Path, whole: Chart, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "chart"
    shutil.copytree(whole.folder, folder)
    writing.write(folder, {"Chart.yaml": files.MARK})
    assert [path.name for path in folder.iterdir()] == ["Chart.yaml"]
    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", lambda *_: (_ for _ in ()).throw(OSError("full")))
        with pytest.raises(OSError, match="full"):
            writing.write(folder, {"values.yaml": "a"})
    assert [path.name for path in tmp_path.rglob("*")] == ["chart", "Chart.yaml"]
    command = [sys.executable, "-m", "tfserving", "k8s", "chart", "--fleet", str(whole.folder.parent / "models.yaml")]

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, "--output", str(folder)], cwd=ROOT, capture_output=True, text=True, check=False
        )

    (folder / "mine.yaml").write_text("replicas: 5\n")
    done = run()
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"{folder / 'mine.yaml'}: this file is not part of a generated chart" in done.stderr
    (folder / "mine.yaml").unlink()
    done = run()
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{folder}\n", "")
    assert {path.name: path.read_text() for path in folder.rglob("*") if path.is_file()} == {
        path.name: path.read_text() for path in whole.folder.rglob("*") if path.is_file()
    }


CLUSTER = (
    "models:\n  scaled:\n    builder: tests.scaled:build\n    labels: {stable: 1}\n"
    "kubernetes: {components: [volume], cpu: 50m, memory: 1Gi, drain_seconds: 4, replicas: 1}\n"
)


@pytest.fixture
def namespace(cluster: Cluster, scaled_versions: Path, tmp_path: Path) -> Iterator[str]:
    """A namespace that enforces `restricted`, and has a volume with version 1."""
    name = f"chart-{uuid.uuid4().hex[:8]}"
    shutil.copytree(scaled_versions / "1", tmp_path / "models/scaled/1")
    subprocess.run(["chmod", "-R", "a+rX", str(tmp_path)], check=True)
    cluster.apply(volume(name, tmp_path / "models"), name)
    yield name
    cluster.run("delete", "namespace", name, "--wait=false")
    cluster.run("delete", "persistentvolume", name, "--wait=false")


def test_two_releases_serve_in_one_namespace_and_are_upgraded(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    (tmp_path / "models.yaml").write_text(CLUSTER)
    read = read_fleet(tmp_path / "models.yaml")
    writing.write(tmp_path / "chart", files.chart(read, ("scaled",), Kubectl()))

    def run(*words: str) -> str:
        options = ["--namespace", namespace, "--kubeconfig", str(cluster.kubeconfig)]
        done = helm(*words, *options, env={"HELM_CACHE_HOME": str(tmp_path), "HELM_CONFIG_HOME": str(tmp_path)})
        assert done.returncode == 0, done.stderr
        return done.stdout

    chart = str(tmp_path / "chart")
    printed = run("install", "serving", chart)
    assert f"REST:  http://serving.{namespace}:8501/v1/models/scaled:predict" in printed
    run("install", "other", chart, "--wait", "--timeout=180s")
    # The pods are replaced, and another number of them is wanted.
    run("upgrade", "serving", chart, "--wait", "--timeout=180s", "--set", "podAnnotations.a=b,maxReplicas=1")
    for name in ("serving", "other-serving"):
        path = "jsonpath={.spec.clusterIP}"
        address = cluster.kubectl("-n", namespace, "get", "service", name, "-o", path)
        servers = f"grpc://{address}:8500,http://{address}:8501"
        words = [sys.executable, "-m", "tfserving", "verify", str(tmp_path / "models/scaled/1"), "--server", servers]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
        assert "golden requests of 1 model equal" in done.stdout, done.stdout + done.stderr
        slices = cluster.kubectl(
            *("-n", namespace, "get", "endpointslices", f"--selector=kubernetes.io/service-name={name}", "-o", "json")
        )
        (found,) = json.loads(slices)["items"]
        # An autoscaler may have added pods.
        ready = [one["targetRef"]["name"] for one in found["endpoints"] if one["conditions"]["ready"]]
        assert {pod.startswith(f"{name}-") for pod in ready} == {True}
    assert cluster.run("-n", namespace, "get", "horizontalpodautoscaler", "serving").returncode
    cluster.kubectl("-n", namespace, "get", "horizontalpodautoscaler", "other-serving")
    # The pods of a release have the labels of those that `apply` makes.
    (tmp_path / "models.yaml").write_text(CLUSTER.replace("{comp", f"{{namespace: {namespace}, comp"))
    words = [sys.executable, "-m", "tfserving", "k8s", "delete", "--fleet", str(tmp_path / "models.yaml")]
    env = {**os.environ, "KUBECONFIG": str(cluster.kubeconfig)}
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "ServiceAccount serving" in done.stderr
    assert "was not created by this toolkit" in done.stderr
    run("uninstall", "serving", "other")
    left = cluster.kubectl("-n", namespace, "get", "deployments,services,configmaps,networkpolicies", "-o", "name")
    assert left.split() == ["configmap/kube-root-ca.crt"]
