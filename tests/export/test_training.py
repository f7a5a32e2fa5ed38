"""A recipe is trained once."""

from __future__ import annotations

import importlib
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest

from tfserving.export import training
from tfserving.foundation.tensors import Array

WEIGHTS = [np.arange(6, dtype=np.float32).reshape(2, 3), np.array(7)]


class Trainer:
    """Counts how often it was asked to train."""

    def __init__(self) -> None:
        self.trained = 0

    def __call__(self) -> list[Array]:
        self.trained += 1
        return WEIGHTS


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_second_export_takes_the_weights_of_the_first() -> None:
    train = Trainer()
    for _ in range(2):
        weights = training.trained_weights("key", train)
        for got, wanted in zip(weights, WEIGHTS, strict=True):
            np.testing.assert_array_equal(got, wanted)
    assert train.trained == 1


def test_another_recipe_is_trained() -> None:
    train = Trainer()
    training.trained_weights("one", train)
    training.trained_weights("other", train)
    assert train.trained == 2


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "text", "folder"])
def test_a_damaged_cache_is_trained_again(damage: str) -> None:
    train = Trainer()
    training.trained_weights("key", train)
    (path,) = training.CACHE.iterdir()
    content = path.read_bytes()
    if damage == "folder":
        path.unlink()
        path.mkdir()
    else:
        middle = len(content) // 3
        path.write_bytes(
            {
                "cut": content[:-30],
                "flipped": content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :],
                "empty": b"",
                "text": b"weights",
            }[damage]
        )
    weights = training.trained_weights("key", train)
    assert train.trained == 2
    np.testing.assert_array_equal(weights[0], WEIGHTS[0])


def test_an_interrupted_training_leaves_no_cache() -> None:
    def interrupted() -> list[Array]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training.trained_weights("key", interrupted)
    assert not training.CACHE.exists()


def test_a_folder_that_cannot_be_written_costs_only_the_cache(tmp_path: Path) -> None:
    (tmp_path / ".cache").write_text("a file where the folder should be")
    train = Trainer()
    assert len(training.trained_weights("key", train)) == len(training.trained_weights("key", train)) == 2
    assert train.trained == 2


def test_a_recipe_changes_with_its_source_and_its_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    keys = set()
    for name, text in (("recipe_a", "RATE = 1\n"), ("recipe_b", "RATE = 2\n")):
        (tmp_path / f"{name}.py").write_text(text)
        module = importlib.import_module(name)
        for packages in (("numpy",), ("numpy", "click")):
            keys.add(training.recipe_key(module, packages))
            assert training.recipe_key(module, packages) == training.recipe_key(sys.modules[name], packages)
    assert len(keys) == 4


def test_tensorflow_for_cpus_is_a_tensorflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a package of another name, in environments with the extra `cpu`."""
    keys = set()
    for version in ("2.21.0", "2.21.1"):
        info = tmp_path / version / f"tensorflow_cpu-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: tensorflow-cpu\nVersion: {version}\n")
        monkeypatch.setattr("sys.path", [str(tmp_path / version)])
        keys.add(training.recipe_key(training, ("tensorflow",)))
    assert len(keys) == 2
    with pytest.raises(PackageNotFoundError):
        training.recipe_key(training, ("keras",))
