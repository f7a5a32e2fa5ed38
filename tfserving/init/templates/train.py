#: keras-file
"""Train the network and write it to trained/model.keras: `python train.py`."""
#: checkpoint
"""Train the network and write a checkpoint to trained/checkpoint: `python train.py`."""
#: saved-model
"""Train the network and write a SavedModel to trained/: `python train.py`."""
#: keras-file checkpoint saved-model

from __future__ import annotations

#: saved-model
import json
#: keras-file checkpoint saved-model
from pathlib import Path

#: saved-model
import keras
#: keras-file checkpoint saved-model
import numpy as np
#: checkpoint saved-model
import tensorflow as tf
#: keras-file checkpoint

from iris_data import load
from network import trained_network

#: saved-model

from iris_data import MEASURES, SPECIES, load
from network import trained_network

#: keras-file checkpoint saved-model
FOLDER = Path(__file__).parent / "trained"


def main() -> None:
    """Train, print the accuracy, write the files."""
    training, test = load()
    print(f"Training with {len(training.labels)} flowers ...", flush=True)
    model = trained_network(training)
    scores = model.predict(test.measures, verbose=0)
    accuracy = float(np.mean(scores.argmax(axis=1) == test.labels))
    print(f"Accuracy on {len(test.labels)} other flowers: {accuracy:.2f}")
    FOLDER.mkdir(exist_ok=True)
#: keras-file
    model.save(FOLDER / "model.keras")
#: checkpoint
    checkpoint = tf.train.Checkpoint(model=model)
    manager = tf.train.CheckpointManager(checkpoint, FOLDER / "checkpoint", 3)
    manager.save()
#: saved-model

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

    specs = [tf.TensorSpec((None,), tf.float32, name) for name in MEASURES]
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("serving_default", classify, specs)
    archive.write_out(FOLDER / "saved_model", verbose=False)
    inputs = {name: values.tolist() for name, values in test.inputs().items()}
    rows = {"inputs": inputs, "labels": test.labels.tolist()}
    (FOLDER / "labelled.jsonl").write_text(json.dumps(rows) + "\n")
    batches = [
        {"inputs": {name: values[start:stop] for name, values in inputs.items()}}
        for start, stop in ((0, 1), (1, 8), (8, 40))
    ]
    (FOLDER / "golden.json").write_text(json.dumps(batches))
#: keras-file checkpoint saved-model
    print(f"Wrote {FOLDER}")


if __name__ == "__main__":
    main()
