"""Requests in which something has no values: a build sends them, and publishes nothing that ends of one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.export import zoo
from tfserving.export.empty_requests import emptied
from tfserving.export.errors import LintError
from tfserving.export.exporter import Exported
from tfserving.export.manifest import ServedSignature
from tfserving.export.servable import Servable, Signature, TensorSpec

Export = Callable[..., Exported]
PICTURES = np.random.default_rng(5).integers(0, 255, (12, 4, 5, 3)).astype(np.uint8)
RATIOS = np.full(12, 0.5, np.float32)


def encoding(checked: bool) -> Servable:
    """Encodes pictures of any height, which must not be 0."""

    def encode(picture: Any, ratio: Any) -> dict[str, Any]:
        if checked:
            with tf.control_dependencies([tf.debugging.assert_positive(tf.shape(picture)[1], "picture has no rows")]):
                picture = tf.identity(picture)
        files = tf.map_fn(tf.io.encode_png, picture, fn_output_signature=tf.string)
        return {"size": tf.cast(tf.strings.length(files) > 0, tf.float32) * ratio}

    inputs = {"picture": TensorSpec("uint8", (None, None, 5, 3)), "ratio": TensorSpec("float32", (None,))}
    return Servable(
        zoo.Scale(),
        {"serving_default": Signature(encode, inputs, ("size",))},
        {"serving_default": {"picture": PICTURES, "ratio": RATIOS}},
    )


def encoding_anything() -> Servable:
    return encoding(checked=False)


def encoding_pictures() -> Servable:
    return encoding(checked=True)


def test_a_dimension_without_values_that_ends_the_process_is_told(export_here: Export) -> None:
    with pytest.raises(LintError) as refused:
        export_here(encoding_anything)
    assert str(refused.value).startswith(
        "[empty-request] signature 'serving_default': a request with 'picture' (1, 0, 5, 3), 'ratio' (1,) crashes "
        "the process that runs it. Check the sizes in the signature (docs/lint.md#empty-request).\n"
        "  a process without the model's code was killed by SIGABRT"
    )


def test_a_signature_that_checks_its_sizes_is_exported(export_here: Export) -> None:
    assert export_here(encoding_pictures).proof.identical


@pytest.mark.parametrize(
    ("inputs", "sent"),
    [
        ({"x": (None, 3)}, [{"x": (0, 3)}]),
        ({"x": None}, [{"x": (0,)}]),
        ({"x": (4, 3)}, []),
        ({"x": (2, None)}, [{"x": (2, 0)}]),
        (
            {"x": (None, None), "y": (None,)},
            [{"x": (0, 2), "y": (0,)}, {"x": (0, 2), "y": (2,)}, {"x": (2, 0), "y": (2,)}, {"x": (2, 2), "y": (0,)}],
        ),
    ],
    ids=["rows", "any shape", "fixed", "fixed rows", "two inputs"],
)
def test_every_free_dimension_is_empty_by_itself_and_all_rows_are_at_once(
    inputs: dict[str, tuple[int | None, ...] | None], sent: list[dict[str, tuple[int, ...]]]
) -> None:
    signature = ServedSignature(
        method="predict", inputs={name: TensorSpec("float32", shape) for name, shape in inputs.items()}, outputs={}
    )
    given = {name: np.ones([size or 2 for size in shape or (None,)]) for name, shape in inputs.items()}
    assert [{name: array.shape for name, array in arrays.items()} for arrays in emptied(given, signature)] == sent
