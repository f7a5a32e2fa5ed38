"""How the time of a rollout's steps grows with the number of pods.

    python -m tests.bench.many_pods MODELS [NUMBER ...]

The API server is a real one (`make cluster`, KUBECONFIG), and so is kubectl. The pods are only its objects: they wait
at a scheduling gate, and their status has addresses of this machine, 127.9.x.y. One embedded server listens at all of
them, so loading takes no time. MODELS is a folder with versions 1 and 2 of `scaled`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests.servers import free_ports
from tfserving.clients import connect
from tfserving.k8s.configuration import files
from tfserving.k8s.kubectl import Kubectl
from tfserving.k8s.names import STABLE, Names
from tfserving.k8s.rollout import cluster, watch
from tfserving.k8s.rollout.in_place import InPlace
from tfserving.k8s.rollout.state import State
from tfserving.serving.models_yaml.fleet import read_fleet

ROOT = Path(__file__).resolve().parents[2]
NAMESPACE = "many-pods"
MODELS_YAML = f"""\
models:
  scaled: {{builder: 'tests.scaled:build', labels: {{stable: 1}}}}
kubernetes: {{namespace: {NAMESPACE}, components: [volume]}}
"""
STATE = State("scaled", 1, 2, {"stable": 1}, (1,), (2,))
STEPS = ("list the pods", "configure all", "golden requests to all", "metrics of all", "k8s status")


def pods(number: int) -> list[dict[str, Any]]:
    """Pods that nobody runs."""
    ours = Names()
    container = {"name": "server", "image": "none"}
    return [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": f"serving-{index:04}",
                "namespace": NAMESPACE,
                "labels": {**ours.instance, ours.track: STABLE, "app.kubernetes.io/name": "tensorflow-serving"},
            },
            "spec": {"schedulingGates": [{"name": "example.com/never"}], "containers": [container]},
        }
        for index in range(number)
    ]


def status(index: int) -> dict[str, Any]:
    running = {
        "name": "server",
        "ready": True,
        "restartCount": 0,
        "image": "none",
        "imageID": "",
        "state": {"running": {}},
    }
    address = f"127.9.{index // 250}.{index % 250 + 1}"
    return {
        "phase": "Running",
        "podIP": address,
        "podIPs": [{"ip": address}],
        "conditions": [{"type": "Ready", "status": "True"}],
        "containerStatuses": [running],
    }


@contextlib.contextmanager
def made(number: int, config: str) -> Iterator[Kubectl]:
    """So many pods, and the ConfigMap that they would start with, in a namespace of their own."""
    everywhere = Kubectl(seconds=600)
    everywhere.run("create", "namespace", NAMESPACE)
    kubectl = Kubectl(NAMESPACE, seconds=600, direct=True)
    try:
        items = pods(number)
        data = {"models.config": config}
        metadata = {"name": Names().config_map(STABLE)}
        kubectl.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})
        kubectl.run("create", "--filename=-", input=_list(items))
        ready = [{**pod, "status": status(index)} for index, pod in enumerate(items)]
        kubectl.run("replace", "--subresource=status", "--filename=-", input=_list(ready))
        yield kubectl
    finally:
        everywhere.run("delete", "namespace", NAMESPACE)


def _list(items: list[dict[str, Any]]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})


def models_config(folder: Path) -> str:
    """What pods begin with, of models in `folder`."""
    text = files(read_fleet(folder / "models.yaml"), ("scaled",))["models/models.config"]
    return text.replace('"/models/', f'"{folder}/models/')


@contextlib.contextmanager
def server(folder: Path) -> Iterator[tuple[int, int]]:
    """An embedded server on all addresses; its ports, of gRPC and REST."""
    grpc, rest = free_ports(2)
    flags = {"port": grpc, "rest_api_port": rest, "model_config_file": folder / "models.config"}
    flags |= {"host": "0.0.0.0", "reload_base_paths": folder, "monitoring_config_file": folder / "monitoring"}  # noqa: S104
    flags |= {"enable_reload_config": "true", "allow_version_labels_for_unavailable_models": "true"}
    (folder / "monitoring").write_text('prometheus_config { enable: true path: "/monitoring/prometheus/metrics" }')
    words = [f"--{name}={value}" for name, value in flags.items()]
    process = subprocess.Popen([sys.executable, "-m", "tfserving.serving.embedded", *words], cwd=ROOT)
    try:
        with connect(f"grpc://127.0.0.1:{grpc}") as client:
            client.wait_until_available("scaled", timeout=120)
        yield grpc, rest
    finally:
        process.terminate()
        process.wait(60)


def timed(work: Callable[[], object]) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


def measure(number: int, folder: Path, ports: tuple[int, int]) -> Iterator[float]:
    """The seconds of each of STEPS."""
    fleet = read_fleet(folder / "models.yaml")
    with made(number, (folder / "models.config").read_text()) as kubectl, contextlib.ExitStack() as stack:
        for name, port in zip(("GRPC_PORT", "REST_PORT"), ports, strict=True):
            stack.enter_context(patch.object(cluster, name, port))
        target = cluster.ClusterTarget(kubectl, Names(), 60, lambda *_: None)
        strategy = InPlace(fleet, 60, lambda *_: None, target)
        command = [sys.executable, "-m", "tests.bench.many_pods", "--status", str(folder), str(ports[0])]
        steps: list[Callable[[], object]] = [
            target.instances,
            lambda: strategy.load(STATE, time.sleep),
            lambda: strategy._proven(STATE, target.instances(), "scaled-canary", time.sleep),
            lambda: watch._pages(target.instances(), "scaled"),
            lambda: subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL),
        ]
        for step in steps:
            yield timed(step)


def print_status(folder: str, port: str) -> None:
    """`tfserving k8s status --direct`, for servers at another port."""
    from tfserving.cli import tfserving
    from tfserving.k8s import pods as reached

    with patch.object(reached, "GRPC_PORT", int(port)):
        tfserving(["k8s", "status", "--direct", "--fleet", str(Path(folder) / "models.yaml")])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", type=Path)
    parser.add_argument("numbers", type=int, nargs="*", default=[1, 10, 100, 500])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for version in ("1", "2"):
            shutil.copytree(given.models / version, folder / "models/scaled" / version)
        (folder / "models.yaml").write_text(MODELS_YAML)
        (folder / "models.config").write_text(models_config(folder))
        with server(folder) as ports:
            print("| pods |", " | ".join(STEPS), "| memory |")
            for number in given.numbers:
                print("|", number, end=" |", flush=True)
                for seconds in measure(number, folder, ports):
                    print(f" {seconds:.1f} s", end=" |", flush=True)
                print(" ", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10, "MB |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--status"]:
        print_status(*sys.argv[2:])
    else:
        main()
