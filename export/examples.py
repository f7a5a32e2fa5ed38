"""tf.Examples for classify and regress signatures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from tfserving.foundation.examples import read_examples
from tfserving.foundation.tensors import Array


def serialized_examples(rows: Iterable[Mapping[str, object]]) -> Array:
    """Return `rows`, dicts of features, as serialized tf.Examples: a string array of shape (rows,).

    It is the input `inputs` of a classify or regress signature. A feature is a number, str or bytes, or a list or array
    of one kind of them. Raises ValueError with the row and the feature for a value that a tf.Example can't contain.
    """
    examples = [example.SerializeToString(deterministic=True) for example in read_examples(rows).examples]
    array = np.empty(len(examples), np.object_)
    array[:] = examples
    return array
