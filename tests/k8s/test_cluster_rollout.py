"""Rollouts over the pods of a real cluster, under load through its Service."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys

from tests.exporting import export_scaled
from tests.k8s.deployed import KUBERNETES, ROOT, Pods
from tests.k8s.load import BY_STABLE, UNLABELLED, by_version
from tests.k8s.rolled import MODELS, resealed
from tests.servers import wait_for
from tfserving.foundation.golden import RECORDS
from tfserving.k8s.rollout.state import Phase

# Those that bring the pods back to version 1 come first: the next one goes on with the same pods.


def test_a_version_takes_over_on_every_pod_under_load_and_goes_back(pods: Pods) -> None:
    pods.have(2)
    with pods.load() as load:
        said = (pods.folder / "models.yaml").read_text()
        # The probe goes where clients do.
        (pods.folder / "models.yaml").write_text(
            said.replace("rollout: {", f"rollout: {{address: '{load.addresses[0]}', ")
        )
        wait_for(lambda: load.answered > 50)
        done = pods.through(load, "start", "scaled")
        assert len(re.findall(r"through the address: version 2: [1-9]\d* requests, 0 failed, ", done)) == 2, done
        assert done.count("golden requests of 1 model equal over gRPC and REST") == 4, done
        assert "scaled version 2 is stable." in done

        # What pods start with is what is served.
        pods.kubectl("rollout", "restart", "deployment/serving")
        pods.settled()
        seen = load.versions[2]
        wait_for(lambda: load.versions[2] > seen + 20)

        pods.through(load, "undo", "scaled")
        seen = load.versions[1]
        wait_for(lambda: load.versions[1] > seen + 20)
    assert load.failures == []
    assert "stable: 1" in (pods.folder / "models.yaml").read_text()
    assert not pods.state()["running"]


def test_what_is_worse_is_stopped_and_pods_come_and_go(pods: Pods) -> None:
    wrong = pods.have(2)
    shutil.copy(pods.folder / "later/3" / RECORDS, wrong / RECORDS)
    resealed(wrong, str(RECORDS))
    broken = pods.have(3)
    (broken / "saved_model.pb").write_bytes(b"\x08\x01broken")
    resealed(broken, "saved_model.pb")
    shutil.copytree(pods.have(4), half := pods.folder / "models/scaled/5")
    next((half / "variables").glob("variables.data*")).unlink()
    # Those of the canary would keep the machine busy with the slow one.
    with pods.load(kinds=(UNLABELLED, BY_STABLE, *by_version(1, 2))) as load:
        for version, code, reason in (
            (2, 1, "rolled back: proving: serving-"),
            (3, 1, "rolled back: loading: .*version 3 END"),
            (4, 1, "rolled back: canary: "),
            (5, 2, r"variables\.data-\S+ is missing"),
        ):
            assert re.search(reason, pods.through(load, "start", f"scaled/{version}", code=code)), version
        assert pods.state()["phase"] == "rolled-back"
        pods.kubectl("scale", "deployment/serving", "--replicas=3")
        pods.kubectl("rollout", "status", "deployment/serving", "--timeout=180s")
        pods.kubectl("scale", "deployment/serving", "--replicas=2")
        pods.settled()
    assert load.failures == []
    assert set(load.versions) == {1}


def test_clients_that_try_again_miss_no_pod_that_is_killed(pods: Pods) -> None:
    with pods.load() as load:
        wait_for(lambda: load.answered > 50)
        pod = pods.kubectl("get", "pods", "--output=name").split()[0]
        # At once, without leaving the Services first and without answering what it was asked.
        pods.kubectl("delete", pod, "--grace-period=0", "--force")
        pods.settled()
        answered = load.answered
        wait_for(lambda: load.answered > answered + 50)
    assert load.failures == []


def test_one_that_is_killed_is_gone_on_with_though_pods_end(pods: Pods) -> None:
    """Each time one of two pods goes, too; the one in its place begins with what is due.

    These phases differ in what a pod begins with. Without a cluster one is killed in every phase.
    """
    pods.have(2)
    phases: tuple[Phase, ...] = ("loading", "canary", "stable", "unloading")
    with pods.load() as load:
        for phase in phases:
            pods.killed_at(phase, load, held=phase == "stable")
            pods.lose_a_pod(load, drained=phase == "stable")
        pods.through(load, "start", "scaled")
        pods.settled()
        seen = load.versions[2]
        wait_for(lambda: load.versions[2] > seen + 20)
    assert load.failures == []
    state = pods.state()
    assert state["outcome"] == "done"
    assert json.loads(pods.k8s("status", "--json").stdout)["rollouts"] == [state]


def test_what_is_applied_is_proven_told_and_removed(pods: Pods) -> None:
    found = pods.kubectl("get", "service", "serving", "--output=jsonpath={.spec.clusterIP}")
    servers = ["--server", f"grpc://{found}:8500,http://{found}:8501"]
    verify = [sys.executable, "-m", "tfserving", "verify", str(pods.folder / "models/scaled/1"), *servers]
    assert "all 5 golden requests of 1 model equal" in pods.run(verify, 0).stdout
    status = json.loads(pods.k8s("status", "--json").stdout)["pods"]
    assert [(pod["ready"], pod["restarts"], pod["trouble"]) for pod in status] == [(True, 0, None)] * 2

    # A label that only a rollout may move, and pods that don't come up, are told; the old ones go on serving.
    moved = (pods.folder / "models.yaml").read_text().replace("stable: 1", "stable: 2")
    pods.have(2)
    (pods.folder / "models.yaml").write_text(moved)
    said = pods.k8s("apply", code=2).stderr
    assert "labels of scaled: the cluster has stable=1, models.yaml has stable=2. Move them with " in said
    assert "rollout start scaled --cluster" in said
    for setting, reason in (
        ("image: nowhere.invalid/none:1", "cannot pull image nowhere.invalid/none:1: "),
        ("cpu: '4000'", " nodes are available: "),
        ("memory: 64Mi", "ran out of memory. Raise `kubernetes.memory`"),
    ):
        key = setting.partition(":")[0]
        kept = [part for part in KUBERNETES.strip().removesuffix("}}").split(", ") if not part.startswith(f"{key}:")]
        pods.say(", ".join([*kept, setting]) + "}}\n")
        assert reason in pods.k8s("apply", code=1).stderr, setting
        with pods.load() as load:
            wait_for(lambda load=load: load.answered > 10)  # type: ignore[misc]
        assert load.failures == []

    pods.k8s("delete")
    assert pods.k8s("status").stdout.startswith("No pods. Start them with ")
    kinds = "deployments,services,configmaps,serviceaccounts,hpa,pdb,networkpolicies"
    left = pods.kubectl("get", kinds, "--output=name", "--selector=app.kubernetes.io/instance=serving")
    assert left == ""


def test_the_page_is_followed(pods: Pods) -> None:
    """The toolkit's commands on it, from top to bottom, of another model, whose version 2 is exported meanwhile."""
    page = (ROOT / "docs/kubernetes.md").read_text().replace("digits", "scaled")
    lines = "".join(re.findall(r"^```sh\n(.*?)^```$", page, re.M | re.S)).splitlines()
    commands = [line.split()[1:] for line in lines if line.startswith(("tfserving k8s ", "tfserving rollout "))]
    found = [words[1] if words[0] == "k8s" else words[0] for words in commands]
    assert found == ["apply", "apply", "status", "rollout", "rollout", "delete"]
    pods.have(2)
    with pods.load() as load:
        for words in commands[:-1]:
            if words[0] == "rollout":
                pods.through(load, *words[1:])
            else:
                pods.k8s(*words[1:])
    assert load.failures == []
    assert set(load.versions) == {1, 2}
    pods.k8s(*commands[-1][1:])


def test_another_model_is_answered_as_quickly_meanwhile(no_pods: Pods) -> None:
    pods = no_pods
    models = f"{MODELS}  other:\n    builder: tests.scaled:build\n    labels: {{stable: 1}}\n"
    pods.say(KUBERNETES, models)
    export_scaled(pods.folder / "models.yaml", (1,), model="other")
    subprocess.run(["chmod", "-R", "a+rX", str(pods.folder / "models")], check=True)
    pods.k8s("apply")
    pods.have(2)
    with pods.load() as moved, pods.load("other") as other:
        wait_for(lambda: other.answered > 300)
        before, alone = len(other.seconds), other.p99()
        pods.through(moved, "start", "scaled")
        meanwhile = other.p99(before)
    assert moved.failures == other.failures == []
    assert set(other.versions) == {1}
    # Both share two processors with the cluster and with who rolls out.
    assert meanwhile < max(3 * alone, alone + 0.1), (alone, meanwhile)
