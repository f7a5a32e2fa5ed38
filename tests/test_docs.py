"""docs/export.md, followed as a user follows it: every source it shows is exported, served and verified."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.exporting import run_export, typed_in
from tests.servers import serve
from tfserving.clients import connect

ROOT = Path(__file__).resolve().parents[1]
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", (ROOT / "docs/export.md").read_text(), re.M | re.S)
MODELS = {
    *("mymodel", "fromkeras", "several", "training", "fromfile", "words", "flowers", "images", "found", "measured"),
    *("reviews", "forest", "baskets", "forecast", "chosen", "asis"),
}


def commands(language: str = "sh") -> list[str]:
    return [line for kind, block in BLOCKS if kind == language for line in block.splitlines()]


@pytest.fixture(scope="module")
def followed(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of one's own where the guide was followed: its modules written, its commands up to the server run."""
    folder = tmp_path_factory.mktemp("guide") / "toolkit"
    shutil.copytree(clone, folder, symlinks=True, ignore=shutil.ignore_patterns("models", ".cache", "tests"))
    shutil.copytree(clone / "export/models", folder / "export/models")
    for kind, block in BLOCKS:
        if kind == "python":
            (folder / block[3 : block.index(":")]).write_text(block)
        elif kind == "json":
            (folder / "mine.json").write_text(block)
    # Each section has the lines of its model; what is no model comes after all of them.
    yaml = [block for kind, block in BLOCKS if kind == "yaml"]
    (folder / "models.yaml").write_text("".join(sorted(yaml, key=lambda block: block.startswith("server:"))))
    return folder


def type_in(folder: Path, command: str) -> subprocess.CompletedProcess[str]:
    """Runs a line as a shell does; what needs TensorFlow runs in this process, which has it already."""
    words = shlex.split(command)
    if words[:2] == [".venv/bin/tfserving", "export"] and "||" not in words:
        return run_export(folder, *words[2:])
    if words[:2] == [".venv/bin/python", "-c"]:
        with typed_in(folder):
            exec(words[2], {})  # noqa: S102 - as Python does with it
        return subprocess.CompletedProcess(command, 0, "", "")
    if words[0] == ".venv/bin/python" and len(words) == len(["python", "FILE"]):
        with typed_in(folder):
            runpy.run_path(words[1], run_name="__main__")
        return subprocess.CompletedProcess(command, 0, "", "")
    return subprocess.run(["sh", "-c", command], cwd=folder, capture_output=True, text=True, check=False)


def test_every_command_of_the_guide_works_and_what_it_makes_is_served(followed: Path) -> None:
    run = ".venv/bin/tfserving serve"
    (verify,) = (command for command in commands() if " verify " in command)
    missing = ".venv/bin/tfserving export build --missing"
    before = [command for command in commands() if "-c " in command or "training" in command]
    # What the sections make comes first: the command for all of them stands above them.
    for command in [*before, missing, *(command for command in commands() if command not in (*before, missing))]:
        if command in (run, verify):
            continue
        done = type_in(followed, command)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        assert done.stdout or "-c " in command or "training.py" in command, command
    assert {path.name for path in (followed / "models").iterdir()} == MODELS
    # The optimized version is the newest one, so that is the one served.
    ports = [*run.split(), "--engine", "embedded"]
    with serve([*ports, "--port", "{port}", "--rest-port", "{rest_port}"], followed) as server:
        asked = verify.replace("8500", str(server.grpc_port)).replace("8501", str(server.rest_port))
        done = type_in(followed, asked)
        assert done.returncode == 0, done.stdout
        assert re.search(rf"all \d+ golden requests of {len(MODELS)} models (equal|within tolerance)", done.stdout)
        with connect(server.url("rest")) as client:
            assert client.predict("mymodel", [[1, 2, 3]]).outputs["doubled"].tolist() == [[2.0, 4.0, 6.0]]
        with connect(server.url("grpc")) as client:
            answer = client.predict("several", {"price": [1.0, 2.0], "rooms": np.array([1, 0], np.int32)})
            assert answer.outputs["has_rooms"].tolist() == [True, False]


def test_the_rules_page_has_commands_that_work(followed: Path) -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```$", (ROOT / "docs/lint.md").read_text(), re.M | re.S)
    for command in "".join(blocks).splitlines():
        assert type_in(followed, command).returncode == 0, command


def test_the_page_on_compatibility_has_a_command_that_works(followed: Path) -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```$", (ROOT / "docs/compatibility.md").read_text(), re.M | re.S)
    (command,) = "".join(blocks).splitlines()
    shutil.copytree(ROOT / "tests/conformance", followed / "tests/conformance")
    done = type_in(followed, command)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^exact 99\.\d\d %", done.stdout, re.M), done.stdout


def test_what_the_guide_shows_of_an_option_is_what_the_command_prints() -> None:
    (shown,) = (line for line in commands("text") if "MB to" in line)
    assert re.fullmatch(
        r"fromkeras: freeze: size [\d.]+ MB to [\d.]+ MB, \d+ to \d+ nodes, one row \d+ µs to \d+ µs", shown
    )


# What the page's commands do for minutes is done once here.
SHORTER = {
    "--into docs/performance.json": "--into {folder}/performance.json --rounds 1 handler",
    "tests.bench.page": "tests.bench.page --page {folder}/performance.md --picture {folder}/performance.png",
    "--requests 200000": "--requests 100",
    "tests.bench.soak": "tests.bench.soak --seconds 1 --clients 4",
}


@pytest.mark.xdist_group("performance")
def test_the_page_on_performance_has_commands_that_work(tmp_path: Path) -> None:
    shutil.copy2(ROOT / "docs/performance.md", tmp_path)
    page = (ROOT / "docs/performance.md").read_text()
    lines = "".join(re.findall(r"^```sh\n(.*?)^```$", page, re.M | re.S)).splitlines()
    assert len(lines) == 4
    for line in lines:
        command = line.replace(".venv/bin/python", sys.executable)
        for whole, part in SHORTER.items():
            command = command.replace(whole, part.format(folder=tmp_path))
        done = type_in(ROOT, command)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
    assert (tmp_path / "performance.png").stat().st_size > 10_000
    assert set(json.loads((tmp_path / "performance.json").read_text())) == {"handler"}
    assert (tmp_path / "performance.md").read_text() == page
