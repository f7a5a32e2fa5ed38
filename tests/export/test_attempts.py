"""An option with which the proof disagrees is dropped, and the version is exported without it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import tensorflow as tf

from tests.export.simulated import shallow
from tests.export.zoo import Scale, servable
from tfserving.export import options
from tfserving.export.errors import ProofError
from tfserving.export.exporter import Exported
from tfserving.export.manifest import read_manifest
from tfserving.export.servable import Servable

Export = Callable[..., Exported]
FREEZE = options.APPLY["freeze"]


def differs_elsewhere(function: Any) -> Any:
    """Freezes, and returns other outputs in any process but this one: only the proof finds it."""
    frozen = FREEZE(function)

    def run(inputs: Any) -> Any:
        # The fresh process has a folder of its own for temporary files.
        environment = tf.io.read_file("/proc/self/environ")
        there = tf.strings.regex_full_match(environment, r"(?s).*\bTMPDIR=[^\x00]*/tfserving-.*")
        return {name: tensor * tf.where(there, 1.5, 1.0) for name, tensor in frozen(inputs).items()}

    return tf.function(run).get_concrete_function(options._specs(function))


def crashes_without_rows(function: Any) -> Any:
    """Freezes, and ends the process for a request without rows: a picture of no height can't be encoded."""
    frozen = FREEZE(function)

    def run(inputs: Any) -> Any:
        picture = tf.io.encode_png(tf.zeros((tf.shape(inputs["rows"])[0], 1, 1), tf.uint8))
        ones = tf.cast(tf.strings.length(picture) > 0, tf.float32)
        return {name: tensor * ones for name, tensor in frozen(inputs).items()}

    return tf.function(run).get_concrete_function(options._specs(function))


@pytest.mark.parametrize("wanted", [("freeze",), ("freeze", "half")], ids="+".join)
def test_the_guilty_option_is_dropped_and_the_others_stay(
    wanted: tuple[str, ...], export_here: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(options.APPLY, "freeze", differs_elsewhere)
    exported = export_here(shallow, options=wanted, allow=("file-op",))
    freeze, *others = exported.effects
    assert not freeze.kept
    assert freeze.reason.startswith("signature 'serving_default', output 'scores': for a batch of 1, the version run ")
    assert "return different values: largest difference " in freeze.reason
    assert str(freeze).startswith(f"freeze was not kept: {freeze.reason} (size ")
    assert not [str(one) for one in others if not one.kept]
    manifest = read_manifest(exported.path)
    assert manifest.options == wanted[1:]
    # Those of float16 for its weights, and what the failed attempts saw widens none.
    assert 1e-5 <= manifest.tolerances["cpu"]["float32"].absolute <= (4e-3 if others else 1e-5)
    assert exported.proof.requests == 5


def test_an_option_that_crashes_the_process_is_dropped(export_here: Export, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(options.APPLY, "freeze", crashes_without_rows)
    module = Scale()
    exported = export_here(lambda: servable(module, lambda rows: {"scaled": rows * module.factor}), options=("freeze",))
    (freeze,) = exported.effects
    assert freeze.reason.startswith("[empty-request] signature 'serving_default': a request with 'rows' (0, 3) crashes")
    assert read_manifest(exported.path).options == ()


def test_a_model_that_fails_without_options_is_not_exported(export_here: Export) -> None:
    def elsewhere() -> Servable:
        module = Scale()

        def scaled(rows: Any) -> Any:
            return {"scaled": rows * module.factor * (1.0 if tf.executing_eagerly() else 1.5)}

        return servable(module, scaled)

    with pytest.raises(ProofError, match="the live model return different values"):
        export_here(elsewhere, options=("freeze",))
