"""Writes the folders beside it with MLflow itself, which needs pandas for that.

pip install mlflow-skinny==3.17.* pandas, then: python -m tests.export.mlflow_folders.record
"""

from __future__ import annotations

import importlib
import os
import shutil
from pathlib import Path
from typing import Any

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

import keras
import numpy as np
import tensorflow as tf

HERE = Path(__file__).parent
ROWS = np.array([[1.0, 2.0], [0.5, -1.0], [0.0, 4.0]], np.float32)


class Tripled(tf.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.factor = tf.Variable(3.0)

    @tf.function(input_signature=[tf.TensorSpec((None, 2), tf.float32, name="x")])  # type: ignore[untyped-decorator]
    def __call__(self, x: Any) -> dict[str, Any]:
        return {"y": x * self.factor}


def model() -> keras.Model:
    inputs = keras.Input((2,), name="features")
    return keras.Model(inputs, keras.layers.Dense(1, kernel_initializer="ones", name="score")(inputs))


def main() -> None:
    in_tensorflow, in_keras = (importlib.import_module(f"mlflow.{name}") for name in ("tensorflow", "keras"))
    infer: Any = importlib.import_module("mlflow.models").infer_signature
    for old in HERE.iterdir():
        if old.is_dir():
            shutil.rmtree(old)
    plain = {"pip_requirements": ["tensorflow"]}
    module = Tripled()
    in_tensorflow.save_model(
        module,
        str(HERE / "module"),
        signature=infer({"x": ROWS}, {"y": module(ROWS)["y"].numpy()}),
        input_example={"x": ROWS},
        saved_model_kwargs={"signatures": module.__call__},
        **plain,
    )
    signature = infer(ROWS, model().predict(ROWS, verbose=0))
    in_tensorflow.save_model(model(), str(HERE / "keras_model"), signature=signature, input_example=ROWS, **plain)
    in_keras.save_model(model(), str(HERE / "keras_flavor"), signature=signature, **plain)
    in_keras.save_model(model(), str(HERE / "exported"), save_exported_model=True, signature=signature, **plain)


if __name__ == "__main__":
    main()
