"""What doesn't fit into saved_model.pb is refused before anything is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.export.zoo import Scale, servable
from tfserving.export import sizes
from tfserving.export.errors import ServableError
from tfserving.export.exporter import Exported

TABLE = np.random.default_rng(1).normal(size=(1000, 3)).astype(np.float32)


@pytest.mark.parametrize("make", [lambda: TABLE, lambda: tf.constant(TABLE)], ids=["in the graph", "captured"])
def test_constants_beyond_what_a_file_holds_are_refused(
    make: Callable[[], Any], export_here: Callable[..., Exported], monkeypatch: pytest.MonkeyPatch
) -> None:
    def builder() -> Any:
        module, table = Scale(), make()
        return servable(module, lambda rows: {"scaled": rows * module.factor + tf.constant(table)[0]})

    monkeypatch.setattr(sizes, "LARGEST", TABLE.nbytes + 1000)
    export_here(builder)
    monkeypatch.setattr(sizes, "LARGEST", TABLE.nbytes - 1)
    with pytest.raises(ServableError) as error:
        export_here(builder)
    assert "saved_model.pb can have at most 0.00 GB. Keep such arrays in a tf.Variable" in str(error.value)


def test_weights_that_are_too_large_for_constants_stay_variables(
    export_here: Callable[..., Exported], monkeypatch: pytest.MonkeyPatch
) -> None:
    def builder() -> Any:
        module = Scale()
        module.table = tf.Variable(TABLE)
        return servable(module, lambda rows: {"scaled": rows * module.factor + module.table[0]})

    monkeypatch.setattr(sizes, "LARGEST", TABLE.nbytes)
    freeze, half = export_here(builder, options=("freeze", "half")).effects
    for effect in (freeze, half):
        assert not effect.kept
        assert effect.reason.startswith("as constants, the weights of 1 signature have 0.00 GB, but saved_model.pb can")
