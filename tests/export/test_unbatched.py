"""Signatures without a batch: how they are declared, proven one example at a time, and what that costs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.export import zoo
from tfserving.export.differences import diff_versions
from tfserving.export.errors import ServableError
from tfserving.export.exporter import Exported
from tfserving.export.given import read_given
from tfserving.export.golden import golden_requests
from tfserving.export.inspection import inspect_version
from tfserving.export.lint import lint_version
from tfserving.export.manifest import read_manifest
from tfserving.export.servable import Evaluation, Servable, Signature, TensorSpec
from tfserving.foundation.golden import read_golden

Export = Callable[..., Exported]
RANDOM = np.random.default_rng(4)
# The second has as many values as its rows have ends: by their shapes these could be a batch of 3.
SIZES = (5, 3, 0, 8)
PARTS: dict[str, list[Any]] = {
    "values": [RANDOM.normal(size=size).astype(np.float32) for size in SIZES],
    "row_splits": [np.array([0, size // 2, size], np.int64) for size in SIZES],
    "threshold": [np.float32(value) for value in (0.5, 0, -1, 2)],
    "name": ["one", "zwei\0", "", "four"],
}
SPECS = {
    "values": TensorSpec("float32", (None,)),
    "row_splits": TensorSpec("int64", (None,)),
    "threshold": TensorSpec("float32", ()),
    "name": TensorSpec("string", ()),
}


def ragged(examples: Any = PARTS, **declared: Any) -> Servable:
    """The sums of a ragged tensor's rows beside a threshold, a text, and another signature with a batch."""
    module = zoo.Scale()

    def sums(values: Any, row_splits: Any, threshold: Any, name: Any) -> dict[str, Any]:
        rows = tf.RaggedTensor.from_row_splits(values * module.factor[0], row_splits)
        total = tf.reduce_sum(rows, axis=1)
        return {"total": total, "above": tf.reduce_any(total > threshold), "named": tf.strings.join([name, "!\0"])}

    declared = {"batched": False} | declared
    with_batch = zoo.servable(module, lambda rows: {"scaled": rows * module.factor})
    return Servable(
        module,
        {
            **with_batch.signatures,
            "sums": Signature(sums, SPECS, ("total", "above", "named"), **declared),
        },
        {**with_batch.examples, "sums": examples},
    )


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.export.conftest import export_to

    said = {"threshold": np.array(0.25, np.float32)}

    def servable() -> Servable:
        return ragged(defaults=said)

    return export_to(tmp_path_factory.mktemp("models") / "model", servable).path


def test_each_example_is_a_golden_request_and_so_is_each_edge_value(version: Path) -> None:
    golden = read_golden(version)
    requests = [request for request in golden.requests if request.signature == "sums"]
    assert golden.unbatched == {"sums"}
    assert [len(request.inputs["values"]) for request in requests[:4]] == [*SIZES]
    assert [request.inputs["name"].item() for request in requests[:4]] == [b"one", b"zwei\0", b"", b"four"]
    assert requests[1].outputs["named"].item() == b"zwei\0!\0"
    assert requests[0].inputs["threshold"].shape == requests[0].outputs["above"].shape == ()
    # One leaves out what may be left out; then floats and texts have edge values, and offsets keep theirs.
    assert "threshold" not in requests[4].inputs
    edges = requests[5:]
    assert [request.inputs["threshold"].item() for request in edges[:3]] == [0, np.finfo("f").max, np.finfo("f").min]
    assert all(request.inputs["row_splits"].tolist() == [0, 2, 5] for request in edges)
    assert edges[-2].inputs["name"].item() == b""


def test_the_price_is_a_note_and_no_finding(version: Path) -> None:
    (note,) = lint_version(version)
    assert note.note
    assert str(note).startswith(
        "[unbatched] signature 'sums': it takes one example per request. Servers run each request by itself"
    )


def test_the_version_says_so_and_is_inspected_and_compared(version: Path) -> None:
    assert read_manifest(version).unbatched == ("sums",)
    facts = dict(inspect_version(version)._facts())
    assert facts["golden, sums"] == "11 requests, one example each"
    assert facts["golden, serving_default"] == "5 requests, of 1, 2, 7, 32, 5 rows"
    answers = {(change.signature, change.output): change for change in diff_versions(version, version).outputs}
    assert answers["sums", "above"].verdict == "equal"


def test_a_version_whose_signatures_all_have_a_batch_says_nothing_of_it(exported: Any) -> None:
    manifest = json.loads((exported.folder / "models/scale/1/assets.extra/manifest.json").read_text())
    assert "unbatched" not in manifest


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"values": PARTS["values"][:3]}, "the inputs have different numbers of examples: {'values': 3, 'row_splits'"),
        (
            {"threshold": [np.float32(1), 0.5, np.float32(1), np.float32(1)]},
            "example 1 of input 'threshold': got float64",
        ),
        ({"threshold": np.ones((4, 1), np.float32)}, "example 0 of input 'threshold': got float32 (1,), the signature"),
        (
            {"threshold": np.float32(1)},
            "the examples of input 'threshold': got one float32, expected a list of arrays float32",
        ),
        ({"name": "one"}, "the examples of input 'name': got one str, expected a list of arrays string ()"),
        ({name: values[:2] for name, values in PARTS.items()}, "got 2 examples, expected at least 3, one for each"),
        (
            {"other": PARTS["values"]},
            "the examples have the inputs 'values', 'row_splits', 'threshold', 'name', 'other', expected",
        ),
    ],
    ids=["lengths", "dtype", "shape", "one number", "one text", "few", "another input"],
)
def test_examples_are_as_many_arrays_for_each_input(changed: dict[str, Any], problem: str) -> None:
    with pytest.raises(ServableError) as refused:
        ragged({**PARTS, **changed}).check()
    assert f"signature 'sums': {problem}" in str(refused.value)


def test_without_the_declaration_errors_name_it() -> None:
    with pytest.raises(ServableError) as refused:
        ragged({**PARTS, "row_splits": np.zeros(9, np.int64), "values": np.zeros(8, np.float32)}, batched=True).check()
    assert "input 'threshold' is a scalar. Make its first dimension the batch, None, or declare the sig" in str(
        refused.value
    )
    assert "have different numbers of example rows: {'values': 8, 'row_splits': 9}. If the inputs share no batch" in (
        str(refused.value)
    )


def test_what_needs_rows_is_refused() -> None:
    servable = ragged()
    labelled = Evaluation({"values": np.zeros(10, np.float32)}, np.zeros(10), signature="sums")
    with pytest.raises(ServableError, match="evaluation: signature 'sums' takes one example per request"):
        Servable(servable.module, servable.signatures, servable.examples, evaluation=labelled).check()
    with pytest.raises(ServableError, match="batched=False requires the method predict; classify takes"):
        ragged(method="classify").check()


def test_examples_may_be_one_array_with_one_for_each_request() -> None:
    images = np.zeros((40, 4, 5, 3), np.uint8)
    signature = Signature(
        lambda image: {"mean": tf.reduce_mean(tf.cast(image, tf.float32), axis=(0, 1))},
        {"image": TensorSpec("uint8", (None, None, 3))},
        ("mean",),
        batched=False,
    )
    servable = Servable(tf.Module(), {"serving_default": signature}, {"serving_default": {"image": images}})
    servable.check()
    # At most 32 of them, from all over.
    assert [request.inputs["image"].shape for request in golden_requests(servable)] == [(4, 5, 3)] * 32


def test_a_request_that_is_answered_otherwise_the_second_time_is_refused() -> None:
    seen: list[Any] = []

    def counted(factor: Any) -> dict[str, Any]:
        seen.append(factor)
        return {"product": factor * len(seen)}

    signature = Signature(counted, {"factor": TensorSpec("float32", ())}, ("product",), batched=False)
    examples = {"serving_default": {"factor": np.arange(3, dtype=np.float32) + 1}}
    with pytest.raises(ServableError, match="the same request gets another output the second time"):
        list(golden_requests(Servable(tf.Module(), {"serving_default": signature}, examples)))


def test_golden_requests_of_ones_own_are_columns(tmp_path: Path) -> None:
    signatures = ragged().signatures
    body = {"values": [1, 2], "row_splits": [0, 2], "threshold": 0.5, "name": "x"}
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"signature_name": "sums", "inputs": body, "outputs": {"total": [6]}}))
    (given,) = read_given(path, signatures)
    assert {name: array.shape for name, array in given.inputs.items()} == {
        "values": (2,),
        "row_splits": (2,),
        "threshold": (),
        "name": (),
    }
    path.write_text(json.dumps({"signature_name": "sums", "instances": [body]}))
    with pytest.raises(
        ServableError, match="it has 'instances', rows of a batch, but signature 'sums' takes one example"
    ):
        read_given(path, signatures)


def test_a_graph_for_size_or_speed_is_compared_one_by_one(export_here: Export) -> None:
    exported = export_here(ragged, options=("freeze",))
    assert [(effect.option, effect.reason) for effect in exported.effects] == [("freeze", "")]


def test_a_single_value_is_found_in_a_savedmodel_that_something_else_wrote(tmp_path: Path) -> None:
    module = tf.Module()
    specs = [tf.TensorSpec((None,), tf.float32, name="rows"), tf.TensorSpec((), tf.float32, name="factor")]
    scaled = tf.function(lambda rows, factor: {"scaled": rows * factor}, input_signature=specs)
    tf.saved_model.save(module, str(tmp_path / "other"), {"serving_default": scaled})
    (finding,) = lint_version(tmp_path / "other")
    assert finding.note
    assert str(finding).startswith("[unbatched] signature 'serving_default': it takes one example per request. ")
