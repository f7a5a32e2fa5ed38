"""Training that is killed and resumed, exports from checkpoints, and what goes wrong with them otherwise."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.export import zoo
from tests.export.conftest import ROOT
from tests.exporting import run_export
from tests.servers import wait_for
from tfserving.export.checkpoints import restore as restore_traced
from tfserving.export.errors import CheckpointError
from tfserving.export.manifest import read_manifest
from tfserving.export.models import resumed
from tfserving.export.savedmodel import trace
from tfserving.export.servable import Servable
from tfserving.foundation.golden import read_golden

STEPS = 25
VALUE = ".ATTRIBUTES/VARIABLE_VALUE"


def restore(servable: Servable, prefix: Path) -> None:
    restore_traced(servable, prefix, trace(servable))


def train(folder: Path) -> None:
    """Trains the sample in `folder`, in this process."""
    resumed.main([str(folder), "--steps", str(STEPS)], standalone_mode=False)


def start_training(folder: Path) -> subprocess.Popen[str]:
    """Starts the sample's training in `folder`."""
    command = [sys.executable, "-m", "tfserving.export.models.resumed", str(folder), "--steps", str(STEPS)]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.index"))


def contents(folder: Path) -> dict[str, Any]:
    """Everything in the latest checkpoint of `folder`, by key."""
    reader = tf.train.load_checkpoint(str(folder))
    return {key: reader.get_tensor(key) for key in reader.get_variable_to_shape_map()}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    train(folder)
    return folder


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A run that was killed half way and resumed, and the checkpoints it had when it was killed."""
    folder = tmp_path_factory.mktemp("killed") / "run"
    process = start_training(folder)
    # Killed at once when step 10 is written; steps that follow are lost.
    wait_for(lambda: (folder / "ckpt-10.index").exists() or process.poll() is not None, what="step 10")
    process.kill()
    process.communicate(timeout=60)
    left = checkpoints(folder)
    train(folder)
    return folder, left


def test_a_killed_training_comes_to_the_weights_slots_and_step_of_an_uninterrupted_one(
    killed: tuple[Path, list[str]], uninterrupted: Path
) -> None:
    folder, left = killed
    assert left, "it was killed before its first checkpoint"
    assert f"ckpt-{STEPS}" not in left, "it was done before it was killed"
    ours, wanted = contents(folder), contents(uninterrupted)
    assert ours.keys() == wanted.keys()
    # Adam keeps two slots for each of the four weights.
    assert len([key for key in ours if key.startswith("optimizer/_variables/")]) == 8
    assert ours[f"step/{VALUE}"] == STEPS
    for key, value in wanted.items():
        if key != "_CHECKPOINTABLE_OBJECT_GRAPH":
            np.testing.assert_array_equal(ours[key], value, err_msg=key)


def test_the_three_latest_checkpoints_stay(killed: tuple[Path, list[str]], uninterrupted: Path) -> None:
    for folder in (killed[0], uninterrupted):
        assert checkpoints(folder) == ["ckpt-15", "ckpt-20", "ckpt-25"]


def export(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_export(ROOT, "build", *arguments, "--folder", str(tmp_path / "models"))


def test_any_checkpoint_is_exported_with_its_weights(uninterrupted: Path, tmp_path: Path) -> None:
    for version, chosen in enumerate((["--checkpoint", "ckpt-15"], []), 1):
        name = "ckpt-15" if chosen else "ckpt-25"
        run = ["--from-checkpoint", str(uninterrupted), *chosen, "tfserving.export.models.resumed:untrained", "--json"]
        done = export(tmp_path, *run)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["models"][0]["checkpoint"] == name
        folder = tmp_path / f"models/resumed/{version}"
        assert read_manifest(folder).checkpoint == name
        reader = tf.train.load_checkpoint(str(uninterrupted / name))
        trained = [reader.get_tensor(f"optimizer/_trainable_variables/{number}/{VALUE}") for number in range(4)]
        saved = tf.train.load_checkpoint(str(folder / "variables/variables"))
        # The optimizer and the step are not served.
        written = [saved.get_tensor(key) for key in saved.get_variable_to_shape_map() if key.endswith(VALUE)]
        assert {weights.tobytes() for weights in written} == {weights.tobytes() for weights in trained}
        assert len(written) == 4
    first, second = (read_golden(tmp_path / f"models/resumed/{version}").requests[0] for version in (1, 2))
    assert not np.array_equal(first.outputs["logits"], second.outputs["logits"])


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (
            ["--from-checkpoint", "{run}", "--checkpoint", "ckpt-7", "tfserving.export.models.resumed:untrained"],
            "{run} has no checkpoint 'ckpt-7'. {run} has ckpt-15, ckpt-20, ckpt-25.",
        ),
        (["--from-checkpoint", "{run}"], "--from-checkpoint needs exactly one model, got "),
        (["--checkpoint", "ckpt-15", "digits"], "--checkpoint ckpt-15 needs --from-checkpoint DIR"),
        (
            ["--from-checkpoint", "{run}/none", "digits"],
            "{run}/none is not a checkpoint. {run} has ckpt-15, ckpt-20, ckpt-25.",
        ),
    ],
    ids=["name", "many", "no folder", "missing folder"],
)
def test_a_checkpoint_that_cannot_be_meant_is_told_before_anything_starts(
    uninterrupted: Path, tmp_path: Path, arguments: list[str], problem: str
) -> None:
    done = export(tmp_path, *(argument.format(run=uninterrupted) for argument in arguments))
    assert done.returncode == 2
    assert problem.format(run=uninterrupted) in done.stderr


def test_another_models_checkpoint_lists_every_variable_that_does_not_fit(uninterrupted: Path, tmp_path: Path) -> None:
    done = export(tmp_path, "--from-checkpoint", str(uninterrupted), "mine=tests.export.zoo:trained")
    assert done.returncode == 1
    assert "Error: mine was not exported: " in done.stderr
    assert "ckpt-25 does not fit the model:" in done.stderr
    assert "Traceback" not in done.stderr
    for variable in ("first.kernel", "first.bias", "second.kernel", "second.bias"):
        assert f"model.{variable} is only in the model" in done.stderr
    assert len([line for line in done.stderr.splitlines() if "is only in the checkpoint" in line]) == 4
    assert not (tmp_path / "models/mine").exists()


def built(units: int = 2) -> keras.Model:
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), keras.layers.Dense(units)])


def servable(model: keras.Model, **more: Any) -> Servable:
    return Servable(model, zoo.servable(model, lambda rows: {"scaled": model(rows)}).signatures, {}, **more)


@pytest.fixture
def saved(tmp_path: Path) -> tuple[keras.Model, Path]:
    """A model and the prefix of its checkpoint."""
    keras.utils.set_random_seed(5)
    model = built()
    prefix = tf.train.Checkpoint(model=model, optimizer=keras.optimizers.Adam()).save(str(tmp_path / "run/ckpt"))
    return model, Path(prefix)


def test_a_checkpoint_is_restored_to_the_last_bit(saved: tuple[keras.Model, Path]) -> None:
    model, prefix = saved
    other = built()
    assert not np.array_equal(other.get_weights()[0], model.get_weights()[0])
    restore(servable(other), prefix)
    for restored, wanted in zip(other.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(restored, wanted)


@pytest.mark.parametrize(
    ("model", "problems"),
    [
        (
            lambda: built(units=3),
            [
                ".kernel is float32 (4, 2) in the checkpoint and float32 (4, 3) in the model",
                "is float32 (2,) in the checkpoint and float32 (3,) in the model",
            ],
        ),
        (
            lambda: keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)]),
            ["is only in the checkpoint"],
        ),
        (
            lambda: keras.Sequential([built(), keras.layers.Dense(1)]),
            ["is only in the model"],
        ),
    ],
    ids=["shape", "missing layer", "other layer"],
)
def test_what_does_not_fit_is_listed_and_nothing_is_restored(
    saved: tuple[keras.Model, Path], model: Callable[[], keras.Model], problems: list[str]
) -> None:
    other = model()
    before = [weights.copy() for weights in other.get_weights()]
    with pytest.raises(CheckpointError) as refused:
        restore(servable(other), saved[1])
    for problem in problems:
        assert problem in str(refused.value)
    for now, then in zip(other.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_a_checkpoint_written_with_other_names_says_which(saved: tuple[keras.Model, Path]) -> None:
    model = built()
    with pytest.raises(CheckpointError, match="it has no 'network'; it contains 'model', 'optimizer', 'save_counter'"):
        restore(servable(model, checkpoint={"network": model}), saved[1])


def test_a_damaged_checkpoint_is_told(saved: tuple[keras.Model, Path]) -> None:
    index = saved[1].with_name(f"{saved[1].name}.index")
    index.write_bytes(index.read_bytes()[:-20])
    with pytest.raises(CheckpointError, match="is not a checkpoint, or it is damaged"):
        restore(servable(built()), saved[1])


def test_saving_what_the_manager_saved_leaves_checkpoints_that_nobody_deletes(tmp_path: Path) -> None:
    # Why the sample lets the manager save, and nothing else.
    checkpoint = tf.train.Checkpoint(weights=tf.Variable(1.0))
    manager = tf.train.CheckpointManager(checkpoint, str(tmp_path / "twice"), max_to_keep=3)
    for _ in range(9):
        checkpoint.save(manager.save())
    assert len(manager.checkpoints) == 3
    assert len(checkpoints(tmp_path / "twice")) > 9
    right = tf.train.CheckpointManager(checkpoint, str(tmp_path / "once"), max_to_keep=3)
    for _ in range(9):
        right.save()
    assert len(checkpoints(tmp_path / "once")) == 3
