"""Reads arrays from `.npy` and `.npz` files, which may be damaged or hostile."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from tfserving.foundation.tensors import Array

# No message is larger, so no request has larger arrays. A few bytes of a zip file can inflate to more.
LARGEST = 2**31
Loaded = TypeVar("Loaded")
_NPY = b"\x93NUMPY"


def read_array(path: Path) -> Array:
    """Return the array in the `.npy` file `path`. Raises ValueError for any other file, and OSError."""
    with path.open("rb") as file:
        if file.read(len(_NPY)) != _NPY:
            raise ValueError("it is not a .npy file")
    array: Array = _loaded(lambda: np.load(path, allow_pickle=False))
    return array


def read_arrays(path: Path) -> dict[str, Array]:
    """Return the arrays in the `.npz` file `path`, by name. Raises ValueError for any other file, and OSError."""
    with path.open("rb") as file:
        if not zipfile.is_zipfile(file):
            raise ValueError("it is not a zip file, or it is truncated")

    def load() -> dict[str, Array]:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > LARGEST:
            raise ValueError(f"its arrays have {size} bytes, the limit of a request is {LARGEST}")
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
        for name, array in found.items():
            if not isinstance(array, np.ndarray):
                raise ValueError(f"{name!r} in it is not an array")
        return found

    return _loaded(load)


def write_arrays(file: Any, arrays: dict[str, Array]) -> None:
    """Write an `.npz` file. `np.savez` can't be used: names of arrays would collide with its arguments."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)


def _loaded(load: Callable[[], Loaded]) -> Loaded:
    try:
        return load()
    except OSError:
        raise
    except MemoryError:
        raise ValueError("it needs more memory than there is") from None
    except Exception as error:  # any error of numpy and zipfile for a damaged file
        text = str(error) or type(error).__name__
        # numpy's text recommends an option that this command lacks.
        raise ValueError("it contains Python objects, which aren't loaded" if "pickle" in text else text) from None
