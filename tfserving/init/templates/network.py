"""The network: from the four measures of a flower to a score for each species."""

from __future__ import annotations

import keras

from iris_data import MEASURES, SPECIES, Flowers

EPOCHS = 25


def network() -> keras.Model:
    """Return the network before training: float32 (?, 4) in, float32 (?, 3) out."""
    return keras.Sequential(
        [
            keras.Input((len(MEASURES),)),
            keras.layers.Dense(16, activation="relu"),
            keras.layers.Dense(len(SPECIES), activation="softmax"),
        ]
    )


def trained_network(flowers: Flowers) -> keras.Model:
    """Return the network, trained with `flowers`. It takes some seconds."""
    keras.utils.set_random_seed(1936)
    model = network()
    model.compile(
        keras.optimizers.Adam(0.03),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    model.fit(flowers.measures, flowers.labels, batch_size=20, epochs=EPOCHS, verbose=0)
    return model
