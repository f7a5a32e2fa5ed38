"""A cache of trained weights: a second export of the same recipe needs no training."""

from __future__ import annotations

import hashlib
import inspect
import zipfile
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType

import numpy as np

from tfserving.foundation.files import written_whole
from tfserving.foundation.tensors import Array

# In the working folder of the builder, which is the folder of models.yaml. It can be deleted at any time.
CACHE = Path(".cache/training")


def recipe_key(module: ModuleType, packages: Sequence[str]) -> str:
    """Return a key for the result of training in `module`. It changes with the module's source and the `packages`."""
    parts = [inspect.getsource(module), *(f"{package} {_version(package)}" for package in packages)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _version(package: str) -> str:
    """Return the version of a package. TensorFlow is installed as `tensorflow` or as `tensorflow-cpu`."""
    try:
        return version(package)
    except PackageNotFoundError:
        if package != "tensorflow":
            raise
        return version("tensorflow-cpu")


def trained_weights(key: str, train: Callable[[], Sequence[Array]]) -> list[Array]:
    """Return the weights that `train` returns, or those in the cache if `key` was trained before.

    If the cache is damaged or can't be written, the model is trained again; that is no error.
    """
    path = CACHE / f"{key}.npz"
    weights = _read(path)
    if weights is None:
        weights = list(train())
        _write(path, weights)
    return weights


def _read(path: Path) -> list[Array] | None:
    try:
        with np.load(path, allow_pickle=False) as stored:
            return [stored[f"arr_{index}"] for index in range(len(stored.files))]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _write(path: Path, weights: Sequence[Array]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as file:
            np.savez(file, *weights)
    except OSError:
        return
