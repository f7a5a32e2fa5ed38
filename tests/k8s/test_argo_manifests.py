"""The manifests of the component `argo-rollouts`: the Rollout, its gates and their Job."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.k8s.test_manifests import made, the, with_component
from tests.serving.fleets import GOOD, fleet
from tfserving.cli import tfserving
from tfserving.k8s.kubectl import Object
from tfserving.serving.models_yaml.fleet import FleetError, read_fleet
from tfserving.serving.models_yaml.kubernetes import ArgoRollouts

PAGE = Path(__file__).resolve().parents[2] / "docs/argo_rollouts.md"
PROMETHEUS = "argo_rollouts: {prometheus: 'http://prometheus:9090'}"
ROLLOUT = (
    "rollout: {weights: [25, 100], window: 7.5, longest: 60, bake: 20, error_rate: 0.1, latency: 2, slack_ms: 3}\n"
)


def steps(objects: list[Object]) -> list[dict[str, Any]]:
    return list(the(objects, "Rollout")["spec"]["strategy"]["canary"]["steps"])


def job(objects: list[Object]) -> dict[str, Any]:
    """The spec of the pod that verifies."""
    (metric,) = the(objects, "AnalysisTemplate", "serving-verify")["spec"]["metrics"]
    return dict(metric["provider"]["job"]["spec"]["template"]["spec"])


def test_a_rollout_has_the_pods_of_the_deployment_and_the_autoscaler_scales_it(tmp_path: Path) -> None:
    before = with_component(tmp_path, "volume")
    after = with_component(tmp_path, "volume", "argo-rollouts")
    deployment, rollout = the(before, "Deployment")["spec"], the(after, "Rollout")["spec"]
    assert not [one for one in after if one["kind"] == "Deployment"]
    (volume,) = (one for one in rollout["template"]["spec"]["volumes"] if one["name"] == "models-config")
    named = {one["metadata"]["name"] for one in after if one["kind"] == "ConfigMap"}
    assert volume["configMap"]["name"] in named - {"serving-models"}
    volume["configMap"]["name"] = "serving-models"
    assert rollout["template"] == deployment["template"]
    assert rollout["selector"] == deployment["selector"]
    assert "replicas" not in rollout
    scaled = the(after, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    assert scaled == {"apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout", "name": "serving"}


def test_a_label_that_changes_is_a_change_of_the_pods(tmp_path: Path) -> None:
    def template(version: int) -> dict[str, Any]:
        models = f"{GOOD}    labels: {{stable: {version}}}\n"
        found = made(tmp_path, "components: [volume, argo-rollouts]", models=models)
        return dict(the(found, "Rollout")["spec"]["template"])

    assert template(2) != template(1)


def test_the_keys_of_rollout_are_its_steps_and_limits(tmp_path: Path) -> None:
    kubernetes = f"components: [volume, argo-rollouts], {PROMETHEUS}"
    objects = made(tmp_path, kubernetes, models=GOOD + ROLLOUT)
    first, *others = steps(objects)
    assert first["experiment"]["templates"][0]["metadata"]["labels"] == {"tfserving.internal/track": "verify"}
    gates = [one.get("setWeight") or [gate["templateName"] for gate in one["analysis"]["templates"]] for one in others]
    assert gates == [25, ["serving-errors", "serving-latency"], 100, ["serving-errors"]]
    assert [arg["value"] for one in others if "analysis" in one for arg in one["analysis"]["args"][2:]] == ["8", "20"]
    errors, latency = (
        the(objects, "AnalysisTemplate", f"serving-{name}")["spec"]["metrics"][0] for name in ("errors", "latency")
    )
    assert errors["failureCondition"].endswith("> 0.2")
    assert latency["failureCondition"].endswith("> 2")
    assert "- 3000" in latency["provider"]["prometheus"]["query"]
    assert errors["count"] == 8

    without = made(tmp_path, "components: [volume, argo-rollouts]", models=GOOD + ROLLOUT)
    assert [one for one in steps(without)[1:] if "setWeight" not in one] == [
        {"pause": {"duration": "8s"}},
        {"pause": {"duration": "20s"}},
    ]
    assert [one["metadata"]["name"] for one in without if one["kind"] == "AnalysisTemplate"] == ["serving-verify"]
    manual = made(tmp_path, "components: [volume, argo-rollouts]", models=GOOD + "rollout: {manual: true}\n")
    assert steps(manual)[1] == {"pause": {}}


def test_the_job_finds_the_golden_requests_where_the_pods_find_their_models(tmp_path: Path) -> None:
    image = made(tmp_path, "components: [argo-rollouts], image: 'r.example/fleet:3'")
    (copies,) = job(image)["initContainers"]
    assert copies["image"] == "r.example/fleet:3"

    volume = made(tmp_path, "components: [volume, argo-rollouts], claim: ours")
    assert "initContainers" not in job(volume)
    mounted = {"name": "models", "persistentVolumeClaim": {"claimName": "ours", "readOnly": True}}
    assert mounted in job(volume)["volumes"]

    said = "components: [object-store, argo-rollouts], object_store: {url: 's3://bucket/prefix', secret: keys}"
    store = made(tmp_path, said)
    assert "initContainers" not in job(store)
    assert {one["name"] for one in job(store)["volumes"]} == {"tmp", "store"}
    versions = steps(store)[0]["experiment"]["analyses"][0]["args"][1]["value"].split()
    assert all(one.startswith("s3://bucket/prefix/") for one in versions)
    policies = [the(store, "NetworkPolicy", name)["spec"] for name in ("serving-verify-store", "serving")]
    assert policies[0]["egress"] == policies[1]["egress"]


def test_the_settings_of_the_page(tmp_path: Path) -> None:
    (said,) = re.findall(r"^```yaml\n(kubernetes:.*?)^```$", PAGE.read_text(), re.M | re.S)
    (tmp_path / "models.yaml").write_text(GOOD + said)
    read = read_fleet(tmp_path / "models.yaml")
    table = PAGE.read_text().partition("## Settings")[2].partition("## Figures")[0]
    rows = dict(re.findall(r"^\| `(?:kubernetes\.argo_rollouts|rollout)\.(\w+)` \|.*\| ([^|]+) \|$", table, re.M))
    settings = {**ArgoRollouts().model_dump(), **read.rollout.model_dump()}
    assert rows.keys() == {*ArgoRollouts.model_fields, "weights", "window", "longest", "bake", "error_rate", "manual"}
    words = {"none": None, "false": False, "5, 25, 50, 100": (5, 25, 50, 100)}
    for key, text in rows.items():
        assert settings[key] == (words[text] if text in words else float(text)), key


def test_nothing_else_rolls_out_meanwhile(tmp_path: Path) -> None:
    with pytest.raises(FleetError, match="'kserve' and 'argo-rollouts' exclude each other"):
        made(tmp_path, "components: [volume, kserve, argo-rollouts]")
    read = fleet(tmp_path, f"{GOOD}kubernetes: {{components: [volume, argo-rollouts]}}\n")
    words = ["rollout", "start", next(iter(read.models)), "--cluster", "--fleet", str(read.file)]
    done = CliRunner().invoke(tfserving, words)
    assert done.exit_code == 2, done.output
    assert "the component 'argo-rollouts' rolls out what models.yaml contains" in done.output
