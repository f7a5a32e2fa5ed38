"""A label that a rollout moves, and another engine that applies manifests with the label before it.

Argo CD and Flux apply as here: on the server, by a field manager of their own. They themselves are not run.
"""

from __future__ import annotations

import json
import re
import subprocess
import uuid
from pathlib import Path

import pytest
import yaml

from tests.cluster.node import Cluster
from tfserving.k8s.kubectl import CHANGER, Kubectl
from tfserving.k8s.names import STABLE, Names
from tfserving.k8s.rollout.cluster import ClusterTarget
from tfserving.k8s.rollout.target import Serve
from tfserving.serving.models_yaml.kubernetes import Kubernetes
from tfserving.serving.served import Served

PAGE = Path(__file__).resolve().parents[2] / "docs/gitops.md"

CONFIG = """\
model_config_list {{ config {{ name: "m" base_path: "/models/m" model_platform: "tensorflow"
  model_version_policy {{ specific {{ versions: {0} }} }} version_labels {{ key: "stable" value: {0} }} }} }}
"""
NAME = Names().config_map(STABLE)


def test_a_label_stays_where_the_engine_leaves_the_field(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    namespace = f"gitops-{uuid.uuid4().hex[:8]}"
    command = [cluster.program, "--kubeconfig", str(cluster.kubeconfig), f"--namespace={namespace}"]

    def sync(data: dict[str, str], *options: str) -> str:
        """What the engine does; the error, if any."""
        made = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": NAME}, "data": data}
        words = ["apply", "--server-side", "--field-manager=engine", "--filename=-", *options]
        done = subprocess.run([*command, *words], input=json.dumps(made), capture_output=True, text=True, check=False)
        return done.stderr if done.returncode else ""

    def found() -> dict[str, str]:
        words = ["get", "configmap", NAME, "--output=json", "--show-managed-fields"]
        config_map = json.loads(subprocess.run([*command, *words], capture_output=True, check=True).stdout)
        owners = {
            one["manager"]
            for one in config_map["metadata"]["managedFields"]
            if "f:models.config" in str(one["fieldsV1"])
        }
        return {**config_map["data"], "owners": ",".join(sorted(owners))}

    cluster.run("create", "namespace", namespace)
    try:
        assert sync({"models.config": CONFIG.format(1), "health.sh": "one"}) == ""
        kubectl = Kubectl(namespace)
        monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
        target = ClusterTarget(kubectl, Names(), 5, lambda *_: None)
        target.keep(Serve("m", (Served("m", "m", (2,), {"stable": 2}),)))
        assert "value: 2" in found()["models.config"]
        # By this name Argo CD knows what to leave (managedFieldsManagers).
        assert found()["owners"] == CHANGER

        # An engine that was told to leave the field applies the others.
        assert sync({"health.sh": "two"}) == ""
        assert ("value: 2" in found()["models.config"], found()["health.sh"]) == (True, "two")
        # One that wasn't has a conflict, and takes the label back where it forces.
        assert f'conflict with "{CHANGER}"' in sync({"models.config": CONFIG.format(1), "health.sh": "two"})
        assert "value: 2" in found()["models.config"]
        assert sync({"models.config": CONFIG.format(1), "health.sh": "two"}, "--force-conflicts") == ""
        assert "value: 1" in found()["models.config"]
    finally:
        cluster.run("delete", "namespace", namespace, "--wait=false")


def test_the_page_names_what_a_rollout_changes_and_as_whom() -> None:
    settings, argo, flux = (
        yaml.safe_load(one) for one in re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    )
    Kubernetes.model_validate(settings["kubernetes"])
    ignored = argo["spec"]["ignoreDifferences"]
    assert {(one["kind"], one["name"]) for one in ignored} == {
        ("ConfigMap", NAME),
        ("HTTPRoute", Names().serving),
        ("GRPCRoute", Names().serving),
    }
    assert all(one["managedFieldsManagers"] == [CHANGER] for one in ignored)
    (patched,) = flux["spec"]["patches"]
    assert patched["target"] == {"kind": "ConfigMap", "name": NAME}
