"""Who reaches a pod, what it reaches, and who has the keys of its store, in the manifests."""

from __future__ import annotations

import re
import subprocess
from importlib.resources import files as package_files
from pathlib import Path

import pytest

from tests.k8s.needed import KUBECTL
from tests.k8s.test_manifests import GATEWAY, K8S, STORE, made, pod, server, static, the
from tfserving.k8s.kubectl import Object
from tfserving.k8s.names import Names
from tfserving.k8s.proxy import configuration
from tfserving.serving.models_yaml.fleet import FleetError
from tfserving.serving.models_yaml.kubernetes import Kubernetes

pytestmark = KUBECTL


def test_the_network_lets_in_clients_and_rollouts_and_nothing_out(tmp_path: Path) -> None:
    spec = the(static("base"), "NetworkPolicy")["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    clients, rollouts = spec["ingress"]
    for rule in (clients, rollouts):
        assert [port["port"] for port in rule["ports"]] == [8500, 8501]
    assert clients["from"][0] == {"podSelector": {}}
    assert rollouts["from"] == [{"podSelector": {"matchLabels": {Names().rollout_pod: "true"}}}]
    assert not spec.get("egress")
    labelled = the(made(tmp_path, "clients: labelled"), "NetworkPolicy")["spec"]["ingress"][0]
    assert labelled["from"][0] == {"podSelector": {"matchLabels": {Names().client: "true"}}}


def test_a_proxy_has_the_ports_of_clients_and_the_server_those_of_rollouts_and_prometheus(tmp_path: Path) -> None:
    settings = f"{GATEWAY}, drain_seconds: 8, proxy: {{image: 'envoy:1', memory: 512Mi, max_connections: 9}}"
    objects = made(tmp_path, f"image: fleet:1, components: [gateway, monitoring, proxy], {settings}")
    (proxy,) = pod(objects)["initContainers"]
    assert (proxy["image"], proxy["restartPolicy"]) == ("envoy:1", "Always")
    assert proxy["resources"]["limits"]["memory"] == "512Mi"
    services = [the(objects, "Service", name) for name in ("serving", "serving-canary")]
    for one in services:
        assert [port["targetPort"] for port in one["spec"]["ports"]] == [8601, 8600]
    for name in ("serving-grpc", "serving-canary-grpc"):
        assert [port["targetPort"] for port in the(objects, "Service", name)["spec"]["ports"]] == [8600]
    rules = the(objects, "NetworkPolicy")["spec"]["ingress"]
    assert [[port["port"] for port in rule["ports"]] for rule in rules] == [
        [8600, 8601],
        [8500, 8501, 8600, 8601],
        [8501],
    ]
    (endpoint,) = the(objects, "ServiceMonitor")["spec"]["endpoints"]
    assert (endpoint["targetPort"], endpoint.get("port")) == ("rest", None)
    (config,) = (one for one in objects if one["metadata"]["name"].startswith("serving-proxy-"))
    text = config["data"]["envoy.yaml"]
    # Connections end before their pod does.
    assert text.count("max_connection_duration: '4s'") == 2
    assert text.count("max_connections: 9\n") == 2
    assert "max_active_downstream_connections: 9\n" in text
    assert "max_heap_size_bytes: 429496729\n" in text


def test_the_proxys_configuration_in_the_repository_is_that_of_the_code_and_envoy_takes_it() -> None:
    path = K8S / "components/proxy/envoy.yaml"
    assert path.read_text() == configuration(Kubernetes())
    program = str(package_files("envoy") / "_bin/envoy")
    words = [program, "--mode", "validate", "--config-path", str(path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def stored(folder: Path, settings: str) -> list[Object]:
    return made(folder, f"components: [object-store], {STORE.replace('}', f', {settings}}}')}")


def test_an_object_store_is_read_before_and_beside_the_server_by_those_who_have_its_keys(tmp_path: Path) -> None:
    settings = "endpoint: 'https://10.1.2.3:9000', secret: keys, interval: 7, newest: 4, size: 2Gi"
    objects = stored(tmp_path, settings)
    first, beside = pod(objects)["initContainers"]
    assert "--once" in first["args"]
    assert beside["restartPolicy"] == "Always"
    assert "--interval=7" in beside["args"]
    for container in (first, beside):
        assert container["args"][:2] == ["s3://bucket/prefix", "/models"]
        assert "--newest=4" in container["args"]
        # Below the size of the volume, above which the pod is evicted, and which the disk of its containers includes.
        (most,) = (flag for flag in container["args"] if flag.startswith("--max-bytes="))
        assert int(most.partition("=")[2]) < 2 << 30
        for which in ("requests", "limits"):
            assert container["resources"][which]["ephemeral-storage"] == "2304Mi"
        # The names of files, and no key.
        assert {one["name"]: one["value"] for one in container["env"]} == {
            "AWS_ENDPOINT_URL": "https://10.1.2.3:9000",
            "AWS_SHARED_CREDENTIALS_FILE": "/secrets/store/credentials",
        }
        assert {"name": "store", "mountPath": "/secrets/store", "readOnly": True} in container["volumeMounts"]
        assert "envFrom" not in container
    (mount,) = (one for one in server(objects)["volumeMounts"] if one["name"] == "models")
    assert mount["readOnly"] is True
    assert "store" not in {one["name"] for one in server(objects)["volumeMounts"]}
    assert "shareProcessNamespace" not in pod(objects)


def test_a_store_of_google_has_its_key_in_a_file(tmp_path: Path) -> None:
    store = STORE.replace("s3://", "gs://").replace("}", ", secret: keys}")
    objects = made(tmp_path, f"components: [object-store], {store}")
    (variable,) = pod(objects)["initContainers"][0]["env"]
    assert variable == {"name": "GOOGLE_APPLICATION_CREDENTIALS", "value": "/secrets/store/key.json"}
    (volume,) = (one for one in pod(objects)["volumes"] if one["name"] == "store")
    assert volume["secret"] == {"secretName": "keys", "items": [{"key": "key.json", "path": "key.json"}]}


@pytest.mark.parametrize(
    ("settings", "peers", "ports"),
    [
        ("secret: keys", ["0.0.0.0/0", "::/0"], [443]),
        ("secret: keys, endpoint: 'http://10.1.2.3:9000'", ["10.1.2.3/32"], [9000]),
        ("secret: keys, endpoint: 'https://s3.example.com'", ["0.0.0.0/0", "::/0"], [443]),
        (
            "secret: keys, egress: {cidrs: [10.1.0.0/16, 'fd00::/8'], ports: [443, 8443]}",
            ["10.1.0.0/16", "fd00::/8"],
            [443, 8443],
        ),
        (
            "secret: keys, endpoint: 'http://minio.store.svc:80', egress: {namespace: store, ports: [9000]}",
            ["store"],
            [9000],
        ),
        # Who gives the account its role.
        ("interval: 1", ["0.0.0.0/0", "::/0", "169.254.170.23/32"], [443, 80]),
    ],
)
def test_pods_reach_the_store_and_dns_alone(tmp_path: Path, settings: str, peers: list[str], ports: list[int]) -> None:
    dns, *rules = the(stored(tmp_path, settings), "NetworkPolicy")["spec"]["egress"]
    assert [port["port"] for port in dns["ports"]] == [53, 53]
    assert dns["to"][0]["podSelector"]["matchLabels"] == {"k8s-app": "kube-dns"}
    found = [peer for rule in rules for peer in rule["to"]]
    namespaces = [
        one["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"] for one in found if "ipBlock" not in one
    ]
    assert namespaces + [one["ipBlock"]["cidr"] for one in found if "ipBlock" in one] == peers
    assert [port["port"] for rule in rules for port in rule["ports"]] == ports
    for one in found:
        if one.get("ipBlock", {}).get("cidr") == "0.0.0.0/0":
            assert {"10.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16"} <= set(one["ipBlock"]["except"])


def test_the_webhook_of_eks_gives_a_token_to_those_alone_who_read_the_store(tmp_path: Path) -> None:
    objects = stored(tmp_path, "account_annotations: {eks.amazonaws.com/role-arn: 'arn:aws:iam::1:role/models'}")
    annotations = the(objects, "Deployment")["spec"]["template"]["metadata"]["annotations"]
    assert annotations["eks.amazonaws.com/skip-containers"] == "server,proxy"


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ("endpoint: 'http://minio:9000'", "endpoint is http://minio:9000, in this cluster. Set egress.namespace"),
        ("endpoint: 'http://minio.store.svc.cluster.local:9000'", "in this cluster. Set egress.namespace"),
        ("egress: {cidrs: [10.1.2.3/8]}", "egress.cidrs.0: got '10.1.2.3/8', expected addresses such as 10.1.2.0/24"),
        ("egress: {ports: [70000]}", "egress.ports.0: "),
    ],
)
def test_what_a_policy_cannot_say_is_an_error(tmp_path: Path, settings: str, problem: str) -> None:
    with pytest.raises(FleetError, match=re.escape(problem)):
        stored(tmp_path, settings)
