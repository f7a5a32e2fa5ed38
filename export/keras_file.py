"""Loads models from Keras files: `.keras`, and `.h5` as Keras 2 wrote them."""

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
    """Load the Keras model in the file `path`, a `.keras` file or a whole model as `.h5`.

    `kwargs` are passed to `keras.saving.load_model`. The loss, optimizer and metrics are not loaded, because a server
    never needs them, unless you pass `compile=True`.

    Raises BuilderError when the file doesn't exist, has no model, or can't be loaded: with Keras's reason and what to
    change.
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
    """Raise BuilderError when `path` can't be a file with a Keras model."""
    if path.is_dir():
        if (path / SAVED_MODEL).is_file():
            raise BuilderError(
                f"{path} is a SavedModel. Write `saved_model: {path}` in models.yaml to serve it as it is, or call "
                "load_existing(path) to use its functions."
            )
        raise BuilderError(f"{path} is a folder; expected a file that model.save('name.keras') wrote")
    if not path.is_file():
        raise BuilderError(f"{path} does not exist (the working folder is {Path.cwd()})")
    with path.open("rb") as file:
        is_hdf5 = file.read(len(HDF5)) == HDF5
    if path.name.endswith(".weights.h5"):
        raise BuilderError(
            f"{path} has weights but no model. Make the model in the builder, then call "
            f"model.load_weights({str(path)!r})."
        )
    if path.suffix == ".keras" and zipfile.is_zipfile(path):
        return
    if path.suffix in HDF5_SUFFIXES and is_hdf5:
        return
    if is_hdf5 or zipfile.is_zipfile(path):
        suffix = ".h5" if is_hdf5 else ".keras"
        raise BuilderError(f"{path} contains a model in the format {suffix}. Rename it to {path.stem}{suffix}.")
    raise BuilderError(f"{path} is neither a .keras nor an .h5 file, or it is damaged")


def _version_hint(path: Path, reason: str, here: str) -> str:
    """Return what to do about a file of another major or a later version of Keras; `reason` is Keras's error."""
    if path.suffix in HDF5_SUFFIXES:
        # Keras 2 wrote most of them. These errors come from layers that changed since then.
        if not reason.startswith(("Unrecognized", "Unknown", "Could not locate")):
            return ""
        return f"If tf-keras wrote it, save it again with tf-keras: {ANEW}"
    written = _version(path)
    if written.startswith("2."):
        whole = "model.save('name.h5') for load_keras if its layers did not change, "
        return (
            f"Keras {written} (tf-keras) wrote it, and Keras {here} is installed. Save it again with tf-keras: "
            f"{whole}{ANEW}"
        )
    if _number(written) > _number(here):
        return f"Keras {written} wrote it, and Keras {here} is installed: pip install 'keras>={written}'"
    return ""


def _version(path: Path) -> str:
    """Return the version of Keras that wrote the archive `path`; '' when it is unknown."""
    try:
        with zipfile.ZipFile(path) as archive:
            return str(json.loads(archive.read("metadata.json"))["keras_version"])
    except (KeyError, OSError, ValueError, zipfile.BadZipFile):
        return ""


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])
