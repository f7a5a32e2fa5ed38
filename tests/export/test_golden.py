"""Golden requests: what the live model is asked, and what is not let through."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.export import zoo
from tfserving.export.errors import ServableError
from tfserving.export.golden import golden_requests
from tfserving.export.records import write_golden
from tfserving.export.rows import batch_of
from tfserving.foundation.golden import RECORDS, WARMUP
from tfserving.foundation.messages import PredictionLog
from tfserving.foundation.records import read_records
from tfserving.foundation.tensors import from_proto


def test_every_signature_is_asked_batches_of_1_2_an_odd_size_and_32() -> None:
    requests = list(golden_requests(zoo.texts()))
    for signature in ("serving_default", "loud"):
        # The last one has the edge values, and a row that has none.
        assert [batch_of(request) for request in requests if request.signature == signature] == [1, 2, 7, 32, 3]


def test_the_batch_sizes_that_are_served_are_asked_too() -> None:
    requests = list(golden_requests(zoo.scale(), batch_sizes=(4, 16, 64)))
    assert [batch_of(request) for request in requests[:-1]] == [1, 2, 4, 7, 16, 64]


def test_the_largest_batch_bounds_the_others() -> None:
    assert [batch_of(request) for request in golden_requests(zoo.scale(), batch_sizes=(3,))][:-1] == [1, 2, 3]


def test_fewer_examples_than_rows_are_repeated() -> None:
    servable = zoo.scale()
    examples = {"serving_default": {"rows": zoo.ROWS[:12]}}
    few = type(servable)(servable.module, servable.signatures, examples)
    requests = list(golden_requests(few))
    assert [batch_of(request) for request in requests[:-1]] == [1, 2, 7, 32]
    np.testing.assert_array_equal(requests[3].inputs["rows"], np.resize(zoo.ROWS[:12], (32, 3)))


def test_the_rows_of_the_small_batches_do_not_overlap_and_lie_in_the_large_one() -> None:
    one, two, seven, large, _ = golden_requests(zoo.scale())
    small = np.concatenate([request.inputs["rows"] for request in (one, two, seven)])
    np.testing.assert_array_equal(small, zoo.ROWS[:10])
    np.testing.assert_array_equal(large.inputs["rows"], zoo.ROWS[:32])


def test_the_answers_are_what_the_live_model_answers() -> None:
    servable = zoo.trained()
    for request in golden_requests(servable):
        wanted = servable.module(request.inputs["rows"], training=False).numpy()
        np.testing.assert_array_equal(request.outputs["scaled"], wanted)


@pytest.mark.parametrize(
    ("builder", "problem"),
    [
        (zoo.missing_output, "answers the outputs 'scaled', declared are 'label', 'scaled'"),
        (zoo.undeclared_output, "answers the outputs 'extra', 'scaled', declared are 'scaled'"),
        (zoo.no_dict, "returns a EagerTensor, a dict with 'scaled' is wanted"),
        (zoo.no_batch_output, "output 'scaled' has shape () for 32 rows; the batch must come first"),
        (zoo.ragged, "output 'scaled' is a RaggedTensor, only dense tensors can be served"),
        (zoo.raising, "its function failed on a batch of 32: InvalidArgumentError"),
        (zoo.fixed_function_batch, "its function failed on a batch of 32"),
        (zoo.random, "output 'scaled': the same request is answered differently the second time: largest difference "),
        (
            zoo.batch_dependent,
            "output 'scaled': the examples' rows 0 to 0 are answered differently in a batch of 1 and in one of 32: ",
        ),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_signature_that_does_not_do_what_it_says_is_refused(builder: Callable[[], Any], problem: str) -> None:
    with pytest.raises(ServableError) as refused:
        list(golden_requests(builder()))
    assert str(refused.value).removeprefix("[output-batch] ").startswith("signature 'serving_default'")
    assert problem in str(refused.value)


def test_golden_and_warmup_records_are_what_tensorflow_serving_reads(tmp_path: Path) -> None:
    requests = list(golden_requests(zoo.texts()))
    write_golden(requests, "texts", tmp_path)
    golden, warmup = (
        [PredictionLog.FromString(record).predict_log for record in read_records(tmp_path / name)]
        for name in (RECORDS, WARMUP)
    )
    assert len(golden) == len(warmup) == len(requests) == 10
    for request, log, warm in zip(requests, golden, warmup, strict=True):
        assert log.request == warm.request
        assert not warm.HasField("response")
        assert (log.request.model_spec.name, log.request.model_spec.signature_name) == ("texts", request.signature)
        assert not log.request.model_spec.HasField("version")
        for name, tensor in log.request.inputs.items():
            np.testing.assert_array_equal(from_proto(tensor), request.inputs[name])
        assert set(log.response.outputs) == set(request.outputs)
        for name, tensor in log.response.outputs.items():
            np.testing.assert_array_equal(from_proto(tensor), request.outputs[name])


def test_tensorflow_reads_the_records_that_were_written(tmp_path: Path) -> None:
    write_golden(golden_requests(zoo.scale()), "scale", tmp_path)
    records = list(tf.data.TFRecordDataset(str(tmp_path / WARMUP)).as_numpy_iterator())
    assert records == list(read_records(tmp_path / WARMUP))
