"""Golden and warm-up records on disk are what TensorFlow Serving reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.export import breaking, zoo
from tfserving.export import records
from tfserving.export.golden import golden_requests
from tfserving.export.records import write_golden
from tfserving.export.rows import batch_of
from tfserving.foundation.golden import RECORDS, WARMUP, request_of
from tfserving.foundation.messages import PredictionLog
from tfserving.foundation.records import read_records
from tfserving.foundation.tensors import from_proto


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


def warm_sizes(folder: Path, signature: str) -> list[int]:
    logs = [PredictionLog.FromString(record) for record in read_records(folder / WARMUP)]
    requests = [request_of(log, responded=False) for log in logs]
    return [batch_of(request) for request in requests if request.signature == signature]


def test_the_warmup_has_every_power_of_two_up_to_the_largest_batch(tmp_path: Path) -> None:
    requests = list(golden_requests(zoo.texts(), batch_sizes=(24,)))
    write_golden(requests, "texts", tmp_path, ["loud"])
    # The golden ones first, the edge values the last of them.
    assert warm_sizes(tmp_path, "serving_default") == [1, 2, 7, 24, 3]
    assert warm_sizes(tmp_path, "loud") == [1, 2, 7, 24, 3, 4, 8, 16]
    *_, added = [PredictionLog.FromString(record) for record in read_records(tmp_path / WARMUP)]
    largest = requests[8].inputs["text"]
    np.testing.assert_array_equal(request_of(added, responded=False).inputs["text"], largest[:16])
    assert [request_of(PredictionLog.FromString(record)) for record in read_records(tmp_path / RECORDS)][10:] == []


def test_the_warmup_of_a_fixed_batch_has_no_other_size(tmp_path: Path) -> None:
    write_golden(golden_requests(breaking.fixed_batch()), "fixed", tmp_path, ["serving_default"])
    assert {*warm_sizes(tmp_path, "serving_default")} == {2}


def test_the_warmup_has_at_most_what_a_server_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = list(golden_requests(zoo.scale()))
    monkeypatch.setattr(records, "MOST_WARMUP", 6)
    write_golden(requests, "scale", tmp_path, ["serving_default"])
    assert warm_sizes(tmp_path, "serving_default") == [1, 2, 7, 32, 5, 4]
    monkeypatch.undo()
    # A request of 8 rows takes more than the rest.
    monkeypatch.setattr(records, "MOST_BYTES", 230)
    write_golden(requests, "scale", tmp_path, ["serving_default"])
    assert warm_sizes(tmp_path, "serving_default") == [1, 2, 7, 32, 5, 4]


def test_tensorflow_reads_the_records_that_were_written(tmp_path: Path) -> None:
    write_golden(golden_requests(zoo.scale()), "scale", tmp_path)
    found = list(tf.data.TFRecordDataset(str(tmp_path / WARMUP)).as_numpy_iterator())
    assert found == list(read_records(tmp_path / WARMUP))
