"""Rollouts by pods on a real cluster, under load through its Gateway."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.cluster.node import Cluster
from tests.k8s.deployed import Pods, at_version_1
from tests.k8s.followed import phases_told
from tests.k8s.load import BY_STABLE, OF_CANARY, UNLABELLED, Load
from tests.k8s.rolled import resealed
from tests.servers import wait_for
from tfserving.cli import tfserving
from tfserving.clients import grpc_transport
from tfserving.foundation.golden import RECORDS
from tfserving.k8s.rollout.state import Phase

# Each namespace has a host of its own: the routes of one that ends may still be there.
KUBERNETES = (
    "kubernetes: {{namespace: {0}, components: [volume, gateway], cpu: 50m, memory: 1Gi, drain_seconds: 6, "
    "replicas: 1, gateway: {{name: contour, namespace: projectcontour, hostname: {0}.test}}}}\n"
)


@pytest.fixture
def routed(
    cluster: Cluster,
    scaled_versions: Path,
    tmp_path_factory: pytest.TempPathFactory,
    deployed: dict[str, Pods],
    monkeypatch: pytest.MonkeyPatch,
) -> Pods:
    """Pods that a Gateway leads to."""
    made = at_version_1(cluster, scaled_versions, tmp_path_factory.mktemp("pods"), deployed, KUBERNETES)
    # The host by which a Gateway knows gRPC; users have it in their DNS.
    options = (*grpc_transport.OPTIONS, ("grpc.default_authority", f"grpc.{made.namespace}.test"))
    monkeypatch.setattr(grpc_transport, "OPTIONS", options)
    return made


def load(pods: Pods) -> Load:
    status = "jsonpath={.status.addresses[0].value}"
    gateway = pods.cluster.kubectl("-n", "projectcontour", "get", "gateway", "contour", "-o", status)
    # A client that asks for a version by its number fails where pods have the other one: that stops a rollout.
    kinds = (UNLABELLED, BY_STABLE, *OF_CANARY)
    return Load((f"grpc://{gateway}:80", f"http://{gateway}:80"), host=f"{pods.namespace}.test", kinds=kinds)


def weights(pods: Pods) -> set[int]:
    """What the routes give the second Deployment."""
    found = json.loads(pods.kubectl("get", "httproute,grpcroute", "--output=json"))["items"]
    return {
        backend["weight"]
        for route in found
        for rule in route["spec"]["rules"]
        for backend in rule["backendRefs"]
        if backend["name"] == "serving-canary"
    }


def left(pods: Pods) -> list[str]:
    """What there is of a second Deployment, and the first one's autoscaler if it still removes no pods."""
    names = pods.kubectl("get", "deployments,configmaps,pods,hpa,pdb", "--output=name").split()
    policy = pods.kubectl("get", "hpa", "serving", "--output=jsonpath={.spec.behavior.scaleDown.selectPolicy}")
    return [*(name for name in names if "canary" in name), *(["held"] if policy == "Disabled" else [])]


def test_requests_move_to_other_pods_step_by_step_and_back_again(routed: Pods, monkeypatch: pytest.MonkeyPatch) -> None:
    routed.have(2)
    assert (
        "move 25 % of the requests to version 2" in routed.rollout("start", "scaled", "--by-pods", "--dry-run").stdout
    )
    with load(routed) as sent:
        wait_for(lambda: sent.answered > 50)
        # Through the Gateway, as clients. In this process, where gRPC's host is known.
        said = (routed.folder / "models.yaml").read_text()
        (routed.folder / "models.yaml").write_text(
            said.replace("rollout: {", f"rollout: {{address: '{sent.addresses[0]}', ")
        )
        for name in ("KUBECONFIG", "PATH"):
            monkeypatch.setenv(name, routed.env[name])
        with phases_told(sent.enters):
            done = CliRunner().invoke(tfserving, routed.command("start", "scaled", "--by-pods")[3:])
        assert done.exit_code == 0, done.output
        moves = re.findall(r"Moving (\d+) % of the requests to version 2 …", done.stderr)
        assert moves == ["25", "50", "100"]
        assert "scaled version 2 is stable." in done.stderr
        for weight in (25, 50, 100):
            line = rf"  {weight} %: probe: version 2: [1-9]\d* requests, 0 failed, .*; version 1: [1-9]\d* requests, "
            assert re.search(line, done.stderr), done.stderr
        one, two = sent.versions[1], sent.versions[2]
        wait_for(lambda: sent.versions[2] > two + 20)
        assert sent.versions[1] == one
        assert (weights(routed), left(routed)) == ({0}, [])
        assert "stable: 2" in (routed.folder / "models.yaml").read_text()
        assert routed.k8s("diff").stdout == ""

        routed.through(sent, "undo", "scaled")
        one, two = sent.versions[1], sent.versions[2]
        wait_for(lambda: sent.versions[1] > one + 20)
        assert sent.versions[2] == two
    assert sent.failures == []
    assert (weights(routed), left(routed)) == ({0}, [])


def test_what_is_worse_never_gets_all_requests(routed: Pods) -> None:
    version = routed.have(2)
    shutil.copy(routed.folder / "later/3" / RECORDS, version / RECORDS)
    resealed(version, str(RECORDS))
    (routed.have(3) / "saved_model.pb").write_bytes(b"\x08\x01broken")
    resealed(routed.folder / "models/scaled/3", "saved_model.pb")
    with load(routed) as sent:
        for number, reason in ((2, "rolled back: proving: serving-canary-"), (3, "rolled back: loading: ")):
            assert f"Error: {reason}" in routed.through(sent, "start", f"scaled/{number}", "--by-pods", code=1)
            assert (weights(routed), left(routed)) == ({0}, [])
    assert sent.failures == []
    assert set(sent.versions) == {1}


def test_one_that_is_killed_is_gone_on_with_or_taken_back(routed: Pods) -> None:
    """And pods of the new version end meanwhile."""
    routed.have(2)
    with load(routed) as sent:
        routed.killed_at("stable", sent, "--by-pods", weight=25)
        routed.through(sent, "abort", "scaled")
        assert (routed.state()["phase"], weights(routed), left(routed)) == ("rolled-back", {0}, [])

        # Clients that try again are served by the others when the only pod that has 5 % of the requests ends.
        said = (routed.folder / "models.yaml").read_text()
        (routed.folder / "models.yaml").write_text(said.replace("weights: [25,", "weights: [5,"))
        # In the others nothing is kept that isn't there in these; in place it is killed in all of them.
        phases: tuple[Phase, ...] = ("proving", "stable", "unloading")
        for phase in phases:
            routed.killed_at(phase, sent, "--by-pods", weight=5 if phase == "stable" else 0)
            if phase in ("proving", "stable"):
                routed.lose_a_pod(sent, "canary")
        routed.through(sent, "start", "scaled")
        assert (routed.state()["phase"], weights(routed), left(routed)) == ("done", {0}, [])
    assert sent.failures == []


def test_without_routes_there_is_no_rollout_by_pods(pods: Pods) -> None:
    pods.have(2)
    said = pods.rollout("start", "scaled", "--by-pods", code=2).stderr
    assert "the httproute serving does not exist. A rollout by pods needs the component `gateway`" in said
