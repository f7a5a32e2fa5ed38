#: function keras-file checkpoint
"""The builder: the model, its signature and its example requests."""

from __future__ import annotations

#: keras-file checkpoint
from pathlib import Path

import keras
#: function keras-file checkpoint
import numpy as np
import tensorflow as tf
#: keras-file
from tfserving.export.keras_file import load_keras
#: function keras-file checkpoint
from tfserving.export.servable import (
    Evaluation,
    Metric,
    Servable,
    Signature,
    TensorSpec,
)
from tfserving.export.training_data import digest_of

from iris_data import FILE, MEASURES, SPECIES, load
#: function
from network import trained_network
#: checkpoint
from network import network
#: keras-file checkpoint

FOLDER = Path(__file__).parent / "trained"
#: function keras-file checkpoint


def build() -> Servable:
    """Return what is exported: `tfserving export build` calls this function."""
#: function
    training, test = load()
    model = trained_network(training)
#: keras-file checkpoint
    _, test = load()
    model = trained_model()
#: function keras-file checkpoint

    def classify(
        sepal_length: tf.Tensor,
        sepal_width: tf.Tensor,
        petal_length: tf.Tensor,
        petal_width: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        measures = (sepal_length, sepal_width, petal_length, petal_width)
        scores = model(tf.stack(measures, axis=1), training=False)
        species = tf.gather(tf.constant(SPECIES), tf.argmax(scores, axis=1))
        return {"scores": scores, "species": species}

    signature = Signature(
        function=classify,
        inputs={name: TensorSpec("float32", (None,)) for name in MEASURES},
        outputs=("scores", "species"),
    )
    scores = classify(**test.inputs())["scores"].numpy()
    accuracy = float(np.mean(scores.argmax(axis=1) == test.labels))
    return Servable(
        module=model,
        signatures={"serving_default": signature},
        # Real requests. The exported version contains some of them, with the outputs.
        examples={"serving_default": test.inputs()},
        metrics={"accuracy": Metric(accuracy, rows=len(test.labels))},
        # A rollout measures with these rows whether a new version is worse.
        evaluation=Evaluation(test.inputs(), test.labels, output="scores"),
        # The manifest has the digest, so that it shows what the model was trained on.
        training_data={FILE.name: digest_of(FILE)},
    )
#: keras-file


def trained_model() -> keras.Model:
    """Return the model that train.py wrote."""
    file = FOLDER / "model.keras"
    if not file.exists():
        raise FileNotFoundError(f"{file} does not exist; run `python train.py`")
    return load_keras(file)
#: checkpoint


def trained_model() -> keras.Model:
    """Return the network with the weights of the last checkpoint."""
    checkpoint = tf.train.latest_checkpoint(FOLDER / "checkpoint")
    if checkpoint is None:
        raise FileNotFoundError(f"no checkpoint in {FOLDER}; run `python train.py`")
    model = network()
    tf.train.Checkpoint(model=model).restore(checkpoint).expect_partial()
    return model
