"""Models from files of Keras: `.keras`, and `.h5` as Keras 2 wrote them."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from typing import Any

from tfserving.export.errors import BuilderError
from tfserving.export.keras_errors import why
from tfserving.foundation.golden import SAVED_MODEL

HDF5 = b"\x89HDF\r\n\x1a\n"
HDF5_SUFFIXES = (".h5", ".hdf5")
ANEW = (
    "model.save_weights('name.weights.h5') for a model that the builder makes, or tf.saved_model.save for "
    "`saved_model:` in models.yaml"
)


def load_keras(path: str | Path, **kwargs: Any) -> Any:
    """The Keras model in the file `path`, a `.keras` or a whole model as `.h5`.

    `keras.saving.load_model` loads it with `kwargs`, and without its loss, optimizer and metrics, which a server never
    needs, unless `compile=True` is one.

    Raises BuilderError when there is no such file, it has no model, or Keras can't load it: with Keras's own reason,
    and what to change.
    """
    import keras

    path = Path(path)
    _check_kind(path)
    try:
        return keras.saving.load_model(path, **{"compile": False, **kwargs})
    except Exception as error:
        reason, hint = why(str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error))
        hints = [hint, _version_hint(path, reason, keras.__version__)]
        what = f"{path} can't be loaded: {reason or type(error).__name__}"
        raise BuilderError("\n  ".join([what, *filter(None, hints)])) from None


def _check_kind(path: Path) -> None:
    """Raises BuilderError when `path` is no file that may have a Keras model."""
    if path.is_dir():
        if (path / SAVED_MODEL).is_file():
            raise BuilderError(
                f"{path} is a SavedModel: `saved_model: {path}` in models.yaml serves it as it is, "
                "load_existing(path) gives its functions"
            )
        raise BuilderError(f"{path} is a folder; load_keras loads files, as model.save('name.keras') writes them")
    if not path.is_file():
        raise BuilderError(f"{path}: there is no such file")
    with path.open("rb") as file:
        is_hdf5 = file.read(len(HDF5)) == HDF5
    if path.name.endswith(".weights.h5"):
        raise BuilderError(
            f"{path} has weights, no model: make the model in the builder, then model.load_weights({str(path)!r})"
        )
    if path.suffix == ".keras" and zipfile.is_zipfile(path):
        return
    if path.suffix in HDF5_SUFFIXES and is_hdf5:
        return
    if is_hdf5 or zipfile.is_zipfile(path):
        suffix = ".h5" if is_hdf5 else ".keras"
        raise BuilderError(f"{path} has a model in the format {suffix}; rename it to {path.stem}{suffix}")
    raise BuilderError(
        f"{path} is no .keras file, as model.save('name.keras') writes it, and no .h5 file, or a damaged one"
    )


def _version_hint(path: Path, reason: str, here: str) -> str:
    """What to do about a file that another major or a later version of Keras wrote; `reason` is why it isn't loaded."""
    if path.suffix in HDF5_SUFFIXES:
        # Keras 2 wrote most of them, and layers that changed since then say so.
        if not reason.startswith(("Unrecognized", "Unknown", "Could not locate")):
            return ""
        return f"If tf-keras wrote it, write it anew there: {ANEW}"
    written = _version(path)
    if written.startswith("2."):
        whole = "model.save('name.h5') for load_keras, where its layers did not change, "
        return f"Keras {written}, tf-keras, wrote it, this is Keras {here}. Write it anew there: {whole}{ANEW}"
    if _number(written) > _number(here):
        return f"Keras {written} wrote it, this is Keras {here}: pip install 'keras>={written}'"
    return ""


def _version(path: Path) -> str:
    """The version of Keras that wrote the archive `path`; empty when it doesn't say."""
    try:
        with zipfile.ZipFile(path) as archive:
            return str(json.loads(archive.read("metadata.json"))["keras_version"])
    except (KeyError, OSError, ValueError, zipfile.BadZipFile):
        return ""


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])
