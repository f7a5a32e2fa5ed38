"""The manifests: what every one of them has, what each component changes, and what models.yaml can't say."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.k8s.needed import KUBECTL
from tests.serving.fleets import GOOD, fleet
from tfserving.k8s.kubectl import Kubectl, Object
from tfserving.k8s.rendering import render
from tfserving.serving.compose.services import DASHBOARD
from tfserving.serving.embedded.command_line import command
from tfserving.serving.embedded.flags import Flags
from tfserving.serving.models_yaml.fleet import FleetError
from tfserving.serving.models_yaml.kubernetes import COMPONENTS

ROOT = Path(__file__).resolve().parents[2]
K8S = ROOT / "k8s"
STORE = "object_store: {url: 's3://bucket/prefix'}"
GATEWAY = "gateway: {name: contour, namespace: gateways, hostname: m.example.com}"
NEEDED = {"object-store": STORE, "gateway": GATEWAY, "cpu": "cpu: '3'"}

pytestmark = KUBECTL


def parsed(text: str) -> list[Object]:
    return [one for one in yaml.safe_load_all(text) if one]


def static(overlay: str) -> list[Object]:
    """What kustomize makes of a folder, as it lies in the repository."""
    return parsed(Kubectl().run("kustomize", str(K8S / overlay)))


def made(folder: Path, kubernetes: str = "", server: str = "", models: str = GOOD) -> list[Object]:
    """What `render` makes of models.yaml, whose models are in an image unless it names another place."""
    if not re.search("image:|volume|object-store", kubernetes):
        kubernetes = ", ".join(filter(None, ("image: 'fleet:7'", kubernetes)))
    read = fleet(folder, f"{models}server: {{{server}}}\nkubernetes: {{{kubernetes}}}\n")
    return parsed(render(read, read.select(()), Kubectl()))


def with_component(folder: Path, *components: str, more: str = "", server: str = "") -> list[Object]:
    said = [f"components: [{', '.join(components)}]", *(NEEDED[one] for one in components if one in NEEDED), more]
    return made(folder, ", ".join(filter(None, said)), server)


def the(objects: list[Object], kind: str, name: str = "serving") -> Object:
    (found,) = (one for one in objects if one["kind"] == kind and one["metadata"]["name"] == name)
    return found


def pod(objects: list[Object]) -> dict[str, Any]:
    """The pods' spec, whoever makes them."""
    for one in objects:
        if one["kind"] in ("Deployment", "Rollout"):
            return dict(one["spec"]["template"]["spec"])
    (service,) = (one for one in objects if one["kind"] == "InferenceService")
    return dict(service["spec"]["predictor"])


def server(objects: list[Object]) -> dict[str, Any]:
    return dict(pod(objects)["containers"][0])


OVERLAYS = ("base", *(f"overlays/{component}" for component in (*COMPONENTS, "embedded-gpu")))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_pod_is_restricted_and_ready_by_its_models(overlay: str) -> None:
    spec = pod(static(overlay))
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        # Containers beside the server have users of their own.
        own = {key: value for key, value in container["securityContext"].items() if key.startswith("runAs")}
        assert container["securityContext"] == {
            **own,
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert own.keys() == (set() if container in spec["containers"] else {"runAsUser", "runAsGroup"})
        assert spec["securityContext"]["runAsUser"] not in own.values()
        assert container["resources"]["limits"]["memory"]
        assert container["resources"]["requests"]["cpu"]
        assert container["resources"]["limits"]["ephemeral-storage"]
    container = spec["containers"][0]
    # TensorFlow Serving doesn't drain.
    script = [] if overlay.startswith("overlays/embedded") else ["bash", "/config/server/serve.sh"]
    assert container["command"] == [*script, "/usr/bin/tensorflow_model_server"]
    assert "--enable_profiler=false" in container["args"]
    # No probe needs a shell. One model that fails takes no pod away from the clients of the others.
    path = "/v1/models/digits/labels/stable/metadata"
    assert container["startupProbe"]["httpGet"] == {"port": 8501, "path": path}
    assert "--enable_grpc_healthcheck_service=true" in container["args"]
    for probe in ("readinessProbe", "livenessProbe"):
        assert container[probe]["grpc"] == {"port": 8500}
    drain = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    # Then requests in flight end, for as long again.
    assert 2 * drain < spec["terminationGracePeriodSeconds"]
    (channel,) = (flag for flag in container["args"] if flag.startswith("--grpc_channel_arguments="))
    ages = [int(age) for age in re.findall(r"_ms=(\d+)", channel)]
    # A connection gets no new requests before its pod leaves, and ends before its pod does.
    age, grace = ages
    assert 1.1 * age < 1000 * drain <= grace
    assert 1.1 * age + grace < 2000 * drain


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_object_is_known_by_its_labels_and_every_name_leads_somewhere(overlay: str) -> None:
    objects = static(overlay)
    for one in objects:
        labels = one["metadata"]["labels"]
        assert labels["app.kubernetes.io/managed-by"] == "tensorflow-serving-toolkit", one
        assert labels["app.kubernetes.io/instance"] == "serving", one
        assert {f"app.kubernetes.io/{label}" for label in ("name", "component", "part-of")} <= labels.keys(), one
    configured = {volume["configMap"]["name"] for volume in pod(objects)["volumes"] if "configMap" in volume}
    assert configured <= {one["metadata"]["name"] for one in objects if one["kind"] == "ConfigMap"}
    services = {one["metadata"]["name"] for one in objects if one["kind"] == "Service"}
    for route in (one for one in objects if one["kind"].endswith("Route")):
        assert {backend["name"] for backend in route["spec"]["rules"][0]["backendRefs"]} <= services


def test_fleets_of_one_namespace_share_no_object_and_no_pod(tmp_path: Path) -> None:
    """Every name, and every place that names or selects something, has the prefix; so have labels of the domain."""
    image = f"r:5000/f:2@sha256:{'0' * 64}"
    more = f"name_prefix: fraud-, domain: acme.example, labels: {{team: fraud}}, image: '{image}'"
    components = ("gateway", "monitoring", "object-store")
    objects = with_component(tmp_path, *components, more=more)
    names = {(one["kind"], one["metadata"]["name"]) for one in objects}
    assert all(name.startswith("fraud-serving") for _, name in names), names
    assert not re.search(r"tfserving\.internal|tensorflow-serving-toolkit/", yaml.safe_dump_all(objects))
    for one in objects:
        assert one["metadata"]["labels"]["app.kubernetes.io/version"] == "2"
        assert one["metadata"]["labels"]["team"] == "fraud"
        assert not [key for path, key in leaves(one) if "version" in key and "elector" in path], one
    labels = the(objects, "Deployment", "fraud-serving")["spec"]["template"]["metadata"]["labels"]
    assert labels["app.kubernetes.io/instance"] == "fraud-serving"
    assert labels["acme.example/track"] == "stable"
    assert labels["team"] == "fraud"
    selectors = [
        the(objects, "Deployment", "fraud-serving")["spec"]["selector"]["matchLabels"],
        the(objects, "Service", "fraud-serving")["spec"]["selector"],
        the(objects, "Service", "fraud-serving-grpc")["spec"]["selector"],
        the(objects, "Service", "fraud-serving-canary")["spec"]["selector"] | {"acme.example/track": "stable"},
        the(objects, "NetworkPolicy", "fraud-serving")["spec"]["podSelector"]["matchLabels"],
        the(objects, "PodDisruptionBudget", "fraud-serving")["spec"]["selector"]["matchLabels"],
        the(objects, "ServiceMonitor", "fraud-serving")["spec"]["selector"]["matchLabels"],
        *(one["labelSelector"]["matchLabels"] for one in pod(objects)["topologySpreadConstraints"]),
    ]
    for selector in selectors:
        assert selector["app.kubernetes.io/instance"] == "fraud-serving"
        assert selector.items() <= labels.items()
    for kind in ("HTTPRoute", "GRPCRoute"):
        (rule,) = the(objects, kind, "fraud-serving")["spec"]["rules"]
        assert [backend["name"] for backend in rule["backendRefs"]] == ["fraud-serving", "fraud-serving-canary"]
        assert the(objects, kind, "fraud-serving")["spec"]["parentRefs"][0]["name"] == "contour"
    assert server(objects)["image"] == image
    assert pod(objects)["serviceAccountName"] == "fraud-serving"
    assert the(objects, "HorizontalPodAutoscaler", "fraud-serving")["spec"]["scaleTargetRef"]["name"] == "fraud-serving"
    assert 'job=~"fraud-serving|fraud-serving-canary"' in yaml.safe_dump_all(objects, width=1000)
    kserve = pod(with_component(tmp_path, "kserve", *components, more=more))
    assert kserve["serviceAccountName"] == "fraud-serving"
    assert kserve["labels"] == labels
    mounted = {volume["configMap"]["name"] for volume in kserve["volumes"] if "configMap" in volume}
    assert mounted <= {name for kind, name in names if kind == "ConfigMap"}


def leaves(found: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Each key of an object, with the keys that lead to it."""
    if isinstance(found, dict):
        for key, value in found.items():
            yield path, key
            yield from leaves(value, f"{path}/{key}")
    if isinstance(found, list):
        for value in found:
            yield from leaves(value, path)


def test_the_base_is_what_models_yaml_comes_to(tmp_path: Path) -> None:
    base, rendered = static("base"), made(tmp_path)
    flags = {flag for flag in server(base)["args"] if "grpc_channel" not in flag}
    assert flags == {flag for flag in server(rendered)["args"] if "grpc_channel" not in flag}
    assert {one["kind"] for one in base} == {one["kind"] for one in rendered}


def test_cpus_are_a_pods_own_and_tensorflow_has_as_many_threads(tmp_path: Path) -> None:
    found = server(with_component(tmp_path, "cpu"))
    assert found["resources"]["requests"]["cpu"] == found["resources"]["limits"]["cpu"] == "3"
    assert "--tensorflow_intra_op_parallelism=3" in found["args"]
    assert not [flag for flag in found["args"] if flag.endswith("parallelism=2")]


def test_pods_are_spread_and_nothing_keeps_a_node_from_being_drained(tmp_path: Path) -> None:
    objects = made(tmp_path, "node_selector: {disk: ssd}")
    spread = pod(objects)["topologySpreadConstraints"]
    assert [one["topologyKey"] for one in spread] == ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]
    for one in spread:
        # Neither pods of a canary nor those that are being replaced count.
        assert one["labelSelector"]["matchLabels"]["tfserving.internal/track"] == "stable"
        assert one["matchLabelKeys"] == ["pod-template-hash"]
    assert pod(objects)["nodeSelector"] == {"kubernetes.io/arch": "amd64", "disk": "ssd"}
    assert the(objects, "PodDisruptionBudget")["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
    for embedded in (static("overlays/embedded"), with_component(tmp_path, "embedded")):
        assert not pod(embedded).get("nodeSelector")


def test_a_pod_is_ready_by_its_server_or_by_a_model_too(tmp_path: Path) -> None:
    assert server(made(tmp_path))["readinessProbe"]["grpc"] == {"port": 8500}
    probe = server(made(tmp_path, "ready_model: digits"))["readinessProbe"]
    assert probe["httpGet"] == {"port": 8501, "path": "/v1/models/digits/labels/stable/metadata"}
    assert "grpc" not in probe
    with pytest.raises(FleetError, match="ready_model: got 'digit', expected one of the models digits"):
        made(tmp_path, "ready_model: digit")


def test_a_volume_is_mounted_for_reading(tmp_path: Path) -> None:
    objects = with_component(tmp_path, "volume", more="claim: weights")
    (volume,) = (one for one in pod(objects)["volumes"] if one["name"] == "models")
    assert volume["persistentVolumeClaim"] == {"claimName": "weights", "readOnly": True}
    (mount,) = (one for one in server(objects)["volumeMounts"] if one["name"] == "models")
    assert mount == {"name": "models", "mountPath": "/models", "readOnly": True}
    assert server(objects)["image"] == "tensorflow/serving:2.21.0"


def test_embedded_is_another_image(tmp_path: Path) -> None:
    assert server(with_component(tmp_path, "volume", "embedded"))["image"] == "serving-embedded:2.21.0"
    assert server(with_component(tmp_path, "embedded", more="image: mine:1"))["image"] == "mine:1"


def reloads(objects: list[Object]) -> dict[str, str]:
    """Who may change what a server serves, and how long it drains, by the flags that TensorFlow Serving hasn't."""
    flags = (flag.removeprefix("--").split("=", 1) for flag in server(objects)["args"])
    return {name: value for name, value in flags if "reload" in name or name == "drain_seconds"}


def test_only_the_embedded_server_has_flags_of_its_own(tmp_path: Path) -> None:
    """A rollout tells pods what to serve, of the models' folder alone. Requests end before their pod is killed."""
    usual = {"enable_reload_config": "true", "reload_base_paths": "/models", "drain_seconds": "30"}
    for objects in (static("base"), static("overlays/volume"), with_component(tmp_path, "volume")):
        assert reloads(objects) == {}
        assert pod(objects)["terminationGracePeriodSeconds"] == 70
    embedded = (
        static("overlays/embedded"),
        with_component(tmp_path, "embedded"),
        with_component(tmp_path, "kserve", "volume", "embedded"),
        made(tmp_path, "image: 'registry.example:5000/serving-embedded:1'"),
    )
    taken: list[Flags] = []

    def take(flags: Flags) -> int:
        taken.append(flags)
        return 0

    for objects in embedded:
        assert reloads(objects) == usual
        assert pod(objects)["terminationGracePeriodSeconds"] == 70
        with pytest.raises(SystemExit):
            command(take).main(list(server(objects)["args"]), standalone_mode=False)
        assert taken[-1].reload_folders == (Path("/models"),)
        assert taken[-1].enable_reload_config
    objects = with_component(tmp_path, "embedded", more="drain_seconds: 100")
    assert reloads(objects)["drain_seconds"] == "100"
    assert pod(objects)["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"] == 100
    assert pod(objects)["terminationGracePeriodSeconds"] == 210
    off = with_component(tmp_path, "embedded", server="flags: {enable_reload_config: false}")
    assert reloads(off)["enable_reload_config"] == "false"


def test_what_is_monitored_is_scraped_alarming_and_shown(tmp_path: Path) -> None:
    settings = "monitoring: {namespace: watch, labels: {release: p}, error_rate: 0.05, p99_ms: 20}"
    objects = with_component(tmp_path, "monitoring", more=settings)
    (endpoint,) = the(objects, "ServiceMonitor")["spec"]["endpoints"]
    assert endpoint["path"] == "/monitoring/prometheus/metrics"
    assert endpoint["port"] in {port["name"] for port in the(objects, "Service")["spec"]["ports"]}
    assert the(objects, "ServiceMonitor")["metadata"]["labels"]["release"] == "p"
    rules = the(objects, "PrometheusRule")["spec"]["groups"][0]["rules"]
    limits = {rule["alert"]: rule["expr"].rpartition(" > ")[2] for rule in rules}
    assert limits["TensorFlowServingErrors"] == "0.05"
    assert limits["TensorFlowServingSlow"] == "20000"
    dashboard = the(objects, "ConfigMap", "serving-dashboard")
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(dashboard["data"]["tensorflow-serving.json"]) == json.loads(DASHBOARD.read_text())
    watching = the(objects, "NetworkPolicy")["spec"]["ingress"][2]
    assert watching["ports"] == [{"port": 8501}]
    assert watching["from"][0]["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "watch"}


def test_routes_have_weights_and_a_host_each_and_no_way_to_reload(tmp_path: Path) -> None:
    objects = with_component(tmp_path, "gateway")
    for kind, host, port in (("HTTPRoute", "m.example.com", 8501), ("GRPCRoute", "grpc.m.example.com", 8500)):
        spec = the(objects, kind)["spec"]
        assert spec["parentRefs"] == [{"name": "contour", "namespace": "gateways"}]
        assert spec["hostnames"] == [host]
        assert spec["rules"][0]["backendRefs"] == [
            {"name": "serving", "port": port, "weight": 100},
            {"name": "serving-canary", "port": port, "weight": 0},
        ]
    (rule,) = the(objects, "HTTPRoute")["spec"]["rules"]
    assert rule["matches"] == [{"path": {"type": "PathPrefix", "value": "/v1/models"}}]
    methods = [match["method"] for match in the(objects, "GRPCRoute")["spec"]["rules"][0]["matches"]]
    assert {method["service"] for method in methods} == {
        "tensorflow.serving.PredictionService",
        "tensorflow.serving.ModelService",
    }
    # Contour knows no services without their methods.
    names = ["Predict", "Classify", "Regress", "MultiInference", "GetModelMetadata", "GetModelStatus"]
    assert [method["method"] for method in methods] == names
    for name in ("serving-canary", "serving-canary-grpc"):
        assert the(objects, "Service", name)["spec"]["selector"]["tfserving.internal/track"] == "canary"
    peers = the(objects, "NetworkPolicy")["spec"]["ingress"][0]["from"]
    assert peers[-1] == {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "gateways"}}}


def test_kserve_has_the_same_pods(tmp_path: Path) -> None:
    components = ("gpu", "object-store")
    before = pod(with_component(tmp_path, *components, more="replicas: 3"))
    objects = with_component(tmp_path, "kserve", *components, more="replicas: 3")
    assert not [one for one in objects if one["kind"] in ("Deployment", "HorizontalPodAutoscaler")]
    spec = pod(objects)
    assert (spec.pop("minReplicas"), spec.pop("maxReplicas")) == (3, 10)
    assert (spec.pop("scaleMetric"), spec.pop("scaleTarget")) == ("cpu", 70)
    assert spec.pop("deploymentStrategy") == {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}
    labels = spec.pop("labels")
    for service in (one for one in objects if one["kind"] == "Service"):
        assert service["spec"]["selector"].items() <= labels.items()
    before["containers"][0]["name"] = "kserve-container"
    assert spec.pop("annotations")["kubectl.kubernetes.io/default-container"] == "kserve-container"
    before["containers"][0]["ports"].reverse()
    # KServe has a limit of its own for a container without one.
    assert spec["containers"][0]["resources"]["limits"].pop("cpu") == "1k"
    assert spec == before
    spec = pod(with_component(tmp_path, "kserve", "cpu", "volume"))
    assert spec["containers"][0]["resources"]["limits"]["cpu"] == "3"


def test_all_that_can_go_together_does(tmp_path: Path) -> None:
    objects = with_component(tmp_path, "kserve", "gateway", "monitoring", "object-store", "cpu")
    kinds = {one["kind"] for one in objects}
    assert {"InferenceService", "HTTPRoute", "GRPCRoute", "ServiceMonitor", "PrometheusRule"} <= kinds
    # Of the pods' Services, KServe's has this label.
    (unwanted,) = the(objects, "ServiceMonitor")["spec"]["selector"]["matchExpressions"]
    assert unwanted == {"key": "serving.kserve.io/inferenceservice", "operator": "DoesNotExist"}
    for one in objects:
        assert one["metadata"]["namespace"] == "default", one


def test_settings_of_the_server_are_those_of_its_pods(tmp_path: Path) -> None:
    objects = made(
        tmp_path,
        "drain_seconds: 10, memory: 3Gi, replicas: 4",
        "batching: {max_batch_size: 8}, flags: {grpc_channel_arguments: grpc.max_concurrent_streams=7}",
    )
    args = server(objects)["args"]
    assert "--enable_batching=true" in args
    assert "--batching_parameters_file=/config/server/batching_parameters.txt" in args
    channel = "grpc.max_connection_age_ms=5000,grpc.max_connection_age_grace_ms=10000,grpc.max_concurrent_streams=7"
    assert f"--grpc_channel_arguments={channel}" in args
    assert server(objects)["resources"]["limits"]["memory"] == "3Gi"
    assert the(objects, "HorizontalPodAutoscaler")["spec"]["minReplicas"] == 4
    (config,) = (one for one in objects if one["metadata"]["name"].startswith("serving-config-"))
    assert "max_batch_size" in config["data"]["batching_parameters.txt"]


def test_the_autoscaler_alone_sets_the_number_of_pods(tmp_path: Path) -> None:
    """Unless there is none: then the Deployment has it."""
    assert "replicas" not in the(static("base"), "Deployment")["spec"]
    assert "replicas" not in the(made(tmp_path, "replicas: 3"), "Deployment")["spec"]
    fixed = made(tmp_path, "replicas: 3, max_replicas: 3")
    assert the(fixed, "Deployment")["spec"]["replicas"] == 3
    assert not [one for one in fixed if one["kind"] == "HorizontalPodAutoscaler"]
    spec = pod(with_component(tmp_path, "kserve", more="replicas: 3, max_replicas: 3"))
    assert (spec["minReplicas"], spec["maxReplicas"]) == (3, 3)


def test_the_autoscaler_looks_at_what_is_set(tmp_path: Path) -> None:
    """The adapter's rules on the page have the same names."""

    def scaled(autoscaling: str) -> tuple[int, dict[str, str | int]]:
        spec = the(made(tmp_path, f"autoscaling: {{{autoscaling}}}"), "HorizontalPodAutoscaler")["spec"]
        found = {}
        for metric in spec["metrics"]:
            of = metric[metric["type"].lower()]
            target = {key: value for key, value in of["target"].items() if key != "type"}
            found[of.get("name") or of["metric"]["name"]] = next(iter(target.values()))
        return spec["behavior"]["scaleDown"]["stabilizationWindowSeconds"], found

    custom = "requests_per_second: 200, requests_in_flight: 0.25, scale_down_seconds: 0"
    names = "tensorflow_serving_requests_per_second", "tensorflow_serving_requests_in_flight"
    assert scaled("") == (300, {"cpu": 70})
    assert scaled(f"{custom}, cpu_percent: null") == (0, dict(zip(names, ("200", "250m"), strict=True)))
    assert list(scaled(custom)[1]) == ["cpu", *names]
    page = (ROOT / "docs/kubernetes.md").read_text()
    assert tuple(re.findall("name: {as: (.*)}", page)) == names


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ("{}", "kubernetes.image is missing: without the component `volume` or `object-store`"),
        ("{components: [gpu]}", "kubernetes.image is missing"),
        ("{image: 'fleet:latest'}", "kubernetes.image: got 'fleet:latest', which names another image later"),
        ("{image: 'r.example:5000/fleet'}", "kubernetes.image: got 'r.example:5000/fleet', which names another"),
        ("{toolkit_image: toolkit}", "kubernetes.toolkit_image: got 'toolkit', which names another image later"),
        ("{proxy: {image: 'e:latest'}}", "kubernetes.proxy.image: got 'e:latest', which names another image later"),
        ("{components: [volume]}\nserver: {image: serving}", "the image of the pods is serving, which names another"),
    ],
)
def test_an_image_that_may_change_is_refused(tmp_path: Path, settings: str, reason: str) -> None:
    def rendered() -> str:
        read = fleet(tmp_path, f"{GOOD}kubernetes: {settings}\n")
        return render(read, read.select(()), Kubectl())

    with pytest.raises(FleetError, match=re.escape(reason)):
        rendered()


def test_pods_are_replaced_when_models_come_and_go_and_not_when_labels_move(tmp_path: Path) -> None:
    """A running server takes no other models. Labels are a rollout's, which reaches each pod."""

    def template(models: str) -> Object:
        return dict(the(made(tmp_path, models=models), "Deployment")["spec"]["template"])

    before = template(GOOD)
    assert template(f"{GOOD}    labels: {{stable: 2}}\n") == before
    assert template(f"{GOOD}  more:\n    builder: m:build\n") != before


def test_a_newer_version_is_not_served_until_a_rollout_says_so(tmp_path: Path) -> None:
    models = GOOD + "    labels: {stable: 2}\n"
    config = the(made(tmp_path, models=models), "ConfigMap", "serving-models")["data"]["models.config"]
    assert re.findall(r"versions: (\d+)", config) == ["2"]
    assert 'key: "stable"' in config


@pytest.mark.parametrize(
    ("kubernetes", "reason"),
    [
        ("namespace: No", "kubernetes.namespace: "),
        ("components: [nothing]", "kubernetes.components.0: "),
        ("image: 'a b'", "kubernetes.image: "),
        ("name_prefix: fraud", "kubernetes.name_prefix: "),
        ("domain: Acme", "kubernetes.domain: "),
        ("domain: app.kubernetes.io", "domain is app.kubernetes.io, which Kubernetes reserves"),
        ("labels: {a b: c}", "kubernetes.labels"),
        ("labels: {app.kubernetes.io/name: c}", "labels contains app.kubernetes.io/name, which the toolkit sets"),
        ("labels: {tfserving.internal/track: c}", "labels contains tfserving.internal/track"),
        ("image: r/x@sha256:12", "kubernetes.image: got 'r/x@sha256:12', expected the name of an image"),
        ("labels: {a b: c}", "kubernetes.labels.a b: the key is 'a b', expected the key of a label"),
        ("cpu: lots", "kubernetes.cpu: "),
        ("replicas: 3, max_replicas: 2", "kubernetes: max_replicas 2 is below replicas 3"),
        ("autoscaling: {cpu_percent: null}", "cpu_percent is null. Set requests_per_second or requests_in_flight"),
        ("autoscaling: {requests_in_flight: 0}", "kubernetes.autoscaling.requests_in_flight: "),
        (
            "components: [kserve], autoscaling: {scale_down_seconds: 60}",
            "autoscaling: the component 'kserve' has cpu_percent only: the autoscaler is KServe's",
        ),
        ("components: [object-store]", "kubernetes: the component 'object-store' needs the key object_store"),
        (STORE, "kubernetes: object_store needs the component 'object-store'. Add it to components"),
        ("components: [gateway]", "kubernetes: the component 'gateway' needs the key gateway"),
        (f"components: [volume, object-store], {STORE}", "'volume' and 'object-store' exclude each other"),
        ("components: [cpu], cpu: 500m", "cpu is 500m; the component 'cpu' needs a whole number"),
        (f"components: [object-store], {STORE.replace('s3:', 'ftp:')}", "kubernetes.object_store.url: "),
        (
            f"components: [gateway], {GATEWAY[:-1]}, grpc_hostname: m.example.com}}",
            "grpc_hostname is m.example.com, the hostname of REST",
        ),
    ],
)
def test_what_cannot_be_is_told_with_its_key(tmp_path: Path, kubernetes: str, reason: str) -> None:
    with pytest.raises(FleetError, match=re.escape(reason)) as error:
        made(tmp_path, kubernetes)
    assert str(error.value).startswith(f"{tmp_path / 'models.yaml'}:")


def test_the_settings_on_the_page_can_be_set(tmp_path: Path) -> None:
    blocks = re.findall(r"^```yaml\n(.*?)^```$", (ROOT / "docs/kubernetes.md").read_text(), re.M | re.S)
    of_models = [block for block in blocks if not block.startswith("rules:")]
    assert len(of_models) > 10
    for block in of_models:
        fleet(tmp_path, GOOD + block)


def test_what_only_a_server_elsewhere_can_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FleetError, match="where no key belongs"):
        made(tmp_path, server="tls: {certificate: c, key: k}")
    with pytest.raises(FleetError, match=r"server\.monitoring: the component 'monitoring' needs the metrics page"):
        with_component(tmp_path, "monitoring", server="monitoring: false")


def test_an_overlay_can_be_named_on_the_command_line(tmp_path: Path) -> None:
    fleet(tmp_path)
    command = [sys.executable, "-m", "tfserving", "k8s", "render", "--fleet", str(tmp_path / "models.yaml")]

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *words], cwd=ROOT, capture_output=True, text=True, check=False)

    done = run("--overlay", "volume", "--overlay", "monitoring")
    assert done.returncode == 0, done.stderr
    assert "ServiceMonitor" in {one["kind"] for one in parsed(done.stdout)}
    done = run("--overlay", "gateway")
    assert (done.returncode, done.stderr) == (
        2,
        "Error: --overlay gateway: the component 'gateway' needs the key gateway\n",
    )
