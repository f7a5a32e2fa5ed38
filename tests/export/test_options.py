"""What can be done to a graph: kept when the answers stay, told with sizes and times."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.export import zoo
from tests.export.conftest import Project, export_to
from tfserving.export import savedmodel
from tfserving.export.exporter import Exported
from tfserving.export.golden import golden_requests
from tfserving.export.graph import read_graph
from tfserving.export.manifest import read_manifest
from tfserving.export.options import improve
from tfserving.export.servable import Servable, Signature, TensorSpec
from tfserving.foundation.compare import Tolerance
from tfserving.foundation.golden import read_golden

Export = Callable[..., Exported]


def wide() -> Servable:
    """A layer with weights enough to be worth halving."""
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(512, activation="relu"), keras.layers.Dense(2)])
    return zoo.servable(model, lambda rows: {"scaled": model(rows, training=False)})


def sums() -> Servable:
    """A function that is called for each row, and a table: nested functions and resources."""
    module = tf.Module()
    keys, values = tf.constant(["a", "b"]), tf.constant([1.0, 2.0])
    module.table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, values), 0.0)
    module.factor = tf.Variable(3.0)

    def one(row: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(row) * module.factor + (1.0 + 2.0)

    def run(rows: tf.Tensor, key: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"sums": tf.map_fn(one, rows) + module.table.lookup(key)}

    inputs = {"rows": TensorSpec("float32", (None, 3)), "key": TensorSpec("string", (None,))}
    signature = Signature(run, inputs, ("sums",), defaults={"key": np.array([b"a"], np.object_)})
    keys = np.array([b"a", b"b"] * 20, np.object_)
    return Servable(module, {"serving_default": signature}, {"serving_default": {"rows": zoo.ROWS, "key": keys}})


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """`wide` without any option, to be read."""
    return export_to(tmp_path_factory.mktemp("plain"), wide)


def variables(version: Path) -> int:
    return len(
        [name for name, _ in tf.train.list_variables(str(version / "variables/variables")) if "_CHECK" not in name]
    )


def ops(version: Path) -> set[str]:
    return {node.op for node in read_graph(version).nodes("serving_default")}


def test_freezing_leaves_no_variables_and_the_same_answers(plain: Exported, export_here: Export) -> None:
    frozen = export_here(wide, options=("freeze",))
    assert (variables(plain.path), variables(frozen.path)) == (4, 0)
    (effect,) = frozen.effects
    assert (effect.option, effect.kept) == ("freeze", True)
    assert effect.size is not None
    assert effect.size[1] < effect.size[0]
    assert re.fullmatch(r"freeze: size [\d.]+ MB to [\d.]+ MB, 9 to 5 nodes, one row \d+ µs to \d+ µs.*", str(effect))
    assert read_manifest(frozen.path).options == ("freeze",)
    requests = read_golden(frozen.path).requests, read_golden(plain.path).requests
    # Not of the last one, the edge values: fused kernels make something else of NaN on some processors.
    for ours, theirs in zip(*(some[:-1] for some in requests), strict=True):
        np.testing.assert_array_equal(ours.outputs["scaled"], theirs.outputs["scaled"])


@pytest.mark.parametrize("options", [("freeze",), ("freeze", "optimize"), ("freeze", "optimize", "half")], ids="+".join)
def test_tables_functions_and_optional_inputs_survive(export_here: Export, options: tuple[str, ...]) -> None:
    exported = export_here(sums, options=options)
    assert [(effect.option, effect.reason) for effect in exported.effects] == [(option, "") for option in options]
    assert read_manifest(exported.path).signatures["serving_default"].optional == ("key",)
    assert exported.proof.largest < 1e-5


def test_optimizing_folds_what_is_constant(plain: Exported, export_here: Export) -> None:
    better = export_here(wide, options=("freeze", "optimize"))
    assert {"MatMul", "BiasAdd", "Relu"} < ops(plain.path)
    assert "_FusedMatMul" in ops(better.path) or len(ops(better.path)) < len(ops(plain.path))
    assert better.proof.largest <= 1e-5


def test_halving_halves_the_weights_and_keeps_the_signature(plain: Exported, export_here: Export) -> None:
    half = export_here(wide, options=("freeze", "half"))
    assert read_manifest(half.path).signatures == read_manifest(plain.path).signatures
    size = half.effects[-1].size
    assert size is not None
    # 3 x 512 + 512 + 512 x 2 weights of two bytes less each.
    assert size[0] - size[1] == pytest.approx(2 * 3072, rel=0.3)
    assert not half.proof.identical
    # What is served may then be as far off as float16 is, and what was seen is a quarter of it at most.
    tolerance = read_manifest(half.path).tolerances["cpu"]["float32"]
    assert 1e-3 <= tolerance.absolute <= 4e-3
    assert tolerance.relative == pytest.approx(10 * tolerance.absolute)
    assert read_manifest(plain.path).tolerances["cpu"] == {"float32": Tolerance(1e-5, 1e-5)}


def test_xla_compiles_the_signature(export_here: Export) -> None:
    exported = export_here(wide, options=("xla",))
    assert [(effect.option, effect.reason) for effect in exported.effects] == [("xla", "")]
    graph = (exported.path / "saved_model.pb").read_bytes()
    assert b"_XlaMustCompile" in graph


def large() -> Servable:
    """Weights that no float16 holds."""
    module = zoo.Scale()
    module.factor = tf.Variable(np.linspace(1e5, 1e6, 300, dtype=np.float32).reshape(3, 100))
    return zoo.servable(module, lambda rows: {"scaled": tf.matmul(rows, module.factor)})


def test_an_option_that_changes_the_answers_is_not_kept(export_here: Export) -> None:
    exported = export_here(large, options=("freeze", "half"))
    freeze, half = exported.effects
    assert freeze.kept
    assert half.reason.startswith("signature 'serving_default', output 'scaled': ")
    assert str(half).startswith("half was not kept: signature 'serving_default', output 'scaled': ")
    assert read_manifest(exported.path).options == ("freeze",)
    assert read_manifest(exported.path).tolerances["cpu"] == {"float32": Tolerance(1e-5, 1e-5)}
    assert exported.proof.identical


def test_an_option_that_the_graph_cannot_have_is_not_kept(tmp_path: Path) -> None:
    servable = zoo.texts()
    functions = savedmodel.trace(servable)
    requests = list(golden_requests(servable))
    improved, (effect,) = improve(servable, functions, requests, ("xla",), tmp_path)
    assert improved == functions
    assert effect.size is None
    assert str(effect).startswith(
        "xla was not kept: InvalidArgumentError: Detected unsupported operations when trying to"
    )


def test_the_command_says_what_every_option_came_to(project: Project) -> None:
    done = project.run("build", "scale", "--half", "--xla", "--json")
    assert done.returncode == 0, done.stderr
    options: list[dict[str, Any]] = json.loads(done.stdout)["models"][0]["options"]
    # --half works on constants.
    assert [option["option"] for option in options] == ["freeze", "half", "xla"]
    assert all(
        option["kept"] and option["size_bytes"]["after"] and option["call_seconds"]["after"] and option["nodes"]
        for option in options
    )
    for option in options:
        shown = r"size .* MB to .* MB, \d+ to \d+ nodes, one row \d+ µs to \d+ µs"
        assert re.search(rf"^scale: {option['option']}: {shown}", done.stderr, re.M)
