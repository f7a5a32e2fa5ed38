"""Golden and warm-up records on disk are what TensorFlow Serving reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf

from tests.export import zoo
from tfserving.export.golden import golden_requests
from tfserving.export.records import write_golden
from tfserving.foundation.golden import RECORDS, WARMUP
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


def test_tensorflow_reads_the_records_that_were_written(tmp_path: Path) -> None:
    write_golden(golden_requests(zoo.scale()), "scale", tmp_path)
    records = list(tf.data.TFRecordDataset(str(tmp_path / WARMUP)).as_numpy_iterator())
    assert records == list(read_records(tmp_path / WARMUP))
