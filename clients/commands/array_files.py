"""Arrays from `.npy` and `.npz` files, half-written and hostile ones among them."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from tfserving.foundation.tensors import Array

# No message is larger, so no request has larger arrays; a few bytes of a zip file can stand for them all the same.
LARGEST = 2**31
Loaded = TypeVar("Loaded")
_NPY = b"\x93NUMPY"


def read_array(path: Path) -> Array:
    """The array in the `.npy` file `path`. Raises ValueError for what is none, and OSError."""
    with path.open("rb") as file:
        if file.read(len(_NPY)) != _NPY:
            raise ValueError("it does not begin as such a file does")
    array: Array = _loaded(lambda: np.load(path, allow_pickle=False))
    return array


def read_arrays(path: Path) -> dict[str, Array]:
    """The arrays in the `.npz` file `path`, by name. Raises ValueError for what is none, and OSError."""
    with path.open("rb") as file:
        if not zipfile.is_zipfile(file):
            raise ValueError("it is no zip file, or only the beginning of one")

    def load() -> dict[str, Array]:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > LARGEST:
            raise ValueError(f"its arrays have {size} bytes, a request has {LARGEST} at most")
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
        for name, array in found.items():
            if not isinstance(array, np.ndarray):
                raise ValueError(f"{name!r} in it is no array")
        return found

    return _loaded(load)


def write_arrays(file: Any, arrays: dict[str, Array]) -> None:
    """Writes an `.npz` file. Unlike `np.savez`, which takes the names as its arguments', it has no names of its own."""
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
        raise ValueError("it stands for more memory than there is") from None
    except Exception as error:  # whatever numpy and zipfile raise for a damaged file
        said = str(error) or type(error).__name__
        # numpy's advice is to allow what no option of a command allows.
        raise ValueError("it holds Python objects, which are not loaded" if "pickle" in said else said) from None
