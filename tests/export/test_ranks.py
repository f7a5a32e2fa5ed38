"""Operations that end the process on a tensor of a wrong rank, and versions whose graph doesn't let one through."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from tests.export import aborting
from tfserving.export import ranks, savedmodel
from tfserving.export.graph import read_graph
from tfserving.export.servable import TensorSpec


def test_what_ends_a_process_is_found_by_lint_and_refused_by_what_is_exported(tmp_path: Path) -> None:
    models = aborting.models()
    assert {model.op for model in models} == {*ranks.ABORTING, ranks.FUSED[0][1]}
    runs: dict[str, list[dict[str, Any]]] = {"plain": [], "exported": []}
    for model in models:
        servable = model.servable
        model.save(tmp_path / "plain" / model.op)
        savedmodel.write_savedmodel(servable, savedmodel.trace(servable), tmp_path / "exported" / model.op)
        for way, found in (("plain", [model.op]), ("exported", [])):
            graph = read_graph(tmp_path / way / model.op)
            tensor = graph.signatures["serving_default"].inputs["x"].name
            assert [node.op for node in ranks.trusting(graph, tensor)] == found, (way, model.op)
            feeds = [model.feed(wrong=False), model.feed(wrong=True)]
            folder = str(tmp_path / way / model.op)
            runs[way].append({"folder": folder, "signature": "serving_default", "feeds": feeds})
    *plain, exported = aborting.run_apart(*([run] for run in runs["plain"]), runs["exported"])
    for model, ended in zip(models, plain, strict=True):
        assert ended["said"][0] == "", (model.op, ended)
        assert (ended["ended"] < 0) == model.aborts, (model.op, ended)
    assert exported["ended"] == 0, exported
    for model, fitting, wrong in zip(models, exported["said"][::2], exported["said"][1::2], strict=True):
        assert fitting == "", model.op
        assert wrong.startswith("INVALID_ARGUMENT: Shape of tensor "), (model.op, wrong)
        assert "is not compatible with expected shape [" in wrong, (model.op, wrong)


def convolved(x: Any) -> Any:
    return tf.nn.conv2d(x, tf.ones((3, 3, 4, 4)), 1, "SAME")


@tf.function  # type: ignore[untyped-decorator]
def normalized_and_convolved(x: Any) -> Any:
    return convolved(x / tf.reduce_max(x))


def looped(x: Any) -> Any:
    _, maps = tf.while_loop(
        lambda step, _: step < 3,
        lambda step, maps: (step + 1, convolved(maps)),
        (0, x),
        shape_invariants=(tf.TensorShape([]), tf.TensorShape([None, 8, 8, 4])),
    )
    return maps


def decoded(x: Any) -> Any:
    return convolved(tf.map_fn(lambda file: tf.io.decode_png(file, 4), x, fn_output_signature=tf.uint8) / 255)


@pytest.mark.parametrize(
    ("function", "spec", "found"),
    [
        (normalized_and_convolved, aborting.IMAGE, ["Conv2D"]),
        (looped, aborting.IMAGE, ["Conv2D"]),
        (lambda x: tf.cond(tf.reduce_sum(x) > 0, lambda: convolved(x), lambda: x), aborting.IMAGE, ["Conv2D"]),
        (lambda x: tf.nn.conv1d(tf.gather(tf.ones((9, 4)), x), tf.ones((3, 4, 2)), 1, "SAME"), "int32", ["Conv2D"]),
        (lambda x: tf.einsum("...c,cd->...d", x, tf.ones((4, 4))) + convolved(x), aborting.IMAGE, ["Conv2D"]),
        (lambda x: convolved(tf.reshape(x, (-1, 8, 8, 4))), aborting.IMAGE, []),
        (lambda x: convolved(tf.ensure_shape(x, (None, None, None, None))), aborting.IMAGE, []),
        (lambda x: convolved(tf.matmul(x, tf.ones((4, 256)))[:, tf.newaxis, tf.newaxis, :4]), aborting.ROWS, []),
        (lambda x: convolved(tf.einsum("abcd,de->abce", x, tf.ones((4, 4)))), aborting.IMAGE, []),
        (lambda x: convolved(tf.ones((2, 8, 8, 4))) + x, aborting.IMAGE, []),
        (decoded, TensorSpec("string", (None,)), []),
    ],
    ids=[
        *(
            "function",
            "loop",
            "branch",
            "embedding",
            "ellipsis",
            "reshaped",
            "ensured",
            "multiplied",
            "summed",
            "added",
        ),
        "decoded",
    ],
)
def test_an_input_is_followed_until_something_makes_sure_of_its_rank(
    tmp_path: Path, function: Callable[[Any], Any], spec: TensorSpec | str, found: list[str]
) -> None:
    spec = TensorSpec(spec, (None, 5)) if isinstance(spec, str) else spec
    graph = read_graph(aborting.Aborting("", function, {"x": spec}).save(tmp_path / "model"))
    tensor = graph.signatures["serving_default"].inputs["x"].name
    assert [node.op for node in ranks.trusting(graph, tensor)] == found


def test_a_graph_of_tensorflow_1_is_followed_from_whatever_tensor_its_signature_takes(tmp_path: Path) -> None:
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        image = tf.compat.v1.placeholder(tf.float32, aborting.IMAGE.shape, "image")
        scaled = tf.identity(image / 255, "scaled")
        maps = tf.identity(convolved(scaled), "maps")
        for name, tensor in (("whole", image), ("inside", scaled), ("after", maps)):
            tf.compat.v1.saved_model.simple_save(session, str(tmp_path / name), {"x": tensor}, {"y": maps + 1})
    found = {}
    for name in ("whole", "inside", "after"):
        graph = read_graph(tmp_path / name)
        found[name] = [node.op for node in ranks.trusting(graph, graph.signatures["serving_default"].inputs["x"].name)]
    assert found == {"whole": ["Conv2D"], "inside": ["Conv2D"], "after": []}
