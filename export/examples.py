"""tf.Examples for the signatures that take them: classify and regress."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from tfserving.foundation.examples import read_examples
from tfserving.foundation.tensors import Array


def serialized_examples(rows: Iterable[Mapping[str, object]]) -> Array:
    """The `inputs` of a classify or regress signature for `rows`, dicts of features: serialized tf.Examples, (rows,).

    A feature is a number, str or bytes, or a list or array of one kind of them. Raises ValueError naming the row and
    the feature for a value that no tf.Example can hold.
    """
    examples = [example.SerializeToString(deterministic=True) for example in read_examples(rows).examples]
    array = np.empty(len(examples), np.object_)
    array[:] = examples
    return array
