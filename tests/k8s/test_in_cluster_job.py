"""The Job of a rollout, its account, and what its pod reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format

from tests.k8s.needed import KUBECTL
from tests.serving.fleets import fleet
from tfserving.foundation.messages import ModelServerConfig
from tfserving.k8s.kubectl import Kubectl
from tfserving.k8s.names import Names
from tfserving.k8s.rendering import objects, render
from tfserving.k8s.rollout.in_cluster.account import permissions
from tfserving.k8s.rollout.in_cluster.files import FILES, MODELS_YAML, check, files
from tfserving.k8s.rollout.in_cluster.job import job
from tfserving.k8s.rollout.state import State, StrategyName
from tfserving.k8s.rollout.target import RolloutError
from tfserving.serving.config import MODELS_CONFIG
from tfserving.serving.models_yaml.fleet import Fleet, read_fleet

MODELS = """\
models:
  digits: {builder: 'no.such.module:build', labels: {stable: 1}, golden: [more.json]}
  dense: {builder: 'no.such.module:build'}
"""
PLACES = {
    "volume": "components: [volume]",
    "store": "components: [object-store], object_store: {url: 's3://b/p', secret: keys}",
    "image": "image: 'r/f:1'",
}


def state(strategy: StrategyName = "in-place") -> State:
    return State("digits", 1, 2, {"stable": 1}, (1,), (2,), strategy)


def read(folder: Path, kubernetes: str = PLACES["volume"], more: str = "") -> Fleet:
    return fleet(folder, f"{MODELS}kubernetes: {{namespace: there, name_prefix: a-, {kubernetes}}}\n{more}")


@KUBECTL
@pytest.mark.parametrize("place", PLACES)
def test_its_pod_is_restricted_and_has_the_models(tmp_path: Path, place: str) -> None:
    made = read(tmp_path, PLACES[place])
    found = job(made, "digits", objects(render(made, ("digits", "dense"), Kubectl())), 180)
    spec: dict[str, Any] = found["spec"]["template"]["spec"]
    assert found["metadata"]["name"] == "a-serving-rollout-digits"
    assert found["spec"]["template"]["metadata"]["labels"]["tfserving.internal/rollout"] == "true"
    volumes = {volume["name"] for volume in spec["volumes"]}
    assert spec["securityContext"]["runAsNonRoot"]
    for one in (*spec.get("initContainers", []), *spec["containers"]):
        context = one["securityContext"]
        assert context["readOnlyRootFilesystem"]
        assert not context["allowPrivilegeEscalation"]
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert one["resources"]["limits"]["memory"]
        assert {mount["name"] for mount in one["volumeMounts"]} <= volumes
        assert "s3://b/p" not in one.get("args", []) or f"--config={FILES}/models.config" in one["args"]
    assert [one["name"] for one in spec.get("initContainers", [])] == {
        "store": ["sync-first"],
        "image": ["models"],
    }.get(place, [])


def test_it_reads_models_yaml_as_it_was_at_the_start(tmp_path: Path) -> None:
    made = read(
        tmp_path, more="rollout: {bake: 3, quality: {accuracy: {at_least: 0.5}}}\nserver: {grpc_max_threads: 99}\n"
    )
    settings = made.rollout.model_copy(update={"window": 7.0})
    (tmp_path / "pod").mkdir()
    for strategy, models in (("in-place", {"digits"}), ("pods", {"digits", "dense"})):
        written = files(made, ("digits", "dense"), state(strategy), settings)  # type: ignore[arg-type]
        (tmp_path / "pod" / MODELS_YAML).write_text(written[MODELS_YAML])
        again = read_fleet(tmp_path / "pod" / MODELS_YAML)
        assert again.rollout == settings
        assert again.server == made.server
        assert again.kubernetes == made.kubernetes
        assert str(again.model_folder("digits")) == "/models/digits"
        # Its pods begin with the labels of now, whatever else lies on its volume.
        assert again.models["dense"].labels == ({"stable": 3} if "dense" in models else {})
        config = text_format.Parse(written[MODELS_CONFIG], ModelServerConfig()).model_config_list.config
        copied = {one.name: list(one.model_version_policy.specific.versions) for one in config}
        assert copied.keys() == models
        assert copied["digits"] == [1, 2]


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ("rollout: {commands: [[./check.sh, --all]]}", "rollout.commands: .* doesn't contain ./check.sh --all"),
        ("rollout: {shadow: captured.tfrecord}", "rollout.shadow: .*captured.tfrecord"),
    ],
)
def test_a_gate_that_needs_the_users_machine_is_refused(tmp_path: Path, more: str, reason: str) -> None:
    made = read(tmp_path, more=more)
    with pytest.raises(RolloutError, match=reason):
        check(made, "digits", made.rollout)


@pytest.mark.parametrize("evaluation", ["rows.npz", "mymodel:rows", "{metric: 'mymodel:worst'}"])
def test_so_are_rows_and_metrics_of_the_users_own(tmp_path: Path, evaluation: str) -> None:
    text = MODELS.replace("golden: [more.json]", f"evaluation: {evaluation}")
    made = fleet(tmp_path, text)
    with pytest.raises(RolloutError, match=r"^models\.digits\.evaluation\."):
        check(made, "digits", made.rollout)
    check(made, "dense", made.rollout)


def test_its_account_changes_what_it_must_and_creates_nothing(tmp_path: Path) -> None:
    """By pods, a second Deployment must be created, and what belongs to it."""
    made = read(tmp_path)
    for rule in permissions(made):
        assert "create" not in rule["verbs"]
        assert rule["resources"] == ["pods"] or rule["resourceNames"]
        assert rule["resources"] != ["pods"] or rule["verbs"] == ["get", "list"]
    gateway = "components: [volume, gateway], gateway: {name: g, namespace: g, hostname: h.test}"
    creates = [rule["resources"][0] for rule in permissions(read(tmp_path, gateway)) if "create" in rule["verbs"]]
    assert creates == ["configmaps", "deployments", "horizontalpodautoscalers", "poddisruptionbudgets"]


@pytest.mark.parametrize("model", ["digits", "A.B", "a" * 200, "a_b"])
@pytest.mark.parametrize("prefix", ["", "a" * 30 + "-"])
def test_its_name_is_also_a_label(model: str, prefix: str) -> None:
    name = Names(prefix).job(model)
    assert len(name) <= 63
    assert "." not in name
    assert name.startswith(f"{prefix}serving-rollout-")
