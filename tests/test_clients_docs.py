"""docs/clients.md, followed as a user follows it: its commands and its Python, against the server that it starts."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.exporting import run_export
from tests.servers import Served, serve
from tfserving.cli import SECTIONS
from tfserving.clients.client import Client

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/clients.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.M | re.S)
BUILD, RUN, *COMMANDS = [line for kind, block in BLOCKS if kind == "sh" for line in block.splitlines()]
# What takes minutes is done once, or for less, here.
SHORTER = {
    " --duration 60": " --duration 0.2",
    " bench digits ": " bench digits --window 0.1 --warm-up 0.1 --processes 1 ",
    " tune ": " tune --window 0.1 --concurrency 8 --batch-timeout-micros 0 --no-padding --output {folder}/batching ",
    "tests.bench.client_cost": "tests.bench.client_cost --calls 8",
}


@pytest.fixture(scope="module")
def guide(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The server of the page, in a clone of its own."""
    folder = tmp_path_factory.mktemp("clients") / "toolkit"
    shutil.copytree(clone, folder, symlinks=True, ignore=shutil.ignore_patterns("models", ".cache", "conformance"))
    shutil.copytree(clone / "export/models", folder / "export/models")
    built = run_export(folder, *BUILD.split()[2:])
    assert built.returncode == 0, built.stderr
    command = [*RUN.replace("tfserving", ".venv/bin/tfserving", 1).split(), "--engine", "embedded"]
    with serve([*command, "--port", "{port}", "--rest-port", "{rest_port}"], folder) as server:
        server.env["FOLDER"] = str(folder)
        yield server


def here(text: str, guide: Served) -> str:
    return text.replace("8501", str(guide.rest_port)).replace("8500", str(guide.grpc_port))


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command.split()[1:4]))
def test_a_command_of_the_page_works(command: str, guide: Served, tmp_path: Path) -> None:
    for whole, part in SHORTER.items():
        command = command.replace(whole, part.format(folder=tmp_path))
    folder = Path(guide.env["FOLDER"])
    environment = os.environ | {
        "PATH": f"{folder}/.venv/bin:{os.environ['PATH']}",
        "TFSERVING_SERVER": here("grpc://127.0.0.1:8500,http://127.0.0.1:8501", guide),
    }
    shell = ["bash", "-o", "pipefail", "-c", here(command, guide)]
    done = subprocess.run(shell, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout or done.stderr or ">" in command
    if "--json" in command and ">" not in command:
        assert json.loads(done.stdout)
    if "curl" in command:
        assert "outputs" in json.loads(done.stdout)


@pytest.mark.parametrize("number", range(sum(kind == "python" for kind, _ in BLOCKS)))
def test_the_python_of_the_page_works(number: int, guide: Served) -> None:
    code = [block for kind, block in BLOCKS if kind == "python"][number]
    done = subprocess.run(
        [sys.executable, "-c", here(code, guide)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    if number == 0:
        lines = [line for line in code.splitlines() if line.strip()]
        assert len(lines) <= 11, "a quick start is quick"
        assert "expects uint8 (?, 8, 8, 1)" in done.stdout


def test_every_call_and_every_command_has_its_place_on_the_page() -> None:
    calls = [name for name in vars(Client) if not name.startswith("_") and name not in ("protocol", "server", "close")]
    for name in [*calls, *SECTIONS["Requests"], *SECTIONS["Proof and load"]]:
        assert re.search(rf"`{name}\b|client\.{name}\b|tfserving {name}\b", PAGE), name
