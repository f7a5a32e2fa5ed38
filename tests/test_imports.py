"""Which room may import which, and what importing and showing help may cost."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tfserving.cli import ENTRIES
from tfserving.foundation.extras import EXTRAS, MLFLOW, REGISTRIES, SIGNATURES

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "tfserving"
ALLOWED = {
    "foundation": ("foundation",),
    "clients": ("foundation", "clients"),
    "serving": ("foundation", "clients", "serving"),
    "export": ("foundation", "clients", "export", "serving.models_yaml"),
    "k8s": ("foundation", "clients", "k8s", "serving"),
}
# The embedded server's rooms and files, from the ground up: each imports what stands before it, and itself.
EMBEDDED = (
    "errors",
    "release",
    "flags",
    "command_line",
    "tls",
    "observability",
    "gpu",
    "core",
    "grpc",
    "rest",
    "processes",
    "server",
    "__main__",
)
# The extra of each room whose commands need one.
EXTRA_OF = {entry.room: entry.extra for entry in ENTRIES.values() if entry.extra}
# What is called otherwise on PyPI.
PACKAGES = {"PIL": "pillow", "hdrh": "hdrhistogram", "grpc": "grpcio", "simdjson": "pysimdjson", "yaml": "pyyaml"}
PACKAGES |= {"google": "protobuf", "ruamel": "ruamel-yaml", "grpc_reflection": "grpcio-reflection"}
PACKAGES |= {"cyclonedx": "cyclonedx-python-lib", "packageurl": "packageurl-python"}


def imported(path: Path) -> Iterator[str]:
    """The modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{name.name}" for name in node.names)


def files(room: str) -> list[Path]:
    found = sorted(Path(f"{PACKAGE}/{room}/").rglob("*.py"))
    assert found
    return found


@pytest.mark.parametrize("room", ALLOWED)
def test_imports_go_one_way(room: str) -> None:
    allowed = tuple(f"tfserving.{name}." for name in ALLOWED[room])
    for path in files(room):
        for name in imported(path):
            assert name.split(".")[0] != "tests", path
            # The package's own version is in no room.
            if name.startswith("tfserving.") and name != "tfserving.__version__":
                assert f"{name}.".startswith(allowed), f"{path} imports {name}"


def test_nothing_imports_a_room_by_its_folders_name() -> None:
    """A clone's own folders can be imported, an installed package's can't."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    for path in [*sorted((ROOT / "tests").rglob("*.py")), *sorted(PACKAGE.rglob("*.py")), *pages]:
        for line in path.read_text().splitlines():
            assert not re.match(r"\s*(from|import) (clients|export|serving|k8s)\b", line), f"{path}: {line}"
    for room in ALLOWED:
        for path in files(room):
            assert not re.search(r"import_module\(f?.(clients|export|serving|k8s)\.", path.read_text()), path


def test_imports_between_the_rooms_of_the_embedded_server_go_one_way() -> None:
    embedded, prefix = PACKAGE / "serving/embedded", "tfserving.serving.embedded."
    there = {path.stem for path in embedded.iterdir() if path.suffix == ".py" or any(path.glob("*.py"))}
    assert there == {*EMBEDDED, "__init__"}
    for number, room in enumerate(EMBEDDED):
        single = embedded / f"{room}.py"
        for path in [single] if single.is_file() else sorted((embedded / room).rglob("*.py")):
            for name in imported(path):
                if name.startswith(prefix):
                    assert name.removeprefix(prefix).split(".")[0] in EMBEDDED[: number + 1], f"{path} imports {name}"


def test_the_embedded_server_needs_the_foundation_and_two_of_its_neighbours_alone() -> None:
    """Its image has no more of the toolkit."""
    allowed = ("tfserving.foundation.", "tfserving.serving.embedded.", "tfserving.serving.config_messages.")
    for path in files("serving/embedded"):
        for name in imported(path):
            assert not name.startswith("tfserving.") or f"{name}.".startswith(allowed), f"{path} imports {name}"


def test_the_embedded_server_uses_nothing_of_tensorflows_api() -> None:
    """Its package has none there: see `processes/process.py`."""
    used = {name for path in files("serving/embedded") for name in imported(path) if name.startswith("tensorflow")}
    assert used
    assert all(name.startswith(("tensorflow.python.", "tensorflow.core.")) for name in used), used


def installed_with(extra: str | None) -> set[str]:
    """What `pip install tfserving[EXTRA]` brings, by the names of packages."""
    found: set[str] = set()
    for wanted in map(Requirement, requires("tfserving") or ()):
        if wanted.marker is None or (extra and wanted.marker.evaluate({"extra": extra})):
            found.add(wanted.name)
            for inner in wanted.extras if wanted.name == "tfserving" else ():
                found |= installed_with(inner)
    return found


@pytest.mark.parametrize("room", ["foundation", *EXTRA_OF])
def test_a_rooms_extra_brings_what_it_imports(room: str) -> None:
    """The extra installs it, and what names the extra when a module is missing knows the module."""
    extra = EXTRA_OF.get(room)
    base, brought = installed_with(None), installed_with(extra)
    used = {name.split(".")[0] for path in files(room) for name in imported(path) if "models" not in path.parts}
    optional = {*SIGNATURES, *REGISTRIES, *MLFLOW}
    for module in used - set(sys.stdlib_module_names) - {"tfserving", "tensorflow_serving"} - optional:
        if (room, module) == ("foundation", "fsspec"):
            # What opens stores imports it when there is one. All rooms that use it have it.
            continue
        package = PACKAGES.get(module, module.replace("_", "-"))
        assert package in brought, f"{room} imports {module}"
        assert package in base or module in EXTRAS[str(extra)], f"{room} imports {module}"


def test_the_extra_for_signatures_brings_what_signing_and_verifying_import() -> None:
    brought = installed_with("sign")
    # The Update Framework is what Sigstore is distributed with.
    theirs = {Requirement(one).name for one in (*(requires("model-signing") or ()), *(requires("tuf") or ()))}
    assert "model-signing" in brought
    for module in set(SIGNATURES) - {"model_signing"}:
        assert {"OpenSSL": "pyopenssl"}.get(module, module.replace("_", "-")) in brought | theirs


def test_the_extra_for_mlflow_brings_it() -> None:
    assert "mlflow-skinny" in installed_with("mlflow")


def test_the_extra_for_registries_brings_what_calling_one_imports() -> None:
    theirs = {Requirement(one).name for one in requires("oras") or ()} | {
        Requirement(one).name for one in requires("requests") or ()
    }
    assert "oras" in installed_with("oci")
    assert set(REGISTRIES) - {"oras"} <= theirs


def test_the_light_dependencies_are_enough_for_the_client_library() -> None:
    """What the library imports is numpy, grpcio, protobuf, an HTTP and a JSON library, element types, and checksums."""
    allowed = {"tfserving", "anyio", "google", "google_crc32c", "grpc", "httpcore2", "ml_dtypes", "numpy", "orjson"}
    allowed |= sys.stdlib_module_names
    library = {"async_client", "client", "inputs", "results", "errors", "calls", "steps", "wire", "address"}
    library |= {"grpc_calls", "grpc_transport", "rest_calls", "rest_transport", "rest_json"}
    library |= {
        "availability",
        "busy",
        "call_options",
        "certificates",
        "hints",
        "http_response",
        "labels",
        "limits",
        "printable",
        "rest_responses",
    }
    library |= {"signatures", "sockets", "unreachable"}
    # What verifies signatures or opens stores imports its libraries when there is one.
    light = [path for path in files("foundation") if path.parent.name != "trust" and path.name != "store.py"]
    paths = [*light, *(PACKAGE / f"clients/{module}.py" for module in library)]
    for path in paths:
        if path.name != "generate.py" and path.parent.name != "command":
            assert {name.split(".")[0] for name in imported(path)} <= allowed, path


def test_the_clients_import_no_tensorflow() -> None:
    modules = ("commands.predict", "grpc_transport", "rest_transport", "verification.verify")
    code = (
        f"import sys, {', '.join(f'tfserving.clients.{name}' for name in modules)}; print('tensorflow' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True) == "False\n"


@pytest.mark.alone
def test_importing_the_clients_is_quick_and_small() -> None:
    """At most 0.6 s and 40 MB, with all that both protocols need, blocking and on an event loop.

    The memory is what the process wrote: how much of a library's file is mapped is the kernel's choice.
    """
    modules = ("grpc_calls", "grpc_transport", "rest_calls", "rest_transport")
    code = (
        "import time; started = time.perf_counter(); from tfserving import clients; "
        f"clients.connect; clients.connect_async; import {', '.join(f'tfserving.clients.{name}' for name in modules)}; "
        "print(time.perf_counter() - started); import psutil; "
        "print(sum(one.private_dirty for one in psutil.Process().memory_maps()) / 2**20)"
    )
    runs = [subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True).split() for _ in range(3)]
    assert min(float(seconds) for seconds, _ in runs) < 0.6
    assert min(float(megabytes) for _, megabytes in runs) < 40


def test_the_commands_import_nothing_heavy() -> None:
    """What shows their help or completes them needs no TensorFlow, no numpy and no models.yaml."""
    code = "import sys; from tfserving.cli import ENTRIES; [entry.load() for entry in ENTRIES.values()]"
    code += "; print(*sys.modules)"
    loaded = {name.split(".")[0] for name in subprocess.check_output([sys.executable, "-c", code], text=True).split()}
    assert not loaded & {"docker", "grpc", "jinja2", "keras", "matplotlib", "numpy", "pydantic", "tensorflow", "yaml"}


@pytest.mark.alone
@pytest.mark.parametrize(
    "command",
    [
        *("tfserving", "tfserving init", "tfserving doctor", "tfserving export build", "tfserving serve"),
        *("tfserving verify", "tfserving rollout start", "tfserving k8s apply", "tfserving.serving.embedded"),
    ],
)
def test_help_comes_at_once(command: str) -> None:
    times: list[float] = []
    # A busy machine is slow now and then.
    while not times or (min(times) >= 0.5 and len(times) < 3):
        started = time.monotonic()
        shown = subprocess.check_output([sys.executable, "-m", *command.split(), "--help"], cwd=ROOT, text=True)
        times.append(time.monotonic() - started)
    assert min(times) < 0.5
    assert f"Usage: {'python -m ' * ('.' in command)}{command} " in shown
