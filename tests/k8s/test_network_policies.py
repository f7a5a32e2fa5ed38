"""Network policies that are enforced: what must be refused is refused, and what must pass passes."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest

from tests.cluster.network import NODE
from tests.k8s.deployed import Pods
from tests.k8s.reaching import Prober, reached
from tests.servers import wait_for
from tfserving.k8s.names import Names

ANY = {"app": "any"}
# The server's gRPC and REST, Envoy's, and that of the kubelet's checks.
PORTS = (8500, 8501, 8600, 8601, 8602)
KUBELET = f"{NODE}:10250"


def namespace(name: str, labels: dict[str, str]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


@pytest.mark.usefixtures("enforced")
def test_each_port_is_reached_by_those_who_need_it_and_nobody_else(proxied: Pods) -> None:
    cluster, here = proxied.cluster, proxied.namespace
    watching, elsewhere = f"{here}-watching", f"{here}-clients"
    names = Names()
    expected = {
        Prober(here, "client", {names.client: "true"}): {8600, 8601},
        Prober(here, "rollout", {names.rollout_pod: "true"}): {8500, 8501, 8600, 8601},
        Prober(here, "unlabelled", ANY): set[int](),
        Prober(watching, "prometheus", ANY): {8501},
        Prober(elsewhere, "any", ANY): {8600, 8601},
    }
    made = [namespace(watching, {}), namespace(elsewhere, {names.client: "true"}), *(one.manifest for one in expected)]
    selector = "--selector=app.kubernetes.io/instance=serving"
    try:
        cluster.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": made}))
        for one in expected:
            cluster.kubectl("-n", one.namespace, "wait", "--for=condition=Ready", f"pod/{one.name}", "--timeout=180s")
        (pod,) = json.loads(proxied.kubectl("get", "pods", selector, "--output=json"))["items"]
        found = {one: set[int]() for one in expected}

        def as_expected() -> bool:
            found.update({one: one.reaches(cluster, pod["status"]["podIP"], PORTS) for one in expected})
            return found == expected

        # The engine learns of a new pod after a moment.
        with contextlib.suppress(AssertionError):
            wait_for(as_expected)
        assert found == expected
        # The server reaches nothing, and a pod without a policy does.
        assert reached(cluster, here, pod["metadata"]["name"], [KUBELET, f"{NODE}:53"], "server") == set()
        assert reached(cluster, here, "client", [KUBELET]) == {KUBELET}
        # The kubelet's checks pass.
        (pod,) = json.loads(proxied.kubectl("get", "pods", selector, "--output=json"))["items"]
        assert all(one["ready"] and not one["restartCount"] for one in pod["status"]["containerStatuses"])
    finally:
        proxied.kubectl("delete", "pod", "client", "rollout", "unlabelled", "--ignore-not-found", "--wait=false")
        for name in (watching, elsewhere):
            cluster.run("delete", "namespace", name, "--wait=false")
