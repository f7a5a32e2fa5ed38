"""Scores the sentiment of a text: a tf.Module with its vocabulary as an asset, and all steps in the graph.

vaderSentiment's lexicon (Hutto and Gilbert, ICWSM 2014) has about 7,500 words, emoticons and abbreviations, each rated
by ten people from -4 to 4, and the English names of about 3,500 emoji. Known words have their rating. The rating of
other words is predicted from their letters.
"""

from __future__ import annotations

import csv
import os
import tempfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import tensorflow as tf

from tfserving.export.servable import Metric, Servable, Signature, TensorSpec
from tfserving.export.training_data import digest_of
from tfserving.foundation.tensors import Array

SEED = 17
BUCKETS = 4096
PENALTY = 3.0
WORST, BEST = -4.0, 4.0
NEUTRAL = 0.05
LOWEST_ACCURACY = 0.7
LETTERS = (3, 4, 5)


class Sentiment(tf.Module):  # type: ignore[misc]
    """Looks words up in the vocabulary, predicts the ratings of unknown words, and takes the mean."""

    def __init__(self, vocabulary: Path, ratings: Array, weights: Array) -> None:
        """Use a `vocabulary` with one word in each line, `ratings` float32 (words,), `weights` float32 (4096,)."""
        super().__init__()
        self.vocabulary = tf.saved_model.Asset(str(vocabulary))
        self.ratings = tf.Variable(ratings, trainable=False)
        self.weights = tf.Variable(weights)
        initializer = tf.lookup.TextFileInitializer(
            self.vocabulary,
            tf.string,
            tf.lookup.TextFileIndex.WHOLE_LINE,
            tf.int64,
            tf.lookup.TextFileIndex.LINE_NUMBER,
        )
        self.table = tf.lookup.StaticHashTable(initializer, -1)

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, name="text")])  # type: ignore[untyped-decorator]
    def score(self, text: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return `score` float32 (batch,), -1 to 1, and `label` string (batch,), of `text` string (batch,)."""
        words = _words(text)
        numbers = self.table.lookup(words.flat_values)
        known = tf.gather(self.ratings, tf.maximum(numbers, 0))
        ratings = tf.where(numbers >= 0, known, guess(words.flat_values, self.weights))
        total = tf.reduce_sum(words.with_flat_values(ratings), axis=1)
        score = tf.math.divide_no_nan(total, BEST * tf.cast(words.row_lengths(), tf.float32))
        label = tf.where(score > NEUTRAL, "positive", tf.where(score < -NEUTRAL, "negative", "neutral"))
        return {"score": score, "label": label}

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, name="text")])  # type: ignore[untyped-decorator]
    def count(self, text: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return the numbers of `words` and of `known` words, int64 (batch,), of `text` string (batch,)."""
        words = _words(text)
        known = tf.cast(self.table.lookup(words.flat_values) >= 0, tf.int64)
        return {"words": words.row_lengths(), "known": tf.reduce_sum(words.with_flat_values(known), axis=1)}


def guess(words: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """Return the ratings, float32 (words,), that the letters of `words` predict."""
    rows, buckets, values = _letters(words)
    return tf.math.unsorted_segment_sum(tf.gather(weights, buckets) * values, rows, tf.shape(words)[0])


def build() -> Servable:
    """Train the prediction from letters, and declare the signatures.

    `serving_default` takes `text` string (None,) and returns `score` float32 (None,), -1 to 1, and `label` string
    (None,). `words` takes `text` and returns `words` and `known`, int64 (None,). Raises ValueError when less than 70 %
    of the predictions for the test words have the right sign.
    """
    folder = _package()
    words, ratings = _lexicon(folder / "vader_lexicon.txt")
    shuffled = np.random.default_rng(SEED).permutation(len(words))
    test, train = shuffled[: len(words) // 5], shuffled[len(words) // 5 :]
    weights = _fit(words[train], ratings[train])
    guesses = guess(tf.constant(words[test]), tf.constant(weights)).numpy()
    accuracy = float(np.mean((guesses > 0) == (ratings[test] > 0)))
    if accuracy < LOWEST_ACCURACY:
        raise ValueError(f"the test accuracy is {accuracy:.1%}, expected at least {LOWEST_ACCURACY:.0%}")
    temporary = tempfile.TemporaryDirectory()
    vocabulary = Path(temporary.name) / "vocabulary.txt"
    vocabulary.write_bytes(b"\n".join(words) + b"\n")
    module = Sentiment(vocabulary, ratings, weights)
    # The vocabulary is copied from this folder when the module is saved.
    module.made_in = temporary
    texts = {"text": _texts(emoji_file(), words)}
    text = {"text": TensorSpec("string", (None,))}
    return Servable(
        module=module,
        signatures={
            "serving_default": Signature(module.score, text, ("score", "label")),
            "words": Signature(module.count, text, ("words", "known")),
        },
        examples={"serving_default": texts, "words": texts},
        metrics={"test_accuracy": Metric(accuracy, rows=len(test))},
        training_data={"vader_lexicon.txt of vaderSentiment": digest_of(folder / "vader_lexicon.txt")},
    )


def emoji_file() -> Path:
    """Return the file with emoji and their names."""
    return _package() / "emoji_utf8_lexicon.txt"


def emoji_names() -> list[str]:
    """Return the English names of emoji in lower case, each once and without skin tones."""
    lines = emoji_file().read_text(encoding="utf-8").splitlines()
    return sorted({line.partition("\t")[2].lower().partition(":")[0] for line in lines})


def _words(text: tf.Tensor) -> tf.RaggedTensor:
    """Return the words of each text in lower case. Emoticons and emoji are words; punctuation is removed."""
    lower = tf.strings.lower(text, encoding="utf-8")
    trimmed = tf.strings.regex_replace(lower, r"([\pL\pN])[.,;:!?]+(\s|$)", r"\1 ")
    return tf.strings.split(trimmed)


def _letters(words: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Return groups of three to five letters of each word, with `^` and `$` added: word numbers, buckets, weights."""
    letters = tf.strings.unicode_split(tf.strings.join(["^", words, "$"]), "UTF-8")
    groups = tf.concat([tf.strings.ngrams(letters, width, separator="") for width in LETTERS], axis=1)
    rows = groups.value_rowids()
    values = tf.gather(1.0 / tf.sqrt(tf.cast(tf.maximum(groups.row_lengths(), 1), tf.float32)), rows)
    return rows, tf.strings.to_hash_bucket_fast(groups.flat_values, BUCKETS), values


def _fit(words: Array, ratings: Array) -> Array:
    """Return the weights of groups of letters that predict the ratings best: ridge regression, in closed form."""
    rows, buckets, values = (tensor.numpy() for tensor in _letters(tf.constant(words)))
    matrix = np.zeros((len(words), BUCKETS), np.float32)
    np.add.at(matrix, (rows, buckets), values)
    weights = np.linalg.solve(matrix.T @ matrix + PENALTY * np.eye(BUCKETS, dtype=np.float32), matrix.T @ ratings)
    return weights.astype(np.float32)


def _package() -> Path:
    """Return the folder of vaderSentiment's files. Importing it would take longer than reading them."""
    spec = find_spec("vaderSentiment")
    assert spec is not None
    assert spec.origin is not None
    return Path(os.path.dirname(spec.origin))  # noqa: PTH120


def _lexicon(path: Path) -> tuple[Array, Array]:
    """Return the words in lower case as bytes, each once, and their mean ratings."""
    rated: dict[bytes, float] = {}
    for word, rating, *_ in csv.reader(
        path.read_text(encoding="utf-8").splitlines(), "excel-tab", quoting=csv.QUOTE_NONE
    ):
        if len(word.split()) == 1:
            rated.setdefault(word.lower().encode(), float(rating))
    return np.array(list(rated), np.object_), np.clip(np.array(list(rated.values()), np.float32), WORST, BEST)


def _texts(path: Path, words: Array) -> Array:
    """Return names of emoji, some with the emoji, and some words of the lexicon."""
    lines = [line.partition("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    names = [
        f"{name.capitalize()} {emoji if number % 2 else ''}".strip() for number, (emoji, _, name) in enumerate(lines)
    ]
    texts = [*(name.encode() for name in names[:48]), *words[:: len(words) // 16][:16]]
    return np.array(texts, np.object_)
