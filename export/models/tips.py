"""Predicts the tip for a bill: a functional Keras model with inputs of four dtypes, one of them optional.

The data are 244 bills that a waiter recorded in 1990 (Bryant and Smith, Practical Data Analysis, 1995), from Plotly's
package.
"""

from __future__ import annotations

import csv
import gzip
import io
import sys
from importlib.resources import files
from typing import TYPE_CHECKING

import keras
import numpy as np
import tensorflow as tf

from tfserving.export.servable import Evaluation, Metric, Servable, Signature, TensorSpec
from tfserving.export.training import recipe_key, trained_weights
from tfserving.export.training_data import digest_of
from tfserving.foundation.tensors import Array

if TYPE_CHECKING:
    from importlib.abc import Traversable

SEED = 3
EPOCHS = 40
DAYS = ("Thur", "Fri", "Sat", "Sun")
TIMES = ("Lunch", "Dinner")
LARGEST_PARTY = 6
GENEROUS = 0.15
FLOOR = 1e-6


def build() -> Servable:
    """Train the model, or load its weights from the cache, and declare its signature.

    Inputs: `total_bill` float32 (None,) in dollars, `party_size` int64 (None,), `day` string (None,), `smoker` bool
    (None,), and the optional `time` string (None,). Outputs: `tip` float32 (None,) in dollars, `share` float32 (None,)
    of the bill, and `generous` bool (None,), 15 % or more. Raises ValueError when the error for the test bills is not
    smaller than that of a constant share.
    """
    inputs, tips = _read()
    shuffled = np.random.default_rng(SEED).permutation(len(tips))
    train, test = shuffled[:180], shuffled[180:]
    keras.utils.set_random_seed(SEED)
    model = _model()

    def fit() -> list[Array]:
        model.compile(keras.optimizers.Adam(0.003), {"tip": "mae"})
        rows = {name: array[train] for name, array in inputs.items()}
        # All rows twice, the second time without the time of day, so that the model learns to work without it.
        without = rows | {"time": np.full(len(train), "", np.object_)}
        both = {name: tf.constant(np.concatenate([rows[name], without[name]])) for name in rows}
        model.fit(both, {"tip": np.tile(tips[train], 2)}, batch_size=32, epochs=EPOCHS, verbose=0)
        return model.get_weights()  # type: ignore[no-any-return]

    key = recipe_key(sys.modules[__name__], ("keras", "numpy", "plotly", "tensorflow"))
    model.set_weights(trained_weights(key, fit))

    @tf.function  # type: ignore[untyped-decorator]
    def tip(
        total_bill: tf.Tensor, party_size: tf.Tensor, day: tf.Tensor, smoker: tf.Tensor, time: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        rows = {"total_bill": total_bill, "party_size": party_size, "day": day, "smoker": smoker}
        # The default value is one row for the whole batch.
        rows["time"] = tf.broadcast_to(time, tf.shape(total_bill))
        tip = model(rows, training=False)["tip"]
        share = tip / tf.maximum(total_bill, FLOOR)
        return {"tip": tip, "share": share, "generous": share >= GENEROUS}

    tested = {name: array[test] for name, array in inputs.items()}
    error = float(np.mean(np.abs(tip(**{k: tf.constant(v) for k, v in tested.items()})["tip"].numpy() - tips[test])))
    share = tips[train].sum() / inputs["total_bill"][train].sum()
    same_share = float(np.mean(np.abs(inputs["total_bill"][test] * share - tips[test])))
    if error >= same_share:
        raise ValueError(
            f"the mean error is {error:.2f} dollars, expected less than {same_share:.2f} (constant {share:.1%})"
        )
    return Servable(
        module=model,
        signatures={
            "serving_default": Signature(
                tip,
                {
                    "total_bill": TensorSpec("float32", (None,)),
                    "party_size": TensorSpec("int64", (None,)),
                    "day": TensorSpec("string", (None,)),
                    "smoker": TensorSpec("bool", (None,)),
                    "time": TensorSpec("string", (None,)),
                },
                ("tip", "share", "generous"),
                defaults={"time": np.array([b""], np.object_)},
            )
        },
        examples={"serving_default": tested},
        metrics={
            "test_error_dollars": Metric(error, higher_is_better=False),
            "same_share_error_dollars": Metric(same_share, higher_is_better=False),
        },
        evaluation=Evaluation(tested, tips[test], metric="mae", output="tip"),
        training_data={"tips.csv.gz of plotly": digest_of(_file())},
    )


def _model() -> keras.Model:
    layers = keras.layers
    inputs = {
        "total_bill": keras.Input((), name="total_bill", dtype="float32"),
        "party_size": keras.Input((), name="party_size", dtype="int64"),
        "day": keras.Input((), name="day", dtype="string"),
        "smoker": keras.Input((), name="smoker", dtype="bool"),
        "time": keras.Input((), name="time", dtype="string"),
    }
    bill = layers.Reshape((1,))(inputs["total_bill"])
    features = layers.Concatenate()(
        [
            layers.Rescaling(0.05)(bill),
            layers.CategoryEncoding(LARGEST_PARTY + 1)(
                layers.Lambda(lambda size: tf.clip_by_value(size, 0, LARGEST_PARTY)[:, None], output_shape=(1,))(
                    inputs["party_size"]
                )
            ),
            _one_of(inputs["day"], DAYS),
            _one_of(inputs["time"], TIMES),
            layers.Lambda(lambda smoker: tf.cast(smoker, tf.float32)[:, None], output_shape=(1,))(inputs["smoker"]),
        ]
    )
    hidden = layers.Dense(16, activation="relu")(features)
    share = layers.Dense(1, activation="sigmoid", bias_initializer=keras.initializers.Constant(-1.7))(hidden)
    tip = layers.Flatten()(layers.Multiply()([share, bill]))
    tip = layers.Lambda(lambda column: column[:, 0], output_shape=(), name="tip")(tip)
    return keras.Model(inputs, {"tip": tip})


def _one_of(text: keras.KerasTensor, words: tuple[str, ...]) -> keras.KerasTensor:
    """Return a one-hot column for each of `words`, with the first column for any other text."""
    return keras.layers.StringLookup(vocabulary=list(words), output_mode="one_hot")(keras.layers.Reshape((1,))(text))


def _file() -> Traversable:
    return files("plotly") / "package_data/datasets/tips.csv.gz"


def _read() -> tuple[dict[str, Array], Array]:
    """Return the inputs of all bills by name, and the tips."""
    rows = list(csv.DictReader(io.StringIO(gzip.decompress(_file().read_bytes()).decode())))
    return {
        "total_bill": np.array([row["total_bill"] for row in rows], np.float32),
        "party_size": np.array([row["size"] for row in rows], np.int64),
        "day": np.array([row["day"] for row in rows], np.object_),
        "smoker": np.array([row["smoker"] == "Yes" for row in rows]),
        "time": np.array([row["time"] for row in rows], np.object_),
    }, np.array([row["tip"] for row in rows], np.float32)
