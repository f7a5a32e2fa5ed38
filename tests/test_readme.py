"""The README's commands, run in the order in which they stand there, in a clone where `make serve` runs."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers import Served

ROOT = Path(__file__).resolve().parents[1]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
BLOCKS = FENCE.findall((ROOT / "README.md").read_text())
COMMANDS = [command for language, block in BLOCKS if language == "sh" for command in block.splitlines()]
# `make serve` runs while the others do; the tests are what runs, and the checks have run before them. What needs a
# Docker Engine is run in tests/docker/test_docs.py. What loads a server for long does it for less time here.
DOCKER = ["make up", "make down", "make image TAG=digits:1"]
SHORTER = {
    " bench ": " bench --window 0.1 --warm-up 0.1 --processes 1 ",
    "--window 10 --bake 10": "--window 1 --bake 1",
}
# More golden requests a second make it clear sooner which version is worse.
QUICK = "rollout: {probe: 100}\n"
ELSEWHERE = ["make serve", "make test", "make check", *DOCKER]
# What a rollout prints, by its command, without the lines on what it waits for.
SHOWN = {
    commands.splitlines()[-1]: [line for line in text.splitlines() if "so golden requests are sent" not in line]
    for (_, commands), (language, text) in itertools.pairwise(BLOCKS)
    if " rollout start " in commands and language == "text"
}


pytestmark = pytest.mark.xdist_group("served")


def test_the_readme_has_the_two_commands_first() -> None:
    assert COMMANDS[:2] == ["make serve", "make test"]


def test_ci_runs_the_readmes_test_command_and_its_checks() -> None:
    script = (ROOT / ".ci/run").read_text().splitlines()
    assert "make test || code=1" in script
    assert "make test-engines || code=1" in script
    assert "make check" in script


@pytest.mark.parametrize("command", [command for command in COMMANDS if command not in ELSEWHERE])
def test_a_command_of_the_readme_works(command: str, served: Served, clone: Path) -> None:
    command = command.replace("8501", str(served.rest_port)).replace("8500", str(served.grpc_port))
    if "tfserving client" in command and "--server" not in command:
        command += f" --server grpc://127.0.0.1:{served.grpc_port}"
    shown = shape("\n".join(SHOWN.get(command, [])))
    for whole, part in SHORTER.items():
        command = command.replace(whole, part)
    models = clone / "models.yaml"
    if " rollout " in command and QUICK not in models.read_text():
        models.write_text(models.read_text() + QUICK)
    run = ["sh", "-c", command]
    done = subprocess.run(
        run, cwd=clone, env=served.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert (printed := shape(done.stdout))
    # In this order, with other lines where the page has a "…".
    assert re.search(".*".join(map(re.escape, shown.split("\n…\n"))), printed, re.S), done.stdout


def shape(printed: str) -> str:
    """What is printed, whatever its numbers are, and how long the rest takes."""
    known = re.sub(r" (takes )?about .* (left|s,|min,)", " …", printed)
    return re.sub(r"\d+(\.\d+)?(e-\d+)?", "#", known)


def test_the_readme_shows_what_rollouts_print() -> None:
    assert len(SHOWN) == 2


def test_the_python_of_the_readme_works(served: Served, clone: Path) -> None:
    (code,) = (block for language, block in BLOCKS if language == "python")
    code = code.replace("8500", str(served.grpc_port))
    done = subprocess.run([sys.executable, "-c", code], cwd=clone, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"\d+ \[\d\] 0\.\d+\n", done.stdout)


def test_what_make_serve_prints_is_what_the_readme_shows(served: Served) -> None:
    shown = next(block for language, block in BLOCKS if language == "text")
    shown = shown.replace("8501", str(served.rest_port)).replace("8500", str(served.grpc_port))
    assert shown in served.output


def test_generated_documentation_is_what_the_code_says() -> None:
    done = subprocess.run(
        [sys.executable, "docs/generate.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
