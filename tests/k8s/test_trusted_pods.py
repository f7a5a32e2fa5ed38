"""The manifests with `trust`: every way by which a model gets into a pod leads through a signature or a digest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.k8s.needed import KUBECTL
from tests.k8s.test_argo_manifests import job as argo_job
from tests.k8s.test_in_cluster_job import state
from tests.k8s.test_manifests import GATEWAY, STORE, parsed, pod, server, the
from tests.serving.fleets import GOOD, fleet
from tfserving.k8s.kubectl import Kubectl, Object
from tfserving.k8s.lint.rules import lint
from tfserving.k8s.rendering import render
from tfserving.k8s.rollout.in_cluster.files import FILES, MODELS_YAML, files
from tfserving.k8s.rollout.in_cluster.job import job
from tfserving.serving.models_yaml.fleet import Fleet, FleetError, read_fleet

DIGEST = f"@sha256:{'5' * 64}"
PINNED = f"image: 'r/server:1{DIGEST}', toolkit_image: 'r/toolkit:1{DIGEST}', proxy: {{image: 'r/envoy:1{DIGEST}'}}"
PEM = "-----BEGIN PUBLIC KEY-----\nTUlJ\n-----END PUBLIC KEY-----\n"
SOURCES = {"volume": "components: [volume]", "store": f"components: [object-store], {STORE}"}

pytestmark = KUBECTL


def trusting(folder: Path, kubernetes: str, key: str = PEM, more: str = "") -> Fleet:
    (folder / "release.pub").write_text(key)
    text = f"{GOOD}    labels: {{stable: 1}}\ntrust: {{keys: [release.pub]}}\nkubernetes: {{{kubernetes}}}\n{more}"
    return fleet(folder, text)


def rendered(made: Fleet) -> list[Object]:
    return parsed(render(made, made.select(()), Kubectl()))


def from_source(folder: Path, source: str, component: str = "", key: str = PEM) -> list[Object]:
    settings = SOURCES[source].replace("]", f", {component}]" if component else "]", 1)
    more = f", {GATEWAY}" if component == "gateway" else ""
    return rendered(trusting(folder, f"{settings}{more}, {PINNED}", key))


@pytest.mark.parametrize(
    ("source", "component"),
    [("volume", ""), ("volume", "argo-rollouts"), ("store", "kserve"), ("store", "proxy"), ("store", "gateway")],
)
def test_each_pod_copies_what_is_signed_and_serves_the_copy(tmp_path: Path, source: str, component: str) -> None:
    found = from_source(tmp_path, source, component)
    spec = pod(found)
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    assert set(volumes["models"]) == {"name", "emptyDir"}
    (config,) = (one for one in found if one["metadata"]["name"].startswith("serving-trust-"))
    assert config["data"]["key-1-release.pub"] == PEM
    assert volumes["trust"]["configMap"]["name"] == config["metadata"]["name"]
    copying = [one for one in spec["initContainers"] if one["name"].startswith("sync")]
    assert [one["name"] for one in copying] == ["sync-first", "sync"]
    for one in copying:
        mounts = {mount["name"]: mount for mount in one["volumeMounts"]}
        assert f"--trust={mounts['trust']['mountPath']}" in one["args"]
        assert mounts["trust"]["readOnly"]
        assert one["args"][0] == {"volume": "file:///published", "store": "s3://bucket/prefix"}[source]
        if source == "volume":
            assert mounts["published"]["readOnly"]
            assert f"/{mounts['published']['name']}" == mounts["published"]["mountPath"]
    # No other container reads what others may write to.
    (mount,) = (mount for mount in server(found)["volumeMounts"] if mount["mountPath"] == "/models")
    assert mount == {"name": "models", "mountPath": "/models", "readOnly": True}
    assert not {"published", "trust", "store"} & {mount["name"] for mount in server(found)["volumeMounts"]}
    assert [str(one) for one in lint(found)] == []


@pytest.mark.parametrize("source", SOURCES)
def test_the_job_of_argo_reads_golden_requests_from_signed_copies(tmp_path: Path, source: str) -> None:
    found = from_source(tmp_path, source, "argo-rollouts")
    spec = argo_job(found)
    (copying,) = spec["initContainers"]
    assert copying["args"][2:] == [
        "--paths={{args.versions}}",
        "--newest=0",
        "--max-bytes=10200547328",
        "--trust=/config/trust",
        "--once",
    ]
    (canary,) = the(found, "Rollout")["spec"]["strategy"]["canary"]["steps"][0]["experiment"]["analyses"]
    assert {one["name"]: one.get("value") for one in canary["args"]}["versions"] == "/models/digits/1"
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    (config,) = (one for one in found if one["metadata"]["name"].startswith("serving-trust-"))
    assert volumes["trust"]["configMap"]["name"] == config["metadata"]["name"]
    assert set(volumes["models"]) == {"name", "emptyDir"}
    (verifying,) = spec["containers"]
    assert {mount["name"] for mount in verifying["volumeMounts"]} == {"models", "tmp"}
    assert {mount["name"] for mount in copying["volumeMounts"]} <= volumes.keys()


def test_other_keys_are_other_pods(tmp_path: Path) -> None:
    def template(key: str) -> Any:
        return the(from_source(tmp_path, "store", key=key), "Deployment")["spec"]["template"]

    assert template(PEM) != template(PEM.replace("TUlJ", "TUlK"))
    # With the models in the image, too: pods show whom they trust.
    image = rendered(trusting(tmp_path, PINNED))
    annotations = the(image, "Deployment")["spec"]["template"]["metadata"]["annotations"]
    assert annotations["tfserving.internal/trust"]
    assert not [one for one in image if one["metadata"]["name"].startswith("serving-trust")]
    assert [str(one) for one in lint(image)] == []


@pytest.mark.parametrize(
    ("kubernetes", "named"),
    [
        ("image: 'r/fleet:1'", "kubernetes.image is r/fleet:1"),
        (f"{SOURCES['store']}, image: 'r/s{DIGEST}'", "kubernetes.toolkit_image is serving-toolkit:1"),
        (SOURCES["volume"], "kubernetes.image is tensorflow/serving:2.21.0, kubernetes.toolkit_image is"),
        (
            f"components: [proxy], image: 'r/f{DIGEST}', proxy: {{image: 'e:1'}}",
            "kubernetes.proxy.image is e:1",
        ),
        (f"components: [argo-rollouts], image: 'r/f{DIGEST}'", "kubernetes.toolkit_image is serving-toolkit:1"),
    ],
)
def test_attack_the_tag_of_an_image_is_moved(tmp_path: Path, kubernetes: str, named: str) -> None:
    """An image by tag is refused, whichever of the pod's it is. The error names its setting."""
    with pytest.raises(
        FleetError, match="expected a digest, since who can write to a registry can move a tag"
    ) as caught:
        rendered(trusting(tmp_path, kubernetes))
    assert named in str(caught.value)


def test_a_private_key_is_never_rendered(tmp_path: Path) -> None:
    with pytest.raises(FleetError, match=r"release\.pub has a private key, which must not leave this machine"):
        from_source(tmp_path, "store", key=PEM.replace("PUBLIC", "PRIVATE"))


@pytest.mark.parametrize("source", [*SOURCES, "image"])
def test_a_rollout_in_the_cluster_trusts_the_same_and_reads_its_own_copies(tmp_path: Path, source: str) -> None:
    settings = SOURCES[source] + ", " if source != "image" else ""
    made = trusting(tmp_path, f"{settings}{PINNED}", more="sign: {key: release.pem}\n")
    manifests = rendered(made)
    written = files(made, ("digits",), state(), made.rollout)
    (tmp_path / "pod").mkdir()
    for name, text in written.items():
        (tmp_path / "pod" / name).write_text(text)
    again = read_fleet(tmp_path / "pod" / MODELS_YAML)
    # What is rendered there, as a rollout by pods does, has the same keys; the signer's file is not known there.
    assert again.trusted
    assert [path.read_text() for path in again.trusted.keys] == [PEM]
    assert again.sign is None
    assert "release.pem" not in written[MODELS_YAML]
    assert the(rendered(again), "Deployment")["spec"]["template"]["metadata"]["annotations"]
    spec: dict[str, Any] = job(made, "digits", manifests, 180)["spec"]["template"]["spec"]
    (fleet_files,) = (volume for volume in spec["volumes"] if volume["name"] == "fleet")
    assert {one["key"] for one in fleet_files["configMap"]["items"]} == written.keys()
    volumes = {volume["name"] for volume in spec["volumes"]}
    for one in (*spec["initContainers"], *spec["containers"]):
        assert {mount["name"] for mount in one["volumeMounts"]} <= volumes
    if source != "image":
        (copying,) = spec["initContainers"]
        # The ConfigMap with the keys of the last `apply` may be another one.
        assert f"--trust={FILES}" in copying["args"]
        assert "trust" not in volumes
    (models,) = (volume for volume in spec["volumes"] if volume["name"] == "models")
    assert set(models) == {"name", "emptyDir"}
