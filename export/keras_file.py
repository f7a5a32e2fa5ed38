"""Models from files of Keras: `.keras`, and `.h5` as Keras 2 wrote them."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tfserving.export.errors import BuilderError
from tfserving.foundation.golden import SAVED_MODEL

HDF5 = b"\x89HDF\r\n\x1a\n"
HDF5_SUFFIXES = (".h5", ".hdf5")
# What Keras writes before the error of each object around an object that can't be made, and after the last one.
NESTED = "Exception encountered: "
ADVICE = re.compile(r"\s*(Make sure custom classes|Please ensure you are using|Full object config: ).*", re.DOTALL)
LONGEST = 300
# What every layer takes (keras/src/layers/layer.py, Layer.__init__).
LAYER_ARGUMENTS = ("name", "trainable", "dtype", "autocast", "activity_regularizer")


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
        reason = _reason(error)
        hints = [hint for hint in (_hint(reason), _version_hint(path, keras.__version__)) if hint]
        raise BuilderError("\n  ".join([f"{path} can't be loaded: {reason}", *hints])) from None


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


def _reason(error: Exception) -> str:
    """What Keras says about the innermost object, without its configuration and advice."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    last = ADVICE.sub("", text.rpartition(NESTED)[2]).strip()
    line = next(filter(None, map(str.strip, last.splitlines())), type(error).__name__)
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}…"


def _unexpected(match: re.Match[str]) -> str:
    name, argument = match.groups()
    if argument in LAYER_ARGUMENTS:
        return f"{name}.__init__ must take **kwargs and pass them to super().__init__(**kwargs)"
    return f"get_config of {name} returns {argument!r}, which its __init__ does not take"


def _unregistered(match: re.Match[str]) -> str:
    name = match[1].rpartition(">")[2]
    if _is_keras(name):
        return ""
    return (
        f"{name} needs @keras.saving.register_keras_serializable(), and its module imported before the file is loaded; "
        f"or load_keras(path, custom_objects={{{match[1]!r}: {name}}})"
    )


def _unrecognized(match: re.Match[str]) -> str:
    name, arguments = match.groups()
    if _is_keras(name):
        return f"another version of Keras has a {name} that takes them; load the file with that version"
    return f"get_config of {name} returns them, and its __init__ does not take them: {arguments}"


def _is_keras(name: str) -> bool:
    """Whether the class `name` is one of Keras's."""
    import keras

    return name == "Functional" or hasattr(keras.layers, name) or hasattr(keras, name)


HINTS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'"), _unexpected),
    (re.compile(r"Unrecognized keyword arguments passed to (\w+): (.+)"), _unrecognized),
    (re.compile(r"Could not locate (?:class|function) '([^']+)'"), _unregistered),
    (re.compile(r"Unknown [\w ]+: '([^']+)'"), _unregistered),
    (
        re.compile(r"(\w+)\.__init__\(\) missing \d+ required (?:positional|keyword-only) arguments?: (.+)"),
        lambda match: f"get_config of {match[1]} must return {match[2]}, too",
    ),
    (
        re.compile(r"safe_mode=False"),
        lambda _: (
            "a Lambda layer is Python code in the file: load_keras(path, safe_mode=False) runs it; do that only with a "
            "file that you trust; a registered layer of your own needs no such trust"
        ),
    ),
    (
        re.compile(r"objects? could not be loaded"),
        lambda _: (
            "the layers are not built as they were when the file was written; a layer makes its variables in __init__ "
            "or build(), in the same order"
        ),
    ),
    (
        re.compile(r"No model config found"),
        lambda _: "the file has weights, no model: make the model in the builder, then model.load_weights(path)",
    ),
    (
        re.compile(r"no item named|Expected a model\.weights|truncated file|: line \d+ column \d+|Bad (?:CRC|magic)"),
        lambda _: "the file is damaged or incomplete; write it again with model.save('name.keras')",
    ),
)


def _hint(reason: str) -> str:
    """What to change, when Keras gives the `reason`."""
    return next((hint(match) for pattern, hint in HINTS if (match := pattern.search(reason))), "")


def _version_hint(path: Path, here: str) -> str:
    """What to do about a file that another major or a later version of Keras wrote."""
    written = _version(path)
    if written.startswith("2."):
        whole = "" if path.suffix in HDF5_SUFFIXES else "model.save('name.h5') for load_keras, "
        return (
            f"Keras {written}, tf-keras, wrote it, this is Keras {here}. Where it can be loaded, write it anew: {whole}"
            "model.save_weights('name.weights.h5') for a model made here, or tf.saved_model.save for `saved_model:` in "
            "models.yaml"
        )
    if _number(written) > _number(here):
        return f"Keras {written} wrote it, this is Keras {here}: pip install 'keras>={written}'"
    return ""


def _version(path: Path) -> str:
    """The version of Keras that wrote `path`; empty when the file doesn't say."""
    import h5py

    try:
        if path.suffix == ".keras":
            with zipfile.ZipFile(path) as archive:
                return str(json.loads(archive.read("metadata.json"))["keras_version"])
        with h5py.File(path) as file:
            return str(file.attrs["keras_version"])
    except (KeyError, OSError, ValueError, zipfile.BadZipFile):
        return ""


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])
