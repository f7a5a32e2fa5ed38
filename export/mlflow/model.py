"""The model in a folder that MLflow wrote: a SavedModel, or a Keras file. Nothing of MLflow is needed to read it.

    MLmodel                      YAML: the flavors, and where the files of each are
    tf2model/                    flavor tensorflow of a tf.Module: `saved_model_dir`
    data/model.keras             flavor tensorflow or keras of a Keras model: `data`. Older ones have data/model.h5, or
                                 the SavedModel data/model/
    serving_input_example.json   the input example, as a REST request

https://mlflow.org/docs/latest/ml/model/#storage-format, and `save_model` in mlflow/tensorflow/__init__.py and
mlflow/keras/save.py of MLflow 3.17. No Python code of the folder is run, and no pickled object is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from tfserving.export.errors import ExportError, ServableError
from tfserving.export.given import Given, read_given
from tfserving.export.servable import Signature
from tfserving.foundation.files import read_bounded
from tfserving.foundation.golden import SAVED_MODEL

MLMODEL = "MLmodel"
# MLflow writes it beside a downloaded model of its registry.
_REGISTERED = "registered_model_meta"
_FLAVORS = ("tensorflow", "keras")
_KERAS_FILES = ("model.keras", "model.h5")
_LARGEST_BYTES = 4 << 20
# The longest value that goes into a manifest.
_LONGEST = 200


@dataclass(frozen=True)
class MlflowModel:
    """A model that MLflow saved. `path` is the folder of its SavedModel, or its Keras file.

    `example` is the input example, if it has one. `origin` is the text for a manifest: where the model is from.
    """

    path: Path
    example: Path | None
    origin: str

    @property
    def is_keras(self) -> bool:
        """Whether it is a Keras file."""
        return self.path.is_file()

    def requests(self, signatures: Mapping[str, Signature], note: Callable[[str], None]) -> list[Given]:
        """Return the input example as requests. `note` is called when the signatures don't accept it."""
        if self.example is None:
            return []
        try:
            return read_given(self.example, signatures)
        except ServableError as error:
            note(f"the input example of the MLflow model is no golden request: {error}")
            return []


def read_model(folder: Path, where: str) -> MlflowModel:
    """Return the model in `folder`, which has a file `MLmodel`; errors and the manifest call it `where`.

    Raises ExportError when MLmodel can't be read, when it has neither the flavor tensorflow nor keras, and when the
    files that it names are missing or outside of the folder.
    """
    found = _mapping(folder / MLMODEL)
    flavors = found.get("flavors")
    flavors = flavors if isinstance(flavors, dict) else {}
    flavor = next((flavors[name] for name in _FLAVORS if isinstance(flavors.get(name), dict)), None)
    if flavor is None:
        names = ", ".join(sorted(map(str, flavors)))[:_LONGEST]
        raise ExportError(
            f"{where} is an MLflow model with {f'the flavors {names}' if names else 'no flavor'}. Only models that "
            "mlflow.tensorflow or mlflow.keras saved can be exported."
        )
    path = _inside(folder, _path_of(folder, flavor, where), where)
    given = found.get("saved_input_example_info")
    name = given.get("serving_input_path") if isinstance(given, dict) else None
    example = _inside(folder, name, where) if isinstance(name, str) else None
    if example is not None and not example.is_file():
        example = None
    return MlflowModel(path, example, f"{where}: {', '.join(_origin(folder, path, found))}")


def _path_of(folder: Path, flavor: Mapping[str, Any], where: str) -> str:
    """Return where a flavor has its SavedModel or Keras file, relative to the `folder`."""
    if isinstance(saved := flavor.get("saved_model_dir"), str):
        return saved
    if isinstance(data := flavor.get("data"), str):
        inside = _inside(folder, data, where)
        for name in ("", "model"):
            if (inside / name / SAVED_MODEL).is_file():
                return f"{data}/{name}"
        for name in _KERAS_FILES:
            if (inside / name).is_file():
                return f"{data}/{name}"
        raise ExportError(f"{where}: {data}/ has neither a SavedModel nor {' or '.join(_KERAS_FILES)}")
    raise ExportError(f"{where}: {MLMODEL} has neither `saved_model_dir` nor `data` in its flavor")


def _inside(folder: Path, name: str, where: str) -> Path:
    """Return the path `name` in `folder`. Raises ExportError when it leads out of it."""
    path = PurePosixPath(name)
    plain = name.isprintable() and not path.is_absolute() and ".." not in path.parts
    # A link in the folder could lead anywhere.
    if not plain or not (folder / path).resolve().is_relative_to(folder.resolve()):
        raise ExportError(f"{where}: {MLMODEL} names the path {name[:_LONGEST]!r}, which is not in the model's folder")
    return folder / path


def _origin(folder: Path, path: Path, found: Mapping[str, Any]) -> Iterator[str]:
    """Yield what identifies a model of MLflow: its version in the registry, its path in the model, its id, its run."""
    if (folder / _REGISTERED).is_file():
        registered = _mapping(folder / _REGISTERED)
        if version := _text(registered.get("model_version")):
            yield f"version {version}"
    model = _text(found.get("model_uuid")) or "without an id"
    yield f"{path.relative_to(folder).as_posix()} of the MLflow model {model}"
    if run := _text(found.get("run_id")):
        yield f"run {run}"


def _text(value: object) -> str:
    """Return a value from MLmodel that is short and printable; '' for others."""
    text = str(value) if isinstance(value, str | int) else ""
    return text if text.isprintable() and len(text) <= _LONGEST else ""


def _mapping(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file of at most 4 MiB. Raises ExportError."""
    import yaml

    try:
        value = yaml.load(read_bounded(path, _LARGEST_BYTES), getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506
    except OSError as error:
        raise ExportError(f"{path}: {error.strerror or error}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ExportError(f"{path} can't be read as YAML: {' '.join(str(error).split())[:_LONGEST]}") from None
    if not isinstance(value, dict):
        raise ExportError(f"{path}: expected a mapping, got {value!r:.60}")
    return value
