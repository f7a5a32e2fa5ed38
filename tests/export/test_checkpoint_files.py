"""Which checkpoint `--from-checkpoint` and `--checkpoint` mean."""

from __future__ import annotations

from pathlib import Path

import keras
import pytest
import tensorflow as tf

from tfserving.export.checkpoint_files import find_checkpoint
from tfserving.export.errors import CheckpointError


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two checkpoints, ckpt-1 and ckpt-2."""
    folder = tmp_path_factory.mktemp("checkpoints") / "run"
    checkpoint = tf.train.Checkpoint(weights=tf.Variable(1.0))
    for _ in range(2):
        checkpoint.save(str(folder / "ckpt"))
    return folder


@pytest.mark.parametrize(
    ("path", "name", "found"),
    [
        (".", None, "ckpt-2"),
        (".", "ckpt-1", "ckpt-1"),
        ("checkpoint", None, "ckpt-2"),
        ("ckpt-1", None, "ckpt-1"),
        ("ckpt-1", "ckpt-1", "ckpt-1"),
        ("ckpt-1.index", None, "ckpt-1"),
        ("ckpt-1.data-00000-of-00001", None, "ckpt-1"),
    ],
)
def test_a_folder_a_prefix_and_a_file_name_a_checkpoint(run: Path, path: str, name: str | None, found: str) -> None:
    assert find_checkpoint(run / path, name) == run / found


@pytest.mark.parametrize(
    ("path", "name", "problem"),
    [
        ("ckpt-7", None, "run/ckpt-7 is not a checkpoint. "),
        (".", "ckpt-7", "run has ckpt-1, ckpt-2. Did you mean 'ckpt-"),
        ("ckpt-1", "ckpt-2", "run/ckpt-1 names a checkpoint, so leave out --checkpoint ckpt-2"),
        ("none/ckpt-1", None, "run/none/ckpt-1 is not a checkpoint: the folder "),
    ],
)
def test_a_wrong_one_lists_what_there_is(run: Path, path: str, name: str | None, problem: str) -> None:
    with pytest.raises(CheckpointError) as refused:
        find_checkpoint(run / path, name)
    assert problem in str(refused.value)


def test_a_folder_without_a_latest_checkpoint_is_told(run: Path, tmp_path: Path) -> None:
    for file in run.glob("ckpt-1*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(
        CheckpointError, match=r"the file 'checkpoint' is missing or names no checkpoint\. .* has ckpt-1\. Choose"
    ):
        find_checkpoint(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"has no checkpoint: it has no file \*\.index"):
        find_checkpoint(tmp_path / "empty")


def test_files_and_folders_of_other_formats_say_what_loads_them(tmp_path: Path) -> None:
    module = tf.Module()
    tf.saved_model.save(module, str(tmp_path / "saved"))
    with pytest.raises(CheckpointError, match=r"saved is a SavedModel, .* Call load_existing in the builder, or"):
        find_checkpoint(tmp_path / "saved")
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.save_weights(tmp_path / "model.weights.h5")
    for path in (tmp_path, tmp_path / "model.weights.h5"):
        with pytest.raises(
            CheckpointError, match=r"is a file of Keras\. .* model\.load_weights\('model\.weights\.h5'\)"
        ):
            find_checkpoint(path)
