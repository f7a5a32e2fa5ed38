"""Rollouts over a server of this machine, under load: forward, back, interrupted, and gone on with."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from tests.k8s.load import BY_STABLE, UNLABELLED, Load
from tests.k8s.rolled import MODELS, PHASES, ROLLOUT, WITH_CANARY, Rolled, at_version_1, crashing, resealed
from tests.servers import ROOT, wait_for
from tfserving.foundation.golden import RECORDS
from tfserving.k8s.rollout.plan import described
from tfserving.k8s.rollout.state import State
from tfserving.serving.models_yaml.rollout import Rollout


@pytest.fixture(scope="module", params=["embedded", "native"])
def either(
    request: pytest.FixtureRequest, scaled_versions: Path, stand_in: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Rolled]:
    """The embedded server, which reads a file every now and then, and one that takes changes by a call."""
    program = stand_in if request.param == "native" else None
    with at_version_1(tmp_path_factory.mktemp("rollout") / "fleet", scaled_versions, request.param, program) as made:
        yield made


# What doesn't depend on the server.
on_one = pytest.mark.parametrize("either", ["embedded"], indirect=True)


@pytest.fixture
def rolled(either: Rolled) -> Iterator[Rolled]:
    yield either
    either.back()


def moved_to(load: Load, version: int) -> bool:
    """Whether clients without a label, or by `stable`, get a version from now on."""
    seen = load.versions.get(version, 0)
    wait_for(lambda: load.versions.get(version, 0) > seen + 20, what=f"requests to version {version}")
    return True


@on_one
def test_the_load_of_these_tests_reports_what_is_not_due(rolled: Rolled) -> None:
    with rolled.load(stable=2) as load:
        wait_for(lambda: sum(load.counts.values()) > 4 * len(load.kinds))
    kinds = {said.partition("before: ")[2].partition(" over ")[0] for said in load.failures}
    assert kinds == {"NAME unlabelled", "NAME stable", "NAME version 1", "NAME version 2"}
    assert any(said.endswith("NAME unlabelled over rest: version 1; due is 2") for said in load.failures)


def test_a_version_takes_over_and_a_lower_one_does_and_that_is_undone(rolled: Rolled) -> None:
    rolled.have(2)
    plan = rolled.rollout("start", "scaled", "--dry-run").stdout
    assert plan.startswith("1. load version 2 on every server as scaled-canary; ")
    assert rolled.phase == ""
    with rolled.load() as load:
        assert moved_to(load, 1)
        done = rolled.rollout("start", "scaled", load=load)
        assert "scaled version 2 is stable." in done.stderr
        assert "golden requests of 1 model equal" in done.stderr
        assert rolled.serves(stable=2, available={2})
        assert "labels: {stable: 2}" in rolled.file.read_text().replace("\n      stable: 2", " {stable: 2}")
        assert "# ours" in rolled.file.read_text()
        assert moved_to(load, 2)

        rolled.rollout("start", "scaled/1", load=load)
        assert rolled.serves(stable=1, available={1})
        assert moved_to(load, 1)

        rolled.rollout("undo", "scaled", load=load)
        assert rolled.serves(stable=2, available={2})
        assert moved_to(load, 2)
    assert load.failures == []
    assert "nothing to undo" not in rolled.rollout("status", "scaled").stdout


@on_one
def test_a_version_that_answers_otherwise_than_its_golden_requests_is_stopped(rolled: Rolled) -> None:
    version = rolled.have(2)
    shutil.copy(rolled.folder / "later/3" / RECORDS, version / RECORDS)
    resealed(version, str(RECORDS))
    with rolled.load() as load:
        done = rolled.rollout("start", "scaled", code=1, load=load)
        assert f"Error: rolled back: proving: {rolled.engine} server on port" in done.stderr
        assert "output 'sums'" in done.stderr
        assert rolled.serves(stable=1, available={1})
    assert load.failures == []
    assert set(load.versions) == {1}
    assert rolled.phase == "rolled-back"
    assert "stable: 1" in rolled.file.read_text()


def test_a_version_that_does_not_load_is_stopped_and_taken_once_it_is_repaired(rolled: Rolled) -> None:
    version = rolled.have(3)
    (version / "saved_model.pb").write_bytes(b"\x08\x01broken")
    resealed(version, "saved_model.pb")
    with rolled.load() as load:
        done = rolled.rollout("start", "scaled", code=1, load=load)
        assert re.search(r"Error: rolled back: loading: .*version 3 END", done.stderr)
        assert rolled.serves(stable=1, available={1})
        # The server says of that version that it has ended, until it loads.
        rolled.have(3)
        rolled.rollout("start", "scaled", load=load)
        assert rolled.serves(stable=3, available={3})
    assert load.failures == []


def test_a_version_that_ends_the_server_does_not_keep_it_from_starting(rolled: Rolled) -> None:
    crashing(rolled.have(3))
    with rolled.load() as load, load.down():
        done = rolled.rollout("start", "scaled", code=None, load=load)
        # The command that ran the server ends a moment after it.
        assert done.exit_code in (1, 3)
        assert re.search(r"no server on this machine serves 'scaled'|no gRPC server is listening", done.stderr)
        assert rolled.server.process.wait(60)
        rolled.start((rolled.server.grpc_port, rolled.server.rest_port))
        assert rolled.serves(stable=1, available={1})
        rolled.rollout("start", "scaled", code=1, load=load)
        assert (rolled.phase, rolled.serves(stable=1, available={1})) == ("rolled-back", True)
    assert load.failures == []
    assert set(load.versions) == {1}


@on_one
def test_a_slow_version_is_stopped(rolled: Rolled, tmp_path: Path) -> None:
    rolled.have(4)
    # Those of the canary would keep the machine busy.
    with rolled.load(kinds=(UNLABELLED, BY_STABLE)) as load:
        page = tmp_path / "report.html"
        done = rolled.rollout("start", "scaled", "--report", str(page), code=1, load=load)
        *progress, written, reason = done.stderr.splitlines()
        assert reason.startswith("Error: rolled back: canary: ")
        assert " times as long as version 1 " in reason
        assert written == f"Report: {page}"
        assert all(re.match(r"\d\d:\d\d:\d\d  ", line) for line in progress), progress
        # The reason is printed once.
        assert done.stderr.count(reason.removeprefix("Error: rolled back: canary: ")) == 1
        assert "Rolled back to version 1: canary: " in page.read_text()
        assert rolled.serves(stable=1, available={1})
    assert load.failures == []
    assert set(load.versions) == {1}


@on_one
def test_a_half_copied_version_never_starts(rolled: Rolled) -> None:
    version = rolled.have(2)
    next((version / "variables").glob("variables.data*")).unlink()
    done = rolled.rollout("start", "scaled", code=2)
    assert "/variables.data-00000-of-00001 is missing" in done.stderr
    assert rolled.serves(stable=1, available={1})
    assert rolled.phase == ""


@on_one
@pytest.mark.parametrize("gate", ["false", "true"])
def test_a_command_of_ones_own_is_a_gate(rolled: Rolled, gate: str) -> None:
    rolled.have(2)
    commands = f"{{commands: [[sh, -c, 'echo $ROLLOUT_MODEL $ROLLOUT_VERSION; {gate}']], "
    rolled.file.write_text(MODELS + ROLLOUT.replace("{", commands))
    done = rolled.rollout("start", "scaled", code=int(gate == "false"))
    assert ("failed with exit code 1: scaled 2" if gate == "false" else "passed: scaled 2") in done.stderr
    assert rolled.serves(stable=1 if gate == "false" else 2, available={1} if gate == "false" else {2})


def test_one_that_is_killed_in_every_phase_is_gone_on_with(rolled: Rolled) -> None:
    """SIGKILL wherever a phase begins, and midway through the move."""
    rolled.have(2)
    with rolled.load() as load:
        for phase in PHASES:
            with rolled.following("start", "scaled") as rollout:
                assert rollout.until(phase, load.enters), rollout.said
                if phase == "stable":
                    rollout.go_on()
                    assert moved_to(load, 2)
                rollout.kill()
            assert (rolled.phase, rolled.status()["running"]) == (phase, False)
        rolled.rollout("start", "scaled", load=load)
        assert rolled.serves(stable=2, available={2})
        assert moved_to(load, 2)
    assert load.failures == []


def test_the_server_may_be_killed_too(rolled: Rolled) -> None:
    """It begins with what models.yaml says until the rollout goes on. tests/bench/rollout_soak.py has all phases."""
    rolled.have(2)
    with rolled.load() as load:
        for phase in ("proving", "baking"):
            with rolled.following("start", "scaled") as rollout:
                assert rollout.until(phase, load.enters), rollout.said
            rolled.restart(load)
            assert moved_to(load, 1)
        rolled.rollout("start", "scaled", load=load)
        assert rolled.serves(stable=2, available={2})
        assert moved_to(load, 2)
        rolled.restart(load)
        assert moved_to(load, 2)
    assert load.failures == []


def test_it_is_aborted_in_every_phase_that_has_a_way_back(rolled: Rolled) -> None:
    rolled.have(2)
    with rolled.load() as load:
        for phase in PHASES[:-1]:
            with rolled.following("start", "scaled", "--bake", "30") as rollout:
                assert rollout.until(phase, load.enters), rollout.said
                if phase in ("stable", "baking"):
                    rollout.go_on()
                    assert moved_to(load, 2)
                rolled.rollout("abort", "scaled")
                rollout.until(None, load.enters)
                assert rollout.process.returncode == 1
            assert "(aborted)" in rolled.rollout("status", "scaled").stdout
            assert rolled.serves(stable=1, available={1})
    assert load.failures == []


@on_one
def test_it_is_promoted_and_paused_and_left_to_another_shell(rolled: Rolled) -> None:
    rolled.have(2)
    with rolled.load() as load:
        with rolled.following("start", "scaled", "--manual") as rollout:
            assert rollout.until("stable", load.enters)
            assert rolled.serves(stable=1, available={1}, canary=2)
            rolled.rollout("pause", "scaled")
            assert "another process is rolling out 'scaled'" in rolled.rollout("start", "scaled", code=2).stderr
            rollout.go_on()
            wait_for(lambda: "paused" in rolled.rollout("status", "scaled").stdout or rollout.next(), what="its pause")
            # Interrupted, it stays where it is.
            rollout.go_on()
            rollout.process.send_signal(signal.SIGINT)
            assert rollout.process.wait(60) == 130
            assert "The rollout of scaled from version 1 to 2 stays in phase `stable`; " in rollout.said
            assert "Run the same command again to resume it, or go back with `" in rollout.said
        assert rolled.serves(stable=1, available={1}, canary=2)
        rolled.rollout("promote", "scaled", load=load)
        assert rolled.serves(stable=2, available={2})
    assert load.failures == []


def test_a_canary_of_models_yaml_is_moved_by_a_rollout_and_moved_back(rolled: Rolled) -> None:
    rolled.back(WITH_CANARY)
    rolled.have(2)
    with rolled.load(canary=1) as load:
        with rolled.following("start", "scaled") as rollout:
            assert rollout.until("stable", load.enters), rollout.said
            assert rolled.serves(stable=1, available={1}, canary=2)
            rolled.rollout("abort", "scaled")
            rollout.until(None, load.enters)
        assert rolled.serves(stable=1, available={1}, canary=1)
        rolled.rollout("start", "scaled", load=load)
        assert rolled.serves(stable=2, available={2}, canary=2)
        assert yaml.safe_load(rolled.file.read_text())["models"]["scaled"]["labels"] == {"stable": 2, "canary": 2}
        rolled.rollout("undo", "scaled", load=load)
        assert rolled.serves(stable=1, available={1}, canary=1)
    assert load.failures == []


@on_one
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("start", "nope"), "no model is called 'nope'; the fleet has scaled"),
        (("start", "scaled"), "scaled: version 1 is already stable and there is no newer version. Export one with `"),
        (("start", "scaled/9"), "model 'scaled' has no version 9. It has 1."),
        (("promote", "scaled"), "no rollout of scaled is in progress"),
        (("undo", "scaled"), "scaled has never been rolled out, so there is nothing to undo."),
    ],
)
def test_what_can_not_be_meant_is_told(rolled: Rolled, words: tuple[str, ...], said: str) -> None:
    assert said in rolled.rollout(*words, code=2).stderr


@on_one
def test_without_a_stable_label_the_version_that_clients_get_becomes_stable_first(rolled: Rolled) -> None:
    unlabelled = MODELS.replace("    labels: {stable: 1}\n", "") + ROLLOUT
    rolled.file.write_text(unlabelled)
    # A version that is exported next doesn't reach clients before its rollout.
    refused = rolled.rollout("start", "scaled", code=1).stderr.splitlines()
    assert "scaled had no label `stable`: set it to version 1, which clients get now." in refused
    assert refused[-1].startswith(
        "Error: scaled: version 1 is already stable and there is no newer version. Export one"
    )
    assert yaml.safe_load(rolled.file.read_text())["models"]["scaled"]["labels"] == {"stable": 1}

    rolled.file.write_text(unlabelled)
    rolled.have(2)
    planned = rolled.rollout("start", "scaled", "--dry-run")
    assert "The rollout first sets it to version 1, which clients get now." in planned.stderr
    assert planned.stdout.startswith("1. load version 2 ")
    assert rolled.file.read_text() == unlabelled
    rolled.rollout("start", "scaled")
    assert rolled.serves(stable=2, available={2})
    assert yaml.safe_load(rolled.file.read_text())["models"]["scaled"]["labels"] == {"stable": 2}


PAGE = (ROOT / "docs/rollouts.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.M | re.S)


@on_one
def test_the_page_is_followed(rolled: Rolled) -> None:
    """Its commands, from top to bottom, of another model. An export of it is a copy."""
    rolled.file.write_text(MODELS.replace("    labels: {stable: 1}\n", "") + ROLLOUT)
    ran = []
    lines = [line for language, block in BLOCKS if language == "sh" for line in block.splitlines()]
    # The others take hours: tests/k8s/test_judge.py runs what they run, with less of it.
    for line in [line for line in lines if line.startswith("tfserving ")]:
        words = line.replace("digits", "scaled").split()
        if words[1:] == ["export", "build", "scaled"]:
            rolled.have(2)
            continue
        done = subprocess.run(
            [sys.executable, "-m", *words, "--fleet", str(rolled.file)],
            cwd=rolled.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (line, done.stderr)
        ran += words[2:3]
    assert ran == ["set", "start", "start", *["status"] * 4, "report", "undo"]
    assert (rolled.folder / "report.html").stat().st_size
    assert rolled.serves(stable=1, available={1})


def test_the_page_shows_the_steps() -> None:
    """As `--dry-run` prints them."""
    found = [block.splitlines() for language, block in BLOCKS if language == "text" and "\n2. send the golden" in block]
    assert found.pop(0) == described(State("digits", 1, 2, {"stable": 1}, (1,), (2,)), Rollout()).splitlines()
    (by_pods,) = found
    assert by_pods[1:] == described(State("digits", 1, 2, {"stable": 1}, (1,), (2,), "pods"), Rollout()).splitlines()


@pytest.mark.parametrize("weights", [(5, 50), (50, 5, 100), (50, 50, 100), (0, 100), (101,), ()])
def test_weights_grow_to_all_requests(weights: tuple[int, ...]) -> None:
    with pytest.raises(ValidationError, match="weights"):
        Rollout(weights=weights)


def test_the_page_has_every_setting_with_what_is_true_without_it() -> None:
    (said,) = (yaml.safe_load(block)["rollout"] for language, block in BLOCKS if "\n  window: " in block)
    assert Rollout.model_validate(said) == Rollout()
    assert set(said) == set(Rollout.model_fields)
