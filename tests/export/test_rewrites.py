"""What export proves is what a server returns, whatever Grappler makes of the graph, which is what servers run.

One model has a signature for each kind of rewrite. Each computes something else of NaN, infinity or large numbers than
the graph as it was written, on some processors at least.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.export.conftest import export_to
from tests.export.zoo import servable
from tests.exporting import fresh_process
from tfserving.export import check
from tfserving.export.check import check_files, check_golden
from tfserving.export.errors import ProofError
from tfserving.export.exporter import Exported
from tfserving.export.servable import Servable, Signature, TensorSpec
from tfserving.foundation.compare import compare
from tfserving.foundation.golden import read_golden
from tfserving.serving.embedded.core import loader

RANDOM = np.random.default_rng(1)
WEIGHTS, BIAS = RANDOM.normal(size=(4, 4)).astype(np.float32), RANDOM.normal(size=4).astype(np.float32)
KERNEL = RANDOM.normal(size=(3, 3, 1, 4)).astype(np.float32)
ROWS = RANDOM.normal(size=(40, 4)).astype(np.float32)


def _maps(rows: Any) -> Any:
    return tf.nn.conv2d(tf.reshape(rows, (-1, 2, 2, 1)), KERNEL, 1, "SAME")


def _dense(rows: Any) -> Any:
    return tf.nn.relu(tf.nn.bias_add(rows @ WEIGHTS, BIAS))


def _normal(maps: Any) -> Any:
    return tf.compat.v1.nn.fused_batch_norm(maps, BIAS, BIAS, BIAS, BIAS * BIAS, is_training=False)[0]


# By signature what it computes, an operation of the rewritten graph (of its name, what all processors' have), and one
# that is no more there.
REWRITES: dict[str, tuple[Callable[[Any], Any], str, str]] = {
    "fused_dense": (_dense, "FusedMatMul", "Relu"),
    "fused_convolution": (lambda rows: tf.nn.relu(tf.nn.bias_add(_maps(rows), BIAS)), "FusedConv2D", "BiasAdd"),
    "fused_normalization": (lambda rows: tf.nn.relu(_normal(_maps(rows))), "Fused", "Relu"),
    "folded_constants": (
        lambda rows: tf.nn.conv2d(rows[:, None, :, None] * 3.0, KERNEL, 1, "SAME") * 2.0,
        "Conv2D",
        "",
    ),
    "fewer_operations": (lambda rows: rows - rows + 1.0 + 0 * rows, "AddN", "AddV2"),
    "inlined_loop": (
        lambda rows: tf.while_loop(lambda step, _: step < 3, lambda step, rows: (step + 1, _dense(rows)), (0, rows))[1],
        "FusedMatMul",
        "While",
    ),
}


def build() -> Servable:
    def signature(function: Callable[[Any], Any]) -> Signature:
        return Signature(
            lambda rows: {"scaled": function(rows)}, {"rows": TensorSpec("float32", (None, 4))}, ("scaled",)
        )

    module = tf.Module()
    return Servable(
        module,
        {name: signature(function) for name, (function, *_) in REWRITES.items()},
        {name: {"rows": ROWS} for name in REWRITES},
    )


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export_to(tmp_path_factory.mktemp("rewrites") / "model", build)


@pytest.fixture(scope="module")
def served(exported: Exported) -> Iterator[loader.Servable]:
    """The version, loaded as the embedded server loads it."""
    loaded = loader.load("model", exported.version, exported.path, loader.Runtime())
    yield loaded
    loaded.close()


@pytest.mark.parametrize("name", REWRITES)
def test_a_server_returns_what_was_proved(name: str, exported: Exported, served: loader.Servable) -> None:
    requests = [request for request in read_golden(exported.path).requests if request.signature == name]
    assert len(requests) == 5
    tolerance = check_files(exported.path).tolerances["float32"]
    for request in requests:
        (returned,) = served.run(served.signatures[name], [request.inputs["rows"]], ("scaled",))
        assert compare(returned, request.outputs["scaled"], tolerance).verdict != "different"


@pytest.mark.parametrize("name", REWRITES)
def test_the_server_ran_a_rewritten_graph(name: str, served: loader.Servable) -> None:
    _, made, gone = REWRITES[name]
    signature, metadata = served.signatures[name], tf.compat.v1.RunMetadata()
    session = served._session
    session.run(
        signature.outputs["scaled"].tensor,
        {signature.inputs["rows"].tensor: ROWS},
        options=tf.compat.v1.RunOptions(output_partition_graphs=True),
        run_metadata=metadata,
    )
    ran = {node.op for graph in metadata.partition_graphs for node in graph.node}
    assert any(made in op for op in ran)
    assert gone not in ran


def test_a_check_later_runs_it_as_a_server_does(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "FreshProcess", fresh_process)
    assert check_golden(exported.path, check_files(exported.path)).requests == 5 * len(REWRITES)


def test_an_ordinary_row_of_which_grappler_makes_something_else_is_no_proof(
    export_here: Callable[..., Exported],
) -> None:
    # Grappler divides and multiplies by one constant, which is too large.
    with pytest.raises(ProofError) as refused:
        export_here(lambda: servable(tf.Module(), lambda rows: {"scaled": rows * 1e38 / 1e38 * 1e2}))
    assert "in a session" in str(refused.value)
