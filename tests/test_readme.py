"""The README's commands, run in the order in which they stand there: in a clone where `make serve` runs."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers import Served

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text()
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
OWN = "Quick start in your own project"
SECTIONS = {section.partition("\n")[0]: FENCE.findall(section) for section in re.split(r"^## ", TEXT, flags=re.M)}
BLOCKS = [block for title, blocks in SECTIONS.items() if title != OWN for block in blocks]
COMMANDS = [command for language, block in BLOCKS if language == "sh" for command in block.splitlines()]
# `make serve` runs while the others do; the tests are what runs, and the checks have run before them. What needs a
# Docker Engine is run in tests/docker/test_docs.py. What puts load on a server for long does it for less time here.
DOCKER = ["make up", "make down", "make image TAG=digits:1"]
SHORTER = {
    " bench ": " bench --window 0.1 --warm-up 0.1 --processes 1 ",
    "--window 10 --bake 10": "--window 1 --bake 1",
}
# More golden requests a second make it clear sooner which version is worse.
QUICK = "rollout: {probe: 100}\n"
ELSEWHERE = ["make serve", "make test", "make check", *DOCKER]
# What a command prints, where a block of text follows it, without the lines on what a rollout waits for.
SHOWN = {
    commands.splitlines()[-1]: [line for line in text.splitlines() if " from the probe; about " not in line]
    for (_, commands), (language, text) in itertools.pairwise(BLOCKS)
    if language == "text"
}


pytestmark = pytest.mark.xdist_group("served")


def run(command: str, folder: Path, env: dict[str, str]) -> str:
    """What a line typed in a shell prints; it must succeed."""
    words = ["sh", "-c", command]
    done = subprocess.run(
        words, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == 0, (command, done.stdout)
    return done.stdout


def shape(printed: str) -> str:
    """What is printed, whatever its numbers are, and how long the rest takes.

    Which outputs are equal to the last bit depends on the processor, and the width of a column on its numbers.
    """
    known = re.sub(r" (takes )?about .* (left|plus)", " …", printed)
    known = re.sub(r"\d+(\.\d*)?(e-\d+)?", "#", known)
    known = re.sub(r"  (equal, in a batch )?within tolerance$", "  equal", known, flags=re.M)
    return re.sub(r"(?<=\S) +|(?<=─)─+", lambda found: found[0][0], known)


def in_order(shown: str, printed: str) -> bool:
    """Whether what a block shows was printed, with other lines where the block has a "…"."""
    return re.search(".*".join(map(re.escape, shown.strip().split("\n…\n"))), printed, re.S) is not None


def test_a_reader_meets_the_first_served_model_in_a_minute() -> None:
    """200 words a minute, at most."""
    before = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", TEXT.partition("Ctrl-C stops the server.")[0])
    assert len(before.split()) < 250
    assert COMMANDS[0] == "make serve"


def test_ci_runs_the_readmes_test_command_and_its_checks() -> None:
    assert "make test" in COMMANDS
    script = (ROOT / ".ci/run").read_text().splitlines()
    assert "make test || code=1" in script
    assert "make test-engines || code=1" in script
    assert "make check" in script


@pytest.mark.parametrize("command", [command for command in COMMANDS if command not in ELSEWHERE])
def test_a_command_of_the_readme_works(command: str, served: Served, clone: Path) -> None:
    env = {**served.env, "TFSERVING_SERVER": f"{served.url('grpc')},{served.url('rest')}"}
    shown = shape("\n".join(SHOWN.get(command, [])))
    command = command.replace("8501", str(served.rest_port)).replace("8500", str(served.grpc_port))
    for whole, part in SHORTER.items():
        command = command.replace(whole, part)
    models = clone / "models.yaml"
    if " rollout " in command and QUICK not in models.read_text():
        models.write_text(models.read_text() + QUICK)
    printed = run(command, clone, env)
    assert printed
    assert in_order(shown, shape(printed)), printed


def test_the_readme_shows_what_commands_print() -> None:
    assert len([command for command in SHOWN if " rollout " in command]) == 2
    assert any(" verify" in command for command in SHOWN)


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
