"""Which part may import which, and what importing and asking for help may cost."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("clients", "export", "k8s", "serving", "tests")
ALLOWED = {
    "clients": {"clients"},
    "serving": {"clients", "serving"},
    "export": {"clients", "export", "serving.fleet"},
    "k8s": {"clients", "k8s", "serving"},
}


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{name.name}" for name in node.names)


@pytest.mark.parametrize("part", ALLOWED)
def test_imports_go_one_way(part: str) -> None:
    for path in (ROOT / part).rglob("*.py"):
        for name in imported(path):
            if name.split(".")[0] in PARTS:
                assert any(f"{name}.".startswith(f"{allowed}.") for allowed in ALLOWED[part]), f"{path} imports {name}"


def test_the_clients_import_no_tensorflow() -> None:
    modules = "clients.cli, clients.grpc_transport, clients.rest_transport, clients.verify"
    code = f"import sys, {modules}; print('tensorflow' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True) == "False\n"


def test_importing_the_clients_is_quick_and_small() -> None:
    """At most 0.6 s and 60 MB, with all that both protocols need, blocking and on an event loop."""
    modules = "clients.grpc_calls, clients.grpc_transport, clients.rest_calls, clients.rest_transport"
    code = (
        "import time; started = time.perf_counter(); import clients; clients.connect; clients.connect_async; "
        f"import {modules}; print(time.perf_counter() - started); import psutil; "
        "print(psutil.Process().memory_info().rss / 2**20)"
    )
    runs = [subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True).split() for _ in range(3)]
    assert min(float(seconds) for seconds, _ in runs) < 0.6
    assert min(float(megabytes) for _, megabytes in runs) < 60


def test_an_application_needs_the_clients_extra_alone() -> None:
    """What the library imports is numpy, grpcio, protobuf, an HTTP and a JSON library, and the element types."""
    allowed = {"clients", "google", "grpc", "httpx2", "ml_dtypes", "numpy", "orjson", *sys.stdlib_module_names}
    library = {"async_client", "client", "examples", "inputs", "answers", "errors", "calls", "steps", "wire", "address"}
    library |= {"grpc_calls", "grpc_transport", "rest_calls", "rest_transport", "rest_json", "tensors"}
    for module in library:
        names = {name.split(".")[0] for name in imported(ROOT / f"clients/{module}.py")}
        assert names <= allowed, module


@pytest.mark.parametrize(
    "command",
    [
        ["export"],
        ["export", "build"],
        ["export", "check"],
        ["export", "lint"],
        ["export", "publish"],
        ["serving"],
        ["serving", "run"],
        ["serving", "up"],
        ["serving", "config"],
        ["serving", "image"],
        ["serving.embedded"],
        ["clients"],
        ["clients", "predict"],
        ["clients", "classify"],
        ["clients", "labels"],
        ["clients", "reload"],
        ["clients", "verify"],
        ["clients", "bench"],
        ["clients", "tune"],
        ["clients", "capture"],
        ["clients", "completion"],
        ["k8s"],
        ["k8s", "rollout", "start"],
    ],
    ids=" ".join,
)
def test_help_comes_at_once_and_shows_examples(command: list[str]) -> None:
    times = []
    for _ in range(3):
        started = time.monotonic()
        shown = subprocess.check_output([sys.executable, "-m", *command, "--help"], cwd=ROOT, text=True)
        times.append(time.monotonic() - started)
    assert min(times) < 0.5
    assert f"python -m {command[0]}" in shown
    assert "Example" in shown
