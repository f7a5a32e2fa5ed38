"""Why pods don't come up, in words: over what a real API server said of such pods (`pods/`)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tfserving.k8s.kubectl import Kubectl, Object
from tfserving.k8s.pods import Trouble, found_in, ready, refused, running, trouble

RECORDED = Path(__file__).with_name("pods")


def recorded(name: str) -> Object:
    return dict(json.loads((RECORDED / f"{name}.json").read_text()))


def said(name: str) -> Trouble:
    found = found_in(recorded(name))
    assert found
    return found


def test_a_pod_that_serves_has_none() -> None:
    pod = recorded("ready")
    assert ready(pod)
    assert running(pod)
    assert found_in(pod) is None


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("image", "cannot pull image nowhere.invalid/none:1: ErrImagePull: "),
        ("memory", "ran out of memory. Raise `kubernetes.memory` in models.yaml."),
        ("secret", 'cannot create the container sync-first: secret "nokeys" not found'),
    ],
)
def test_what_keeps_a_pod_from_starting_is_told(name: str, text: str) -> None:
    assert text in said(name).text
    assert f"pod {recorded(name)['metadata']['name']}" in said(name).text
    assert not said(name).passing
    assert not ready(recorded(name))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("unschedulable", ": 0/1 nodes are available: 1 Insufficient cpu."),
        ("claim", ': 0/1 nodes are available: persistentvolumeclaim "none" not found.'),
    ],
)
def test_what_a_cluster_may_still_find_is_waited_for(name: str, text: str) -> None:
    assert text in said(name).text
    assert said(name).passing


def test_a_server_that_ends_is_told_with_what_it_said_last() -> None:
    assert said("crash").text.endswith(" ended with exit code 1")
    assert said("crash").container == "server"


def test_a_container_that_was_just_removed_is_not_taken_for_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kubelet sends this text as the log. No test can hold a real one at that moment."""
    program = tmp_path / "kubectl"
    program.write_text(
        '#!/bin/sh\ncase "$*" in\n*--previous*) echo "unable to retrieve container logs for containerd://1";;\n'
        '*) echo "the last line";;\nesac\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    text = trouble(recorded("crash"), Kubectl())
    assert text
    assert text.endswith("ended with exit code 1:\n    the last line")


def test_an_abort_is_told_as_that() -> None:
    pod = recorded("crash")
    (container,) = pod["status"]["containerStatuses"]
    container["lastState"] = {"terminated": {"exitCode": 134, "reason": "Error"}}
    found = found_in(pod)
    assert found
    assert " ended with exit code 134: " in found.text


def test_models_that_cannot_be_brought_are_told_by_who_brings_them() -> None:
    assert said("store").text.endswith(", container sync-first, ended with exit code 1")
    assert said("store").container == "sync-first"
    assert not running(recorded("store"))


def test_a_deployment_that_may_have_no_pods_is_told() -> None:
    reason = refused(recorded("quota"))
    assert reason
    assert reason.startswith("the cluster rejects the pods: ")
    assert "exceeded quota: none" in reason
