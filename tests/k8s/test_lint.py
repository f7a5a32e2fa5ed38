"""`k8s lint`: every rule is broken here once, and what the toolkit renders breaks none."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from tests.cluster.node import Cluster
from tests.k8s.needed import KUBECTL
from tests.k8s.test_manifests import the, with_component
from tests.serving.fleets import fleet
from tfserving.cli import tfserving
from tfserving.k8s.kubectl import Kubectl, Object
from tfserving.k8s.lint.admission import admission
from tfserving.k8s.lint.findings import RULES
from tfserving.k8s.lint.manifests import Manifests
from tfserving.k8s.lint.rules import lint
from tfserving.serving.models_yaml.kubernetes import COMPONENTS

ROOT = Path(__file__).resolve().parents[2]
POD = "spec.template.spec"
SERVER = f"{POD}.containers[0]"

pytestmark = KUBECTL


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> list[Object]:
    """Manifests that break no rule."""
    return with_component(tmp_path_factory.mktemp("lint"), "volume", "gateway", "monitoring")


def dict_of(content: dict[str, Any], *keys: str) -> dict[str, Any]:
    for key in keys:
        content = content[key]
    return content


def changes(*path: str | int, value: Any = None) -> Callable[[list[Object]], None]:
    """Set a field of the Deployment, or remove it."""

    def change(objects: list[Object]) -> None:
        content: Any = the(objects, "Deployment")
        for key in path[:-1]:
            content = content.setdefault(key, {}) if isinstance(content, dict) else content[int(key)]
        if value is None:
            del content[path[-1]]
        else:
            content[path[-1]] = value

    return change


def pod(*path: str | int, value: Any = None) -> Callable[[list[Object]], None]:
    return changes("spec", "template", "spec", *path, value=value)


def container(*path: str | int, value: Any = None) -> Callable[[list[Object]], None]:
    return pod("containers", 0, *path, value=value)


def on(resource: str, *flags: str, image: str = "tensorflow/serving:2.21.0-gpu") -> Callable[[list[Object]], None]:
    """Give the server a GPU, an image and more flags."""

    def change(objects: list[Object]) -> None:
        found = the(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]
        found["resources"]["limits"][resource] = "1"
        found["args"] += flags
        found["image"] = image

    return change


def both(*several: Callable[[list[Object]], None]) -> Callable[[list[Object]], None]:
    """Change one after the other."""

    def change(objects: list[Object]) -> None:
        for one in several:
            one(objects)

    return change


def sets(kind: str, *path: str, value: Any, name: str = "serving") -> Callable[[list[Object]], None]:
    """Set a field of an object."""

    def change(objects: list[Object]) -> None:
        dict_of(the(objects, kind, name), *path[:-1])[path[-1]] = value

    return change


def without(kind: str) -> Callable[[list[Object]], None]:
    """Remove all objects of a kind."""

    def change(objects: list[Object]) -> None:
        objects[:] = [one for one in objects if one["kind"] != kind]

    return change


def adds(kind: str, **content: Any) -> Callable[[list[Object]], None]:
    """Add an object of its own name, with the labels of all."""

    def change(objects: list[Object]) -> None:
        labels = the(objects, "ServiceAccount")["metadata"]["labels"]
        objects.append(
            {"apiVersion": "v1", "kind": kind, "metadata": {"name": "more", "labels": labels}, **content},
        )

    return change


def twice(objects: list[Object]) -> None:
    objects.append(copy.deepcopy(the(objects, "Service")))


trusts = changes("spec", "template", "metadata", "annotations", "tfserving.internal/trust", value="0" * 16)
COPIES = {"name": "more", "command": ["python3", "-m", "tfserving.k8s.sync"], "args": ["s3://b", "/models"]}
NO_REQUEST = {"requests": {"memory": "1Gi", "ephemeral-storage": "1Gi"}, "limits": {"memory": "1Gi"}}
BROKEN: list[tuple[str, Callable[[list[Object]], None], str]] = [
    ("autoscaler", changes("spec", "replicas", value=2), "Deployment serving: spec.replicas"),
    ("autoscaler", sets("HorizontalPodAutoscaler", "spec", "maxReplicas", value=2), "spec.maxReplicas"),
    ("autoscaler", container("resources", value=NO_REQUEST), "spec.metrics[0]: container 'server'"),
    ("dangling-reference", without("ServiceAccount"), f"{POD}.serviceAccountName"),
    ("dangling-reference", without("ConfigMap"), f"{POD}.volumes["),
    ("dangling-reference", sets("HorizontalPodAutoscaler", "spec", "scaleTargetRef", "name", value="x"), "serving"),
    ("dangling-reference", sets("Service", "metadata", "name", value="x", name="serving-canary"), "backendRefs[1]"),
    ("dangling-reference", container("volumeMounts", 0, "name", value="x"), f"{SERVER}.volumeMounts[0]"),
    ("dangling-reference", adds("RoleBinding", roleRef={"kind": "Role", "name": "x"}), "RoleBinding more: roleRef"),
    ("disruption-budget", without("PodDisruptionBudget"), "Deployment serving: no PodDisruptionBudget"),
    ("disruption-budget", sets("PodDisruptionBudget", "spec", "maxUnavailable", value=0), "no node can be drained"),
    (
        "disruption-budget",
        sets("PodDisruptionBudget", "spec", "unhealthyPodEvictionPolicy", value="IfHealthyBudget"),
        "spec.unhealthyPodEvictionPolicy",
    ),
    ("duplicate", twice, "Service serving: metadata.name"),
    ("gpu-image", on("nvidia.com/gpu", image="r.example/tensorflow/serving:2.21.0"), "which is for CPUs"),
    ("gpu-image", on("nvidia.com/mig-1g.10gb", image="serving-embedded:2.21.0"), f"{SERVER}.image"),
    ("gpu-image", container("image", value="tensorflow/serving:2.21.0-gpu"), "the container has no GPU"),
    ("gpu-memory", on("nvidia.com/gpu.shared"), f"{SERVER}.args: the pods share the memory of a GPU"),
    ("gpu-memory", on("nvidia.com/gpu.shared", "--per_process_gpu_memory_fraction=0.6"), f"{SERVER}.args"),
    ("gpu-memory", on("nvidia.com/gpu.shared", "--per_process_gpu_memory_fraction=x"), f"{SERVER}.args"),
    (
        "gpu-memory",
        on("nvidia.com/gpu.shared", "--gpu_memory_growth=false", image="serving-embedded:2.21.0-gpu"),
        f"{SERVER}.args",
    ),
    ("grace-period", pod("terminationGracePeriodSeconds", value=30), "got 30, and the preStop of container 'server'"),
    ("image-tag", container("image", value="registry:5000/tensorflow/serving"), f"{SERVER}.image"),
    ("image-tag", container("image", value="tensorflow/serving:latest-gpu"), f"{SERVER}.image"),
    ("labels", sets("Service", "metadata", "labels", value={}), "Service serving: metadata.labels"),
    ("network-policy", without("NetworkPolicy"), "no NetworkPolicy restricts their egress"),
    ("network-policy", sets("NetworkPolicy", "spec", "ingress", value=[{}]), "spec.ingress[0]"),
    ("network-policy", sets("NetworkPolicy", "spec", "egress", value=[{}]), "spec.egress[0]"),
    ("port", sets("Service", "spec", "ports", value=[{"name": "rest", "port": 80}]), "spec.ports[0].targetPort"),
    ("port", container("livenessProbe", "grpc", "port", value=1), f"{SERVER}.livenessProbe.grpc.port"),
    ("port", sets("ServiceMonitor", "spec", "endpoints", value=[{"port": "x"}]), "spec.endpoints[0].port"),
    ("probes", container("readinessProbe"), f"{SERVER}.readinessProbe"),
    ("probes", container("livenessProbe"), f"{SERVER}.livenessProbe"),
    (
        "process-namespace",
        both(pod("shareProcessNamespace", value=True), pod("initContainers", value=[{"name": "one"}])),
        f"{POD}.shareProcessNamespace",
    ),
    ("rbac", adds("Role", rules=[{"apiGroups": [""], "resources": ["pods"], "verbs": ["*"]}]), "rules[0].verbs"),
    ("rbac", adds("Role", rules=[{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}]), "rules[0]: the"),
    ("rbac", adds("ClusterRoleBinding"), "ClusterRoleBinding more"),
    (
        "read-only-root",
        container("securityContext", "readOnlyRootFilesystem", value=False),
        f"{SERVER}.securityContext.readOnlyRootFilesystem",
    ),
    ("resources", container("resources", "limits", value={"memory": "1Gi"}), "no ephemeral-storage"),
    ("resources", container("resources", "limits", value={"ephemeral-storage": "1Gi"}), "no memory"),
    ("secret-env", container("envFrom", value=[{"secretRef": {"name": "x"}}]), f"{SERVER}.envFrom[0]"),
    (
        "secret-env",
        container("env", value=[{"name": "A", "valueFrom": {"secretKeyRef": {"name": "x", "key": "y"}}}]),
        f"{SERVER}.env[0]",
    ),
    ("selector", changes("spec", "selector", "matchLabels", value={"a": "b"}), "spec.selector"),
    ("selector", sets("Service", "spec", "selector", value={"a": "b"}, name="serving-grpc"), "it selects no pods"),
    ("selector", sets("PodDisruptionBudget", "spec", "selector", value={"matchLabels": {"a": "b"}}), "spec.selector"),
    ("selector", sets("ServiceMonitor", "spec", "selector", value={"matchLabels": {"a": "b"}}), "no Service"),
    ("service-account", pod("automountServiceAccountToken"), f"{POD}.automountServiceAccountToken"),
    ("service-account", pod("serviceAccountName"), f"{POD}.serviceAccountName"),
    ("spread", pod("topologySpreadConstraints"), "all pods may run in the same zone"),
    (
        "spread",
        pod("topologySpreadConstraints", 0, "labelSelector", value={"matchLabels": {"a": "b"}}),
        f"{POD}.topologySpreadConstraints[0].labelSelector",
    ),
    ("trust", trusts, f"{SERVER}.image: got 'tensorflow/serving:2.21.0'"),
    ("trust", trusts, "others can write to the volume 'models' after"),
    ("trust", both(trusts, pod("initContainers", value=[COPIES])), f"{POD}.initContainers[0].args: it copies versions"),
    (
        "trust",
        both(trusts, pod("volumes", 0, value={"name": "models", "image": {"reference": "r/models:1"}})),
        f"{POD}.volumes[0].image.reference: got 'r/models:1'",
    ),
    # Another pod has the option.
    ("trust", pod("initContainers", value=[{**COPIES, "args": ["--trust=/x"]}]), f"{SERVER}.image"),
]
# What the level `restricted` forbids; some need another field to be valid at all.
INSECURE: list[Callable[[list[Object]], None]] = [
    pod("hostNetwork", value=True),
    pod("hostPID", value=True),
    pod("hostIPC", value=True),
    pod("volumes", 0, value={"name": "models", "hostPath": {"path": "/etc"}}),
    pod("volumes", 0, value={"name": "models", "nfs": {"server": "a", "path": "/"}}),
    pod("securityContext", "sysctls", value=[{"name": "kernel.msgmax", "value": "1"}]),
    pod("securityContext", "runAsNonRoot", value=False),
    pod("securityContext", "runAsNonRoot"),
    pod("securityContext", "runAsUser", value=0),
    pod("securityContext", "seccompProfile"),
    pod("securityContext", "seccompProfile", value={"type": "Unconfined"}),
    pod("securityContext", "appArmorProfile", value={"type": "Unconfined"}),
    pod("securityContext", "seLinuxOptions", value={"type": "spc_t"}),
    container("securityContext", "allowPrivilegeEscalation"),
    container("securityContext", "capabilities"),
    container("securityContext", "capabilities", "add", value=["NET_ADMIN"]),
    both(pod("hostUsers", value=False), container("securityContext", "procMount", value="Unmasked")),
    container("securityContext", "runAsUser", value=0),
    container("securityContext", "runAsNonRoot", value=False),
    container("securityContext", "seccompProfile", value={"type": "Unconfined"}),
    container("securityContext", value={"privileged": True, "allowPrivilegeEscalation": True}),
    container("ports", 0, "hostPort", value=8500),
    container("livenessProbe", value={"tcpSocket": {"port": 8500, "host": "10.0.0.1"}}),
    container("lifecycle", "postStart", value={"httpGet": {"port": 8501, "host": "10.0.0.1"}}),
]


def broken(good: list[Object], change: Callable[[list[Object]], None]) -> list[Object]:
    objects = copy.deepcopy(good)
    change(objects)
    return objects


@pytest.mark.parametrize("component", [None, *COMPONENTS])
def test_what_is_rendered_breaks_no_rule(tmp_path: Path, component: str | None) -> None:
    assert [str(one) for one in lint(with_component(tmp_path, *filter(None, [component])))] == []


@pytest.mark.parametrize(("rule", "change", "text"), BROKEN)
def test_every_rule_finds_what_breaks_it(
    good: list[Object], rule: str, change: Callable[[list[Object]], None], text: str
) -> None:
    found = [str(one) for one in lint(broken(good, change)) if one.rule == rule]
    assert any(text in one for one in found), found
    # The same with the rule allowed.
    assert rule not in {one.rule for one in lint(broken(good, change), [rule])}


@pytest.mark.parametrize(
    ("image", "flags"),
    [
        ("tensorflow/serving:2.21.0-gpu", ["--per_process_gpu_memory_fraction=0.5"]),
        ("tensorflow/serving:2.21.0-gpu", ["--platform_config_file=/config/server/platform_config.pbtxt"]),
        ("serving-embedded:2.21.0-gpu", []),
        ("serving-embedded:2.21.0-gpu", ["--gpu_memory_growth", "--per_process_gpu_memory_fraction=0.8"]),
        # Nobody knows what is in these.
        ("r.example/fleet:7", ["--per_process_gpu_memory_fraction=0.5"]),
        (f"tensorflow/serving@sha256:{'0' * 64}", ["--per_process_gpu_memory_fraction=0.5"]),
    ],
)
def test_pods_that_share_a_gpu_and_its_memory_break_no_rule(good: list[Object], image: str, flags: list[str]) -> None:
    objects = broken(good, on("nvidia.com/gpu.shared", *flags, image=image))
    assert [str(one) for one in lint(objects) if one.rule != "image-tag"] == []


def test_every_rule_is_broken_here_and_has_a_section() -> None:
    sections = re.findall(r"^## `([a-z-]+)`$", (ROOT / "docs/kubernetes_lint.md").read_text(), re.M)
    assert sections == list(RULES) == sorted(RULES)
    assert {rule for rule, _, _ in BROKEN} | {"admission", "pod-security"} == set(RULES)


def test_pod_security_is_what_the_api_server_enforces(cluster: Cluster, good: list[Object]) -> None:
    """A real API server forbids the pods of each of these, and so does the rule; both accept the good ones."""
    assert not [one for one in lint(good) if one.rule == "pod-security"]
    pods = []
    for index, objects in enumerate([good, *(broken(good, change) for change in INSECURE)]):
        found = [one for one in lint(objects) if one.rule == "pod-security"]
        assert bool(found) == bool(index), (index, found)
        metadata = {"name": f"pod-{index}", "namespace": "lint-restricted"}
        template = the(objects, "Deployment")["spec"]["template"]["spec"]
        pods.append(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": metadata,
                "spec": {**template, "serviceAccountName": "default"},
            }
        )
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "lint-restricted", "labels": labels}}
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(namespace))
    try:
        made = json.dumps({"apiVersion": "v1", "kind": "List", "items": pods})
        done = cluster.run("create", "--dry-run=server", "-f", "-", stdin=made)
        assert re.findall(r"pod/pod-(\d+) created", done.stdout) == ["0"]
        refused = re.findall(r'pods "pod-(\d+)" is forbidden: violates PodSecurity "restricted', done.stderr)
        assert refused == [str(index) for index in range(1, len(pods))], done.stderr
    finally:
        cluster.run("delete", "namespace", "lint-restricted", "--wait=false")


def test_the_cluster_names_the_object_and_the_field_that_it_refuses(cluster: Cluster, good: list[Object]) -> None:
    assert cluster
    few = [one for one in good if one["kind"] in ("Deployment", "PodDisruptionBudget")]
    assert [str(one) for one in admission(Manifests(tuple(few)), Kubectl("default"))] == []
    typo = broken(few, sets("PodDisruptionBudget", "spec", "maxUnavailble", value=1))
    (found,) = admission(Manifests(tuple(typo)), Kubectl("default"))
    assert found.object == "PodDisruptionBudget serving"
    assert re.fullmatch(r'ValidationError\(.*\): unknown field "maxUnavailble" in [\w.]+', found.problem)


def run(folder: Path, *words: str, stdin: str = "") -> Result:
    words = words if "--file" in words else (*words, "--fleet", str(folder / "models.yaml"))
    return CliRunner().invoke(tfserving, ["k8s", "lint", *words], input=stdin)


def test_the_command_prints_findings_and_exits_by_them(tmp_path: Path, good: list[Object]) -> None:
    fleet(tmp_path, "models:\n  digits:\n    builder: m:build\nkubernetes: {components: [volume]}\n")
    done = run(tmp_path)
    assert (done.exit_code, done.stderr) == (0, "")
    assert re.fullmatch(r"\d+ objects: no findings\n", done.stdout)
    made = yaml.safe_dump_all(broken(good, container("image", value="x:latest")))
    done = run(tmp_path, "--file", "-", "--json", stdin=made)
    assert done.exit_code == 1
    (found,) = json.loads(done.stdout)["findings"]
    assert (found["rule"], found["object"], found["field"]) == ("image-tag", "Deployment serving", f"{SERVER}.image")
    assert found["problem"]
    assert found["remedy"]
    assert run(tmp_path, "--file", "-", "--allow", "image-tag", stdin=made).exit_code == 0


@pytest.mark.parametrize(
    ("words", "stdin", "reason"),
    [
        (("--file", "-"), "a: [", "- is no valid YAML"),
        (("--file", "-"), "", "- contains no Kubernetes object"),
        (("--file", "-"), "a: &a [*a]", "- has more than 1000000 values, or more than 100 levels"),
        (("--file", "-"), "a: 1", "- contains something that is no Kubernetes object"),
        (
            ("--file", "-"),
            "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: 5}",
            "an object does not have the form of its kind",
        ),
        (("--file", "/nothing"), "", "/nothing: No such file or directory"),
        (("--file", "-", "digits"), "", "--file excludes MODEL"),
        (("--file", "-", "--allow", "image-tags"), "", "Did you mean 'image-tag'?"),
        (("--file", "-", "--context", "a"), "", "--context needs --cluster"),
    ],
)
def test_what_cannot_be_checked_is_refused(tmp_path: Path, words: tuple[str, ...], stdin: str, reason: str) -> None:
    done = run(tmp_path, *words, stdin=stdin)
    assert done.exit_code == 2, done.stdout
    assert reason in done.stderr
    assert isinstance(done.exception, SystemExit)
