"""Rollouts over a server of this machine, under load: forward, back, interrupted, and gone on with."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from pydantic import ValidationError

from tests.k8s.load import Load
from tests.servers import Served, serve, wait_for
from tfserving.cli import tfserving
from tfserving.clients import connect
from tfserving.clients.errors import ServingError
from tfserving.foundation.golden import MANIFEST, RECORDS
from tfserving.k8s.rollout.local import LocalStore, LocalTarget
from tfserving.k8s.rollout.plan import described
from tfserving.k8s.rollout.state import State
from tfserving.k8s.rollout.target import Serve
from tfserving.serving.models_yaml.fleet import read_fleet
from tfserving.serving.models_yaml.rollout import Rollout
from tfserving.serving.running import fleet_folder

ROOT = Path(__file__).resolve().parents[2]
ROLLOUT = "rollout: {window: 1, samples: 20, bake: 1, longest: 30, latency: 4, slack_ms: 60}\n"
MODELS = "models:\n  scaled:\n    builder: tests.scaled:build  # ours\n    labels: {stable: 1}\n"


@dataclass
class Rolled:
    """A fleet at version 1, its server, and the toolkit's rollouts of it."""

    folder: Path
    server: Served

    @property
    def file(self) -> Path:
        return self.folder / "models.yaml"

    def have(self, version: int, at: int | None = None) -> Path:
        """Copies a version to where the fleet has its own, as version `at` if that is given."""
        target = self.folder / "models/scaled" / str(at or version)
        shutil.copytree(self.folder / "later" / str(version), target)
        return target

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "tfserving", "k8s", "rollout", *words, "--fleet", str(self.file)]

    def rollout(self, *words: str, code: int = 0) -> Result:
        """`tfserving k8s rollout WORDS` for this fleet, in this process; it must exit with `code`."""
        done = CliRunner().invoke(tfserving, ["k8s", "rollout", *words, "--fleet", str(self.file)])
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == code, f"{words}: {done.exit_code}\n{done.output}"
        return done

    @contextlib.contextmanager
    def going(self, *words: str) -> Iterator[subprocess.Popen[str]]:
        """A rollout in another shell."""
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            self.command("start", "scaled", *words), cwd=ROOT, stdout=pipe, stderr=pipe, text=True
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    def comes_to(self, phase: str) -> bool:
        """Whether a rollout that is under way is in that phase."""
        state = LocalStore(read_fleet(self.file), "scaled").load()
        return state is not None and state.phase == phase

    def phase(self) -> str:
        said = json.loads(self.rollout("status", "scaled", "--json").stdout)["rollout"]
        return str(said["phase"]) if said else ""

    def back(self) -> None:
        """Has the fleet and its server be as they were before the test: at version 1, and no rollout ever."""
        self.file.write_text(MODELS + ROLLOUT)
        shutil.rmtree(fleet_folder(read_fleet(self.file)) / "rollouts", ignore_errors=True)
        with connect(self.server.url("grpc")) as client:
            stable = client.metadata("scaled", label="stable").version
            # A label in use moves to what is loaded only.
            self.tell(Serve("scaled", tuple({1, stable}), {"stable": stable}))
            wait_for(lambda: any(one.version == 1 and one.state == "AVAILABLE" for one in client.status("scaled")))
        self.tell(Serve("scaled", (1,), {"stable": 1}))
        wait_for(lambda: self.serves(stable=1, available={1}), what="version 1")
        for version in (self.folder / "models/scaled").iterdir():
            if version.name != "1":
                shutil.rmtree(version)

    def tell(self, serve: Serve) -> None:
        for instance in LocalTarget(read_fleet(self.file), "scaled", lambda _: True).instances():
            instance.tell(serve)

    def load(self) -> Load:
        return Load((self.server.url("grpc"), self.server.url("rest")))

    def serves(self, *, stable: int, available: set[int], canary: int | None = None) -> bool:
        with connect(self.server.url("grpc")) as client:
            found = {one.version for one in client.status("scaled") if one.state == "AVAILABLE"}
            try:
                at: int | None = client.metadata("scaled", label="canary").version
            except ServingError:
                at = None
            return (client.metadata("scaled", label="stable").version, found, at) == (stable, available, canary)


@pytest.fixture(scope="module")
def at_version_1(scaled_versions: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rolled]:
    folder = tmp_path_factory.mktemp("rollout") / "fleet"
    shutil.copytree(scaled_versions / "1", folder / "models/scaled/1")
    shutil.copytree(scaled_versions, folder / "later")
    (folder / "models.yaml").write_text(MODELS + ROLLOUT)
    fleet = ["--fleet", str(folder / "models.yaml"), "--port", "{port}", "--rest-port", "{rest_port}"]
    command = [sys.executable, "-m", "tfserving", "serve", "run", "--engine", "embedded", *fleet]
    with serve(command, ROOT) as server:
        yield Rolled(folder, server)


@pytest.fixture
def rolled(at_version_1: Rolled) -> Iterator[Rolled]:
    yield at_version_1
    at_version_1.back()


def resealed(version: Path, name: str) -> None:
    """Has the manifest of a version say that its file `name` is right as it is."""
    path = version / MANIFEST
    said = json.loads(path.read_bytes())
    data = (version / name).read_bytes()
    said["files"][name].update(sha256=hashlib.sha256(data).hexdigest(), size=len(data))
    empty = json.dumps({**said, "digest": ""})
    path.write_text(empty.replace('"digest": ""', f'"digest": "{hashlib.sha256(empty.encode()).hexdigest()}"'))


def test_a_version_takes_over_under_load_and_goes_back(rolled: Rolled) -> None:
    rolled.have(2)
    plan = rolled.rollout("start", "scaled", "--dry-run").stdout
    assert plan.startswith("1. load version 2 of scaled beside 1 on every server\n")
    assert rolled.phase() == ""
    with rolled.load() as load:
        wait_for(lambda: load.versions.get(1, 0) > 20)
        done = rolled.rollout("start", "scaled")
        assert "scaled version 2 is stable." in done.stderr
        assert "golden requests of 1 model equal" in done.stderr
        assert "requests, 0.00 % failed, p99 " in done.stderr
        assert "  probe: with the new version " in done.stderr
        assert re.search(r"^  probe: \d+ requests, 0 failed, p50 ", done.stderr, re.M)
        assert rolled.serves(stable=2, available={2})
        assert "labels: {stable: 2}" in rolled.file.read_text().replace("\n      stable: 2", " {stable: 2}")
        assert "# ours" in rolled.file.read_text()
        seen = load.versions[2]
        wait_for(lambda: load.versions[2] > seen + 20)
        rolled.rollout("undo", "scaled")
        assert rolled.serves(stable=1, available={1})
        seen = load.versions[1]
        wait_for(lambda: load.versions[1] > seen + 20)
    assert load.failures == []
    assert "nothing to undo" not in rolled.rollout("status", "scaled").stdout


def test_a_version_that_answers_otherwise_than_its_golden_requests_is_stopped(rolled: Rolled) -> None:
    version = rolled.have(2)
    shutil.copy(rolled.folder / "later/3" / RECORDS, version / RECORDS)
    resealed(version, str(RECORDS))
    with rolled.load() as load:
        done = rolled.rollout("start", "scaled", code=1)
        assert "Error: rolled back: proving: embedded server on port" in done.stderr
        assert "output 'sums'" in done.stderr
        assert rolled.serves(stable=1, available={1})
    assert load.failures == []
    assert set(load.versions) == {1}
    assert rolled.phase() == "rolled-back"
    assert "stable: 1" in rolled.file.read_text()


def test_a_version_that_does_not_load_is_stopped(rolled: Rolled) -> None:
    # One that no other test rolls out: the server says why it ended until it is loaded.
    version = rolled.have(2, at=5)
    (version / "saved_model.pb").write_bytes(b"\x08\x01broken")
    resealed(version, "saved_model.pb")
    done = rolled.rollout("start", "scaled", code=1)
    assert "Error: rolled back: loading: model 'scaled': version 5 END" in done.stderr
    assert rolled.serves(stable=1, available={1})


def test_a_slow_version_is_stopped(rolled: Rolled) -> None:
    rolled.have(4)
    with rolled.load() as load:
        done = rolled.rollout("start", "scaled", code=1)
        assert "Error: rolled back: canary: " in done.stderr
        assert "more than 4 times as long" in done.stderr
        assert rolled.serves(stable=1, available={1})
    assert load.failures == []


def test_a_half_copied_version_never_starts(rolled: Rolled) -> None:
    version = rolled.have(2)
    next((version / "variables").glob("variables.data*")).unlink()
    done = rolled.rollout("start", "scaled", code=2)
    assert "No such file or directory, and the manifest lists it" in done.stderr
    assert rolled.serves(stable=1, available={1})
    assert rolled.phase() == ""


def test_too_few_requests_are_no_proof(rolled: Rolled) -> None:
    rolled.have(2)
    rolled.file.write_text(MODELS + ROLLOUT.replace("longest: 30", "longest: 3"))
    done = rolled.rollout("start", "scaled", code=1)
    assert "Error: rolled back: stable: only 0 of 20 requests came in 3 s; probe: " in done.stderr
    assert rolled.serves(stable=1, available={1})


@pytest.mark.parametrize("gate", ["false", "true"])
def test_a_command_of_ones_own_is_a_gate(rolled: Rolled, gate: str) -> None:
    rolled.have(2)
    commands = f"commands: [[sh, -c, 'echo $ROLLOUT_MODEL $ROLLOUT_VERSION; {gate}']], samples: 0"
    rolled.file.write_text(MODELS + ROLLOUT.replace("samples: 20", commands))
    done = rolled.rollout("start", "scaled", code=int(gate == "false"))
    assert ("exits with 1: scaled 2" if gate == "false" else "passes: scaled 2") in done.stderr
    assert rolled.serves(stable=1 if gate == "false" else 2, available={1} if gate == "false" else {2})


@pytest.mark.parametrize("phase", ["loading", "proving", "canary", "stable", "baking", "unloading"])
def test_one_that_is_killed_is_gone_on_with(rolled: Rolled, phase: str) -> None:
    """SIGKILL as soon as the phase is begun; then `start` again, under load all the time."""
    rolled.have(2)
    with rolled.load() as load:
        with rolled.going() as process:
            assert process.stderr is not None
            begun = {"loading": "Loading", "proving": "Asking", "canary": "Label canary", "stable": "Label stable"}
            said = begun.get(phase, phase.capitalize())
            assert any(line.startswith(said) for line in process.stderr), phase
            process.kill()
            process.wait()
        state = json.loads(rolled.rollout("status", "scaled", "--json").stdout)["rollout"]
        assert (state["phase"], state["running"]) == (phase, False)
        rolled.rollout("start", "scaled")
        assert rolled.serves(stable=2, available={2})
    assert load.failures == []


def test_it_is_promoted_paused_and_aborted_from_another_shell(rolled: Rolled) -> None:
    rolled.have(2)
    with rolled.load() as load:
        with rolled.going("--manual") as process:
            wait_for(lambda: rolled.comes_to("stable"), what="canary's end")
            assert rolled.serves(stable=1, available={1, 2}, canary=2)
            assert "is being rolled out by another shell" in rolled.rollout("start", "scaled", code=2).stderr
            rolled.rollout("promote", "scaled")
            assert process.wait(60) == 0
        assert rolled.serves(stable=2, available={2})

        rolled.have(3)
        with rolled.going() as process:
            wait_for(lambda: rolled.comes_to("loading"), what="its beginning")
            rolled.rollout("pause", "scaled")
            wait_for(lambda: "paused" in rolled.rollout("status", "scaled").stdout, what="its pause")
            rolled.rollout("abort", "scaled")
            assert process.wait(60) == 1
        assert rolled.serves(stable=2, available={2})
        assert "(aborted)" in rolled.rollout("status", "scaled").stdout

        # Interrupted, it stays where it is, and another shell takes it back.
        with rolled.going("--manual") as process:
            wait_for(lambda: rolled.comes_to("stable"), what="canary's end")
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130
        assert rolled.serves(stable=2, available={2, 3}, canary=3)
        rolled.rollout("abort", "scaled", code=1)
        assert rolled.serves(stable=2, available={2})
    assert load.failures == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("start", "nope"), "no model is called 'nope'; the fleet has scaled"),
        (("start", "scaled"), "model 'scaled' is at version 1 already"),
        (("start", "scaled", "9"), "model 'scaled' has no version 9; its versions: 1"),
        (("promote", "scaled"), "no rollout of 'scaled' is under way"),
        (("undo", "scaled"), "scaled is nothing to undo"),
    ],
)
def test_what_can_not_be_meant_is_told(rolled: Rolled, words: tuple[str, ...], said: str) -> None:
    assert said in rolled.rollout(*words, code=2).stderr


def test_without_a_stable_label_there_is_nothing_to_roll_out(rolled: Rolled) -> None:
    rolled.have(2)
    rolled.file.write_text(MODELS.replace("    labels: {stable: 1}\n", ""))
    said = rolled.rollout("start", "scaled", code=2).stderr
    assert "`tfserving serve labels set scaled stable=VERSION` says which is to serve" in said


PAGE = (ROOT / "docs/rollouts.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.M | re.S)


def test_the_page_is_followed(rolled: Rolled) -> None:
    """Its commands, from top to bottom, of another model; what it shows is what is printed."""
    rolled.have(2)
    rolled.file.write_text(MODELS.replace("    labels: {stable: 1}\n", "") + ROLLOUT)
    shown = [block.replace("digits", "scaled") for language, block in BLOCKS if language == "text"]
    begun = False
    for line in [line for language, block in BLOCKS if language == "sh" for line in block.splitlines()]:
        words = line.replace("digits", "scaled").split()
        if words[2:4] == ["rollout", "undo"]:
            begun = True
            with rolled.load():
                rolled.rollout("start", "scaled")
        done = subprocess.run(
            [sys.executable, "-m", *words, "--fleet", str(rolled.file)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (line, done.stderr)
        if words[-1] == "--dry-run":
            settings = Rollout.model_validate(yaml.safe_load(ROLLOUT)["rollout"])
            usual = Rollout()
            said = shown[0].replace(f"{usual.latency:g} times", f"{settings.latency:g} times")
            said = said.replace("30 s with at least 100", "1 s with at least 20").replace("for 60 s", "for 1 s")
            assert done.stdout == said
    assert begun
    assert rolled.serves(stable=1, available={1})


def test_the_page_shows_the_steps_by_pods() -> None:
    (shown,) = (block for language, block in BLOCKS if language == "text" and "--by-pods" in block)
    state = State("digits", 1, 2, {"stable": 1}, (1,), "pods")
    assert shown.splitlines()[1:] == described(state, Rollout()).splitlines()


@pytest.mark.parametrize("weights", [(5, 50), (50, 5, 100), (50, 50, 100), (0, 100), (101,), ()])
def test_weights_grow_to_all_requests(weights: tuple[int, ...]) -> None:
    with pytest.raises(ValidationError, match="weights"):
        Rollout(weights=weights)


def test_the_page_has_every_setting_with_what_is_true_without_it() -> None:
    (said,) = (yaml.safe_load(block)["rollout"] for language, block in BLOCKS if language == "yaml")
    assert Rollout.model_validate(said) == Rollout()
    assert set(said) == set(Rollout.model_fields)
