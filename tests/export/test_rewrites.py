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
from tests.export.zoo import Scale, servable
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
ROWS = RANDOM.normal(size=(40, 4)).astype(np.float32)


class Layers(tf.Module):  # type: ignore[misc]
    """A layer for each kind of rewrite; weights are variables, as models have them."""

    def __init__(self) -> None:
        super().__init__()
        self.weights, self.bias, self.kernel = (
            tf.Variable(RANDOM.normal(size=shape).astype(np.float32)) for shape in ((4, 4), (4,), (3, 3, 1, 4))
        )

    def maps(self, rows: Any) -> Any:
        return tf.nn.conv2d(tf.reshape(rows, (-1, 2, 2, 1)), self.kernel, 1, "SAME")

    def fused_dense(self, rows: Any) -> Any:
        return tf.nn.relu(rows @ self.weights + self.bias)

    def fused_convolution(self, rows: Any) -> Any:
        return tf.nn.relu(tf.nn.bias_add(self.maps(rows), self.bias))

    def fused_normalization(self, rows: Any) -> Any:
        normal = tf.compat.v1.nn.fused_batch_norm(
            self.maps(rows), self.bias, self.bias, self.bias, self.bias * self.bias, is_training=False
        )
        return tf.nn.relu(normal[0])

    def folded_constants(self, rows: Any) -> Any:
        return rows * self.bias * 1e-30 * 1e-30 * 1e30

    def fewer_operations(self, rows: Any) -> Any:
        return (rows - rows + 1.0 + 0 * rows) * self.bias

    def inlined_loop(self, rows: Any) -> Any:
        return tf.while_loop(
            lambda step, _: step < 3, lambda step, rows: (step + 1, self.fused_dense(rows)), (0, rows)
        )[1]


# By signature an operation of the rewritten graph, or a part of its name, and how often it is there.
REWRITES = {
    "fused_dense": ("FusedMatMul", 1),
    "fused_convolution": ("FusedConv2D", 1),
    "fused_normalization": ("Fused", 1),
    "folded_constants": ("Mul", 2),
    "fewer_operations": ("AddN", 1),
    "inlined_loop": ("FusedMatMul", 1),
}


def build() -> Servable:
    module = Layers()

    def signature(name: str) -> Signature:
        rows = {"rows": TensorSpec("float32", (None, 4))}
        return Signature(lambda rows: {"scaled": getattr(module, name)(rows)}, rows, ("scaled",))

    return Servable(module, {name: signature(name) for name in REWRITES}, {name: {"rows": ROWS} for name in REWRITES})


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
    tolerance = check_files(exported.path).tolerances["cpu"]["float32"]
    for request in requests:
        (returned,) = served.run(served.signatures[name], [request.inputs["rows"]], ("scaled",))
        assert compare(returned, request.outputs["scaled"], tolerance).verdict != "different"


@pytest.mark.parametrize("name", REWRITES)
def test_the_server_ran_a_rewritten_graph(name: str, served: loader.Servable) -> None:
    made, times = REWRITES[name]
    signature, metadata = served.signatures[name], tf.compat.v1.RunMetadata()
    session = served._session
    session.run(
        signature.outputs["scaled"].tensor,
        {signature.inputs["rows"].tensor: ROWS},
        options=tf.compat.v1.RunOptions(output_partition_graphs=True),
        run_metadata=metadata,
    )
    ran = [node.op for graph in metadata.partition_graphs for node in graph.node]
    assert sum(made in op for op in ran) == times


def test_a_check_later_runs_it_as_a_server_does(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "FreshProcess", fresh_process)
    assert check_golden(exported.path, check_files(exported.path)).requests == 5 * len(REWRITES)


def test_an_ordinary_row_of_which_grappler_makes_something_else_is_no_proof(
    export_here: Callable[..., Exported],
) -> None:
    module = Scale()
    # Grappler multiplies the constants with each other, which is too large a number.
    with pytest.raises(ProofError) as refused:
        export_here(lambda: servable(module, lambda rows: {"scaled": rows * module.factor * 1e38 / 1e38 * 1e2}))
    assert "in a session" in str(refused.value)
