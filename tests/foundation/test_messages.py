"""The messages and files that are made without TensorFlow, against TensorFlow's own, in this process that has both."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.clients.conftest import ON_SERVERS, ROOT
from tfserving.foundation.messages import PredictRequest, message
from tfserving.foundation.records import read_records, write_records
from tfserving.foundation.tensors import DTYPES, STRING, DType, from_proto, to_proto

# The tests of that group need TensorFlow in this process, too: it is imported once.
pytestmark = ON_SERVERS


def array_of(dtype: DType) -> Any:
    return np.array([b"a", b"", b"c"], object) if dtype is STRING else np.array([1, 0, 1]).astype(dtype.numpy)


def test_the_descriptors_are_those_of_the_installed_tensorflow_serving_api() -> None:
    from tfserving.foundation.messages import generate

    stale = "foundation/messages/descriptors.binpb is stale: make generated"
    assert generate.descriptors() == generate.DESTINATION.read_bytes(), stale


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
def test_tensorflow_reads_and_writes_the_same_tensors(dtype: DType) -> None:
    import tensorflow as tf
    from tensorflow_serving.apis.predict_pb2 import PredictRequest as Theirs

    array = array_of(dtype)
    for typed in (False, True):
        ours = PredictRequest()
        ours.inputs["x"].CopyFrom(to_proto(array, typed=typed))
        theirs = Theirs.FromString(ours.SerializeToString()).inputs["x"]
        assert tf.make_ndarray(theirs).tolist() == array.tolist(), f"typed={typed}"
        assert tf.as_dtype(theirs.dtype).name == dtype.name
    sent = Theirs(inputs={"x": tf.make_tensor_proto(array, dtype=dtype.name)})
    assert from_proto(PredictRequest.FromString(sent.SerializeToString()).inputs["x"]).tolist() == array.tolist()


def test_tensorflow_reads_and_writes_the_same_records(tmp_path: Path) -> None:
    import tensorflow as tf

    records = [b"one", b"", bytes(range(256))]
    with tf.io.TFRecordWriter(str(tmp_path / "theirs")) as writer:
        for record in records:
            writer.write(record)
    write_records(tmp_path / "ours", records)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    assert list(read_records(tmp_path / "theirs")) == records


def test_a_message_that_is_not_there_is_a_key_error() -> None:
    with pytest.raises(KeyError, match=r"tensorflow\.serving\.Nothing"):
        message("tensorflow.serving.Nothing")


def test_every_module_of_the_clients_does_without_tensorflow() -> None:
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for room in ("tfserving/foundation/", "tfserving/clients/")
        for path in sorted(Path(f"{ROOT}/{room}/").rglob("*.py"))
        if path.name != "generate.py"
    ]
    assert len(modules) > 10
    code = (
        f"import sys\nfor name in {modules}: __import__(name)\nprint(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    imported = set(done.stdout.split())
    assert not imported & {"tensorflow", "keras", "pydantic", "yaml"}


@pytest.mark.alone
def test_importing_the_package_costs_next_to_nothing() -> None:
    code = "import time; start = time.perf_counter(); import tfserving.clients; print(time.perf_counter() - start)"
    seconds = min(
        float(subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True).stdout)
        for _ in range(3)
    )
    assert seconds < 0.3
