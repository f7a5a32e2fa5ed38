"""The messages and files that are made without TensorFlow, against TensorFlow's own, in a process that imports both."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.clients.conftest import ENVIRONMENT, ROOT
from tfserving.foundation.messages import message

BESIDE_TENSORFLOW = """
import json, sys
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis.predict_pb2 import PredictRequest as Theirs

from tfserving.foundation.messages import PredictRequest, generate
from tfserving.foundation.records import read_records, write_records
from tfserving.foundation.tensors import DTYPES, STRING, from_proto, to_proto

folder = Path(sys.argv[1])
ours = PredictRequest()
wrong = []
for dtype in DTYPES:
    numbers = np.array([1, 0, 1]).astype(dtype.numpy)
    array = np.array([b"a", b"", b"c"], object) if dtype is STRING else numbers
    for typed in (False, True):
        ours.inputs[f"{dtype.name} {typed}"].CopyFrom(to_proto(array, typed=typed))
        theirs = Theirs.FromString(ours.SerializeToString()).inputs[f"{dtype.name} {typed}"]
        if tf.make_ndarray(theirs).tolist() != array.tolist() or tf.as_dtype(theirs.dtype).name != dtype.name:
            wrong.append(f"TensorFlow reads {dtype.name} otherwise, typed={typed}")
    sent = Theirs(inputs={"x": tf.make_tensor_proto(array, dtype=dtype.name)})
    if from_proto(PredictRequest.FromString(sent.SerializeToString()).inputs["x"]).tolist() != array.tolist():
        wrong.append(f"TensorFlow writes {dtype.name} otherwise")

records = [b"one", b"", bytes(range(256))]
with tf.io.TFRecordWriter(str(folder / "theirs")) as writer:
    for record in records:
        writer.write(record)
write_records(folder / "ours", records)
print(json.dumps({
    "descriptors": generate.descriptors() == generate.DESTINATION.read_bytes(),
    "tensors": wrong,
    "records": (folder / "ours").read_bytes() == (folder / "theirs").read_bytes()
    and list(read_records(folder / "theirs")) == records,
}))
"""


@pytest.fixture(scope="module")
def beside_tensorflow(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a process found that uses our messages and TensorFlow's at once."""
    folder = tmp_path_factory.mktemp("beside")
    command = [sys.executable, "-c", BESIDE_TENSORFLOW, str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_descriptors_are_those_of_the_installed_tensorflow_serving_api(beside_tensorflow: dict[str, Any]) -> None:
    assert beside_tensorflow["descriptors"], "foundation/messages/descriptors.binpb is stale: make generated"


def test_tensorflow_reads_and_writes_the_same_tensors(beside_tensorflow: dict[str, Any]) -> None:
    assert beside_tensorflow["tensors"] == []


def test_tensorflow_reads_and_writes_the_same_records(beside_tensorflow: dict[str, Any]) -> None:
    assert beside_tensorflow["records"]


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


def test_importing_the_package_costs_next_to_nothing() -> None:
    code = "import time; start = time.perf_counter(); import tfserving.clients; print(time.perf_counter() - start)"
    seconds = min(
        float(subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True).stdout)
        for _ in range(3)
    )
    assert seconds < 0.3
