"""Predicts the next letter in the name of an emoji: a small LSTM with its state and random seed as inputs.

A server keeps no state between requests, and must return the same response to the same request. So a client sends the
state from the last response (`serving_default`), and a seed where random numbers are drawn (`name`, which writes a
whole name). The names are those of vaderSentiment's emoji, about 1,600.
"""

from __future__ import annotations

import sys

import keras
import numpy as np
import tensorflow as tf

from tfserving.export.models.sentiment import emoji_file, emoji_names
from tfserving.export.servable import Metric, Servable, Signature, TensorSpec
from tfserving.export.training import recipe_key, trained_weights
from tfserving.export.training_data import digest_of
from tfserving.foundation.tensors import Array

SEED = 23
EPOCHS = 4
BATCH = 32
UNITS = 32
# The number of letters of each name for training, and the longest name that `name` writes.
LENGTH = 12
LONGEST = 32
# In nats for each letter. Without the previous letters, the loss would be 2.9.
LARGEST_LOSS = 2.7
EXAMPLES = 6


class Letters(tf.Module):  # type: ignore[misc]
    """Predicts the next letter. Letter 0 marks the beginning and the end of a name."""

    def __init__(self, letters: list[str]) -> None:
        """Use these `letters`, in any order."""
        super().__init__()
        layers = keras.layers
        self.embedding = layers.Embedding(len(letters) + 1, 16)
        self.lstm = layers.LSTM(UNITS, return_sequences=True)
        self.scores = layers.Dense(len(letters) + 1)
        self.model = keras.Sequential([keras.Input((None,), dtype="int32"), self.embedding, self.lstm, self.scores])
        numbers = tf.range(1, len(letters) + 1)
        self.numbers = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(letters, numbers), 0)
        self.letters = ["", *letters]

    def after(self, number: tf.Tensor, state: tf.Tensor) -> tf.Tensor:
        """Return the scores and the new state after letter `number`, int32 (batch,).

        `state` is float32 (batch, 2, UNITS). The layer would keep its state for a whole name. Its cell runs one step
        and leaves the state to the caller.
        """
        hidden, (output, memory) = self.lstm.cell(self.embedding(number), [state[:, 0], state[:, 1]])
        return self.scores(hidden), tf.stack([output, memory], axis=1)

    @tf.function  # type: ignore[untyped-decorator]
    def next(self, letter: tf.Tensor, state: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return the probabilities of the next letter after each `letter`, string (batch,), "" at the beginning."""
        scores, state = self.after(self.numbers.lookup(letter), state)
        likeliest = tf.gather(tf.constant(self.letters), tf.argmax(scores, axis=1))
        return {"probabilities": tf.nn.softmax(scores), "likeliest": likeliest, "state": state}

    @tf.function  # type: ignore[untyped-decorator]
    def write(self, start: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return a name that begins with `start`, string (), chosen by `seed`, int32 (2,)."""
        given = self.numbers.lookup(tf.strings.unicode_split(start, "UTF-8"))[:LONGEST]
        count, letters = tf.size(given), tf.constant(self.letters)
        given = tf.concat([given, tf.zeros(LONGEST, tf.int32)], axis=0)

        def add(length: tf.Tensor, number: tf.Tensor, state: tf.Tensor, name: tf.Tensor) -> tuple[tf.Tensor, ...]:
            scores, state = self.after(number[tf.newaxis], state)
            drawn = tf.random.stateless_categorical(scores, 1, seed + tf.stack([0, length]), tf.int32)
            number = tf.where(length < count, given[length], drawn[0, 0])
            return length + 1, number, state, name + letters[number]

        def continues(length: tf.Tensor, number: tf.Tensor, *_: tf.Tensor) -> tf.Tensor:
            return (length < LONGEST) & ((length <= count) | (number > 0))

        first = tf.constant(0), tf.constant(0), tf.zeros((1, 2, UNITS)), tf.constant("")
        return {"name": tf.while_loop(continues, add, first)[-1]}


def build() -> Servable:
    """Train the model, or load its weights from the cache, and declare its signatures.

    `serving_default` takes `letter` string (None,) and `state` float32 (None, 2, 32), zeros at first. It returns
    `probabilities` float32 (None, letters), `likeliest` string (None,), and the `state` for the next request. `name`
    takes one example per request, `start` string () and `seed` int32 (2,), and returns `name` string (). Raises
    ValueError when the test loss exceeds 2.7 nats for each letter.
    """
    names = np.random.default_rng(SEED).permutation(emoji_names())
    letters = sorted(set("".join(names)))
    numbers = np.zeros((len(names), LENGTH + 1), np.int32)
    for row, name in zip(numbers, names, strict=True):
        row[1 : len(name) + 1] = [1 + letters.index(letter) for letter in name[:LENGTH]]
    # The letter that ends a name is trained, those after it are not.
    known = np.concatenate([np.ones((len(names), 1)), numbers[:, 1:-1] > 0], axis=1).astype(np.float32)
    train = slice(len(names) // 10, None)
    keras.utils.set_random_seed(SEED)
    module = Letters(letters)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def trained() -> list[Array]:
        module.model.compile(keras.optimizers.Adam(0.01), loss, weighted_metrics=[])
        rows, weights = numbers[train], known[train]
        module.model.fit(rows[:, :-1], rows[:, 1:], BATCH, EPOCHS, sample_weight=weights, verbose=0)
        return module.model.get_weights()  # type: ignore[no-any-return]

    key = recipe_key(sys.modules[__name__], ("keras", "numpy", "tensorflow", "vaderSentiment"))
    module.model.set_weights(trained_weights(key, trained))
    rows, weights = numbers[: train.start], known[: train.start]
    nats = float(loss(rows[:, 1:], module.model(rows[:, :-1]), weights) * weights.size / weights.sum())
    if nats > LARGEST_LOSS:
        raise ValueError(f"the test loss is {nats:.2f} nats for each letter, expected at most {LARGEST_LOSS}")
    return Servable(
        module=module,
        signatures={
            "serving_default": Signature(
                module.next,
                {"letter": TensorSpec("string", (None,)), "state": TensorSpec("float32", (None, 2, UNITS))},
                ("probabilities", "likeliest", "state"),
            ),
            "name": Signature(
                module.write,
                {"start": TensorSpec("string", ()), "seed": TensorSpec("int32", (2,))},
                ("name",),
                batched=False,
            ),
        },
        examples={
            "serving_default": _steps(module, names[:EXAMPLES]),
            "name": {
                "start": [name[:3] for name in names[:EXAMPLES]],
                "seed": np.arange(2 * EXAMPLES, dtype=np.int32).reshape(EXAMPLES, 2),
            },
        },
        metrics={"test_loss": Metric(nats, higher_is_better=False)},
        training_data={f"{emoji_file().name} of vaderSentiment": digest_of(emoji_file())},
    )


def _steps(module: Letters, names: Array) -> dict[str, Array]:
    """Return the first letters of `names` with the states before them."""
    letters, states = [], [np.zeros((len(names), 2, UNITS), np.float32)]
    for step in range(5):
        letters.append(np.array(["" if step == 0 else name[step - 1 : step] for name in names], np.object_))
        states.append(module.next(tf.constant(letters[-1]), tf.constant(states[-1]))["state"].numpy())
    return {"letter": np.concatenate(letters), "state": np.concatenate(states[:-1])}
