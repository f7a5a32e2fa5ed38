"""Pods that are replaced again and again under load: `python -m tests.k8s.replaced [--requests N] [--without]`.

It takes a cluster that runs (`make cluster`), whose node has the images, and prints what became of the requests of
clients that keep their connections and don't retry. With `--without` the pods have no proxy.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
from pathlib import Path

from tests.cluster.node import KUBECONFIG, own
from tests.exporting import export_scaled
from tests.k8s.connections import Kept
from tests.k8s.deployed import Pods, unapplied
from tests.k8s.rolled import MODELS
from tests.servers import wait_for

# Without an autoscaler, which would add pods.
SCALE = "replicas: 2, max_replicas: 2"
KUBERNETES = f"kubernetes: {{{{namespace: {{0}}, components: [volume, proxy], cpu: 50m, drain_seconds: 4, {SCALE}}}}}\n"


def clients(pods: Pods) -> Kept:
    """Clients of the Service."""
    return Kept(pods.kubectl("get", "service", "serving", "--output=jsonpath={.spec.clusterIP}"))


def restart(pods: Pods) -> None:
    """Replaces all pods, one after the other, until the last old one has ended."""
    pods.kubectl("rollout", "restart", "deployment/serving")
    pods.kubectl("rollout", "status", "deployment/serving", "--timeout=180s")
    wait_for(lambda: len(_names(pods)) == len(_running(pods)), 120, "the end of the old pods")


def delete(pods: Pods) -> None:
    """Deletes one of two pods, until it has ended and there are two again."""
    pods.kubectl("delete", _running(pods)[0], "--wait=true")
    pods.kubectl("rollout", "status", "deployment/serving", "--timeout=180s")


def _names(pods: Pods) -> list[str]:
    return pods.kubectl("get", "pods", "--output=name").split()


def _running(pods: Pods) -> list[str]:
    found = json.loads(pods.kubectl("get", "pods", "--output=json"))["items"]
    return [f"pod/{one['metadata']['name']}" for one in found if "deletionTimestamp" not in one["metadata"]]


def main() -> None:
    """Prints a line after each replacement, and exits with 1 if a request was lost."""
    parser = argparse.ArgumentParser(prog="python -m tests.k8s.replaced")
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--without", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "models.yaml").write_text(MODELS)
        export_scaled(folder / "models.yaml", (1,))
        kubernetes = KUBERNETES.replace(", proxy", "") if options.without else KUBERNETES
        pods = unapplied(own(), folder / "models/scaled", folder, kubernetes)
        try:
            pods.k8s("apply")
            wait_for(pods.reachable, what="the Service's address")
            with clients(pods) as load:
                for number, replace in enumerate(itertools.cycle((restart, delete)), start=1):
                    replace(pods)
                    print(f"{number} replacements, {load.sent} requests, {len(load.lost)} lost", flush=True)
                    if load.sent >= options.requests:
                        break
        finally:
            pods.remove()
    print(f"{dict(load.answered)} answered, {load.closed} with Connection: close", *load.lost, sep="\n")
    sys.exit(bool(load.lost))


if __name__ == "__main__":
    assert KUBECONFIG.exists(), "no cluster of the tests runs: `make cluster` starts one"
    main()
