"""A Keras model that MLflow saved, as a servable: its inputs and outputs by their names, and random examples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tfserving.export.errors import BuilderError
from tfserving.export.keras_file import load_keras
from tfserving.export.made import made_examples
from tfserving.export.servable import Servable, Signature, TensorSpec

# The name of `build` in errors and in manifests.
BUILDER = "tfserving.export.mlflow.keras_model:build"
_INSTEAD = "Write a builder that calls load_keras and declares signatures (docs/export.md)."


def build(path: Path) -> Servable:
    """Return the model in the Keras file `path` with one signature, `serving_default`.

    Raises BuilderError when it can't be loaded, has no named inputs, or accepts no random values.
    """
    model = load_keras(path)
    inputs = getattr(model, "inputs", None)
    names = getattr(model, "output_names", None)
    if not inputs or not names:
        raise BuilderError(f"{path.name}: a {type(model).__name__} declares no inputs. {_INSTEAD}")
    signature = Signature(
        model, {one.name: TensorSpec(one.dtype, tuple(one.shape)) for one in inputs}, _distinct(names)
    )
    return Servable(model, {"serving_default": signature}, {"serving_default": _examples(path, signature)})


def _distinct(names: list[str]) -> tuple[str, ...]:
    """Return the names of outputs; two layers of nested models can have the same one."""
    return tuple(name if name not in names[:number] else f"{name}_{number}" for number, name in enumerate(names))


def _examples(path: Path, signature: Signature) -> dict[str, Any]:
    """Return the first random inputs that the model accepts."""
    import tensorflow as tf

    reason = ""
    for examples in made_examples(signature, {}):
        try:
            signature.call({name: tf.constant(array) for name, array in examples.items()})
        except Exception as error:
            reason = reason or next(iter(str(error).splitlines()), type(error).__name__)
        else:
            return examples
    raise BuilderError(f"{path.name} rejects random values of its dtypes and shapes ({reason}). {_INSTEAD}")
