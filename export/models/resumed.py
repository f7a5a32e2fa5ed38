"""A network for digits, trained in steps that can be killed at any moment and resume from the last checkpoint.

    python -m tfserving.export.models.resumed FOLDER --steps 60

This trains to step 60 and keeps the three latest checkpoints in FOLDER. Run it again after a kill, or with more steps:
it resumes from the latest checkpoint, and the weights are the same as without the interruption.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import click
import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

from tfserving.export.servable import Metric, Servable, Signature, TensorSpec
from tfserving.export.training_data import digest_of

SEED = 23
BATCH = 64
EVERY = 5
STEPS = 60
# The other images are for the golden requests and the test.
TRAINING = 1400
LOWEST_ACCURACY = 0.85
FOLDER = Path(".cache/training/resumed")


class Training:
    """A model, its optimizer and its step, and the checkpoints of all three in one folder."""

    def __init__(self, folder: Path) -> None:
        """Resume from the latest checkpoint in `folder`, or begin."""
        keras.utils.set_random_seed(SEED)
        self.model = keras.Sequential(
            [
                keras.Input((8, 8, 1)),
                keras.layers.Rescaling(1 / 16),
                keras.layers.Conv2D(16, 3, activation="relu"),
                keras.layers.Flatten(),
                keras.layers.Dense(10),
            ]
        )
        self.optimizer = keras.optimizers.Adam(3e-3)
        # It must be built before the restore: variables that don't exist yet would keep their initial values.
        self.optimizer.build(self.model.trainable_variables)
        self.step = tf.Variable(0, dtype=tf.int64)
        checkpoint = tf.train.Checkpoint(model=self.model, optimizer=self.optimizer, step=self.step)
        self.manager = tf.train.CheckpointManager(checkpoint, str(folder), max_to_keep=3, step_counter=self.step)
        if self.manager.latest_checkpoint:
            checkpoint.restore(self.manager.latest_checkpoint).assert_consumed()

    def train(self, steps: int) -> None:
        """Train to step `steps`, with a checkpoint every five steps and at the end."""
        images, labels = _data()
        while (step := int(self.step)) < steps:
            # The rows of a step depend only on its number, so a repeated step is the same.
            rows = np.random.default_rng((SEED, step)).choice(TRAINING, BATCH, replace=False)
            self._learn(tf.cast(images[rows], tf.float32), tf.constant(labels[rows]))
            self.step.assign_add(1)
            if (step + 1) % EVERY == 0 or step + 1 == steps:
                # The manager saves. `checkpoint.save(manager.save())` would save twice, once without ever deleting it.
                self.manager.save(checkpoint_number=step + 1)
                print(f"step {step + 1}", flush=True)

    def _learn(self, images: tf.Tensor, labels: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(
                tf.nn.sparse_softmax_cross_entropy_with_logits(labels, self.model(images, training=True))
            )
        self.optimizer.apply_gradients(
            zip(tape.gradient(loss, self.model.trainable_variables), self.model.trainable_variables, strict=True)
        )


def build() -> Servable:
    """Train to step 60 in .cache/training/resumed, or resume there, and declare the signature.

    Raises ValueError when the test accuracy is below 85 %.
    """
    training = Training(FOLDER)
    training.train(STEPS)
    images, labels = _data()
    scores = training.model(images[TRAINING:].astype(np.float32), training=False).numpy()
    accuracy = float(np.mean(scores.argmax(axis=1) == labels[TRAINING:]))
    if accuracy < LOWEST_ACCURACY:
        raise ValueError(f"the test accuracy is {accuracy:.1%}, expected at least {LOWEST_ACCURACY:.0%}")
    return _servable(training.model, {"test_accuracy": Metric(accuracy, rows=len(scores))})


def untrained() -> Servable:
    """Return the model before any training, to be exported from a checkpoint.

    Input: `image` uint8 (None, 8, 8, 1), values from 0 to 16, which the graph converts. Output: `logits` float32
    (None, 10).
    """
    return _servable(Training(Path("nowhere")).model, {})


def _servable(model: keras.Model, metrics: dict[str, float | Metric]) -> Servable:
    return Servable(
        module=model,
        signatures={
            "serving_default": Signature(
                lambda image: {"logits": model(tf.cast(image, tf.float32), training=False)},
                {"image": TensorSpec("uint8", (None, 8, 8, 1))},
                ("logits",),
            )
        },
        examples={"serving_default": {"image": _data()[0][TRAINING : TRAINING + 64]}},
        metrics=metrics,
        training_data={"digits.csv.gz of scikit-learn": digest_of(files("sklearn.datasets") / "data/digits.csv.gz")},
        # The name of the model in the checkpoints. The optimizer and the step are not served.
        checkpoint={"model": model},
    )


def _data() -> tuple[np.ndarray, np.ndarray]:
    digits = load_digits()
    return digits.images[..., np.newaxis].astype(np.uint8), digits.target.astype(np.int64)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--steps", type=click.IntRange(min=1), default=STEPS, show_default=True, help="The step to train to.")
def main(folder: Path, steps: int) -> None:
    """Train in FOLDER, from its latest checkpoint on."""
    Training(folder).train(steps)


if __name__ == "__main__":
    main()
