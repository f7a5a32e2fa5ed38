"""What letter comes next in the name of an emoji: a small LSTM whose state, and whose chance, are inputs and outputs.

A server keeps nothing between requests, and must give the same answer twice. So a client sends the state that it got
with the last answer (`serving_default`), and a seed where random numbers are drawn (`name`, which writes a whole name).
The names are those of vaderSentiment's emoji, some 1,600 of them.
"""

from __future__ import annotations

import sys

import keras
import numpy as np
import tensorflow as tf

from tfserving.export.models.sentiment import emoji_names
from tfserving.export.servable import Metric, Servable, Signature, TensorSpec
from tfserving.export.training import recipe_key, trained_weights
from tfserving.foundation.tensors import Array

SEED = 23
EPOCHS = 4
BATCH = 32
UNITS = 32
# Learned from so much of each name; a name that is written is at most as long as LONGEST.
LENGTH = 12
LONGEST = 32
# Nats for each letter. Without knowing the letters before, it would be 2.9.
WANTED_LOSS = 2.7
EXAMPLES = 6


class Letters(tf.Module):  # type: ignore[misc]
    """Goes from one letter to the next; letter 0 is the end of a name, and what comes before it."""

    def __init__(self, letters: list[str]) -> None:
        """`letters` has all that occur, in any order."""
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
        """After letter `number`, int32 (batch,), in `state`, float32 (batch, 2, UNITS): the scores and the new state.

        The layer keeps its state for a whole name; its cell takes one step, and leaves the state to the caller.
        """
        hidden, (output, memory) = self.lstm.cell(self.embedding(number), [state[:, 0], state[:, 1]])
        return self.scores(hidden), tf.stack([output, memory], axis=1)

    @tf.function  # type: ignore[untyped-decorator]
    def next(self, letter: tf.Tensor, state: tf.Tensor) -> dict[str, tf.Tensor]:
        """What may come after each `letter`, string (batch,), "" where a name begins."""
        scores, state = self.after(self.numbers.lookup(letter), state)
        likeliest = tf.gather(tf.constant(self.letters), tf.argmax(scores, axis=1))
        return {"probabilities": tf.nn.softmax(scores), "likeliest": likeliest, "state": state}

    @tf.function  # type: ignore[untyped-decorator]
    def write(self, start: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        """A name that begins with `start`, string (); another one for another `seed`, int32 (2,)."""
        given = self.numbers.lookup(tf.strings.unicode_split(start, "UTF-8"))[:LONGEST]
        count, letters = tf.size(given), tf.constant(self.letters)
        given = tf.concat([given, tf.zeros(LONGEST, tf.int32)], axis=0)

        def add(length: tf.Tensor, number: tf.Tensor, state: tf.Tensor, name: tf.Tensor) -> tuple[tf.Tensor, ...]:
            scores, state = self.after(number[tf.newaxis], state)
            drawn = tf.random.stateless_categorical(scores, 1, seed + tf.stack([0, length]), tf.int32)
            number = tf.where(length < count, given[length], drawn[0, 0])
            return length + 1, number, state, name + letters[number]

        def goes_on(length: tf.Tensor, number: tf.Tensor, *_: tf.Tensor) -> tf.Tensor:
            return (length < LONGEST) & ((length <= count) | (number > 0))

        first = tf.constant(0), tf.constant(0), tf.zeros((1, 2, UNITS)), tf.constant("")
        return {"name": tf.while_loop(goes_on, add, first)[-1]}


def build() -> Servable:
    """Trains the model, or takes it from the cache, and declares its signatures.

    `serving_default` takes `letter` string (None,) and `state` float32 (None, 2, 32), zeros to begin with, and returns
    `probabilities` float32 (None, letters), `likeliest` string (None,), and the `state` for the next request. `name`
    takes one example a request: `start` string () and `seed` int32 (2,), and returns `name` string (). Raises
    ValueError when it needs more than 2.7 nats for a letter of the names that it didn't learn from.
    """
    names = np.random.default_rng(SEED).permutation(emoji_names())
    letters = sorted(set("".join(names)))
    numbers = np.zeros((len(names), LENGTH + 1), np.int32)
    for row, name in zip(numbers, names, strict=True):
        row[1 : len(name) + 1] = [1 + letters.index(letter) for letter in name[:LENGTH]]
    # The letter that ends a name is learned, those after it are not.
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
    if nats > WANTED_LOSS:
        raise ValueError(f"it needs {nats:.2f} nats for a letter, {WANTED_LOSS} are wanted")
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
            "serving_default": _on_the_way(module, names[:EXAMPLES]),
            "name": {
                "start": [name[:3] for name in names[:EXAMPLES]],
                "seed": np.arange(2 * EXAMPLES, dtype=np.int32).reshape(EXAMPLES, 2),
            },
        },
        metrics={"test_loss": Metric(nats, higher_is_better=False)},
    )


def _on_the_way(module: Letters, names: Array) -> dict[str, Array]:
    """The first letters of `names`, with the state after those before them."""
    letters, states = [], [np.zeros((len(names), 2, UNITS), np.float32)]
    for step in range(5):
        letters.append(np.array(["" if step == 0 else name[step - 1 : step] for name in names], np.object_))
        states.append(module.next(tf.constant(letters[-1]), tf.constant(states[-1]))["state"].numpy())
    return {"letter": np.concatenate(letters), "state": np.concatenate(states[:-1])}
