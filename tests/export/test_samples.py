"""What the samples are for: each kind of source, asked on the embedded server as its clients would."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
import urllib.request
from importlib.resources import files
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris

from tests.export.conftest import ExportedFleet
from tests.servers import Served
from tfserving.clients import connect
from tfserving.clients.errors import InvalidArgument
from tfserving.export.examples import serialized_examples
from tfserving.export.manifest import read_manifest
from tfserving.foundation.golden import read_golden
from tfserving.foundation.messages import MultiInferenceRequest, MultiInferenceResponse

# The samples are trained once.
pytestmark = pytest.mark.xdist_group("samples")
PROTOCOLS = pytest.mark.parametrize("protocol", ["grpc", "rest"])
TABLE = {"total_bill": [20.0, 50.0], "party_size": [2, 5], "day": ["Sun", "Fri"], "smoker": [False, True]}


@PROTOCOLS
def test_tips_takes_four_dtypes(sample_server: Served, protocol: str) -> None:
    with connect(sample_server.url(protocol)) as client:
        said = client.predict("tips", TABLE | {"time": ["Dinner", "Lunch"]}).outputs
    assert {name: array.dtype.kind for name, array in said.items()} == {"tip": "f", "share": "f", "generous": "b"}
    np.testing.assert_allclose(said["tip"] / [20, 50], said["share"], rtol=1e-6)
    assert (said["tip"] > 0.5).all()


def test_tips_does_without_the_time_over_grpc_and_over_rest_with_its_default(sample_server: Served) -> None:
    with connect(sample_server.url("grpc")) as client:
        without = client.predict("tips", TABLE).outputs["tip"]
        said = client.predict("tips", TABLE | {"time": ["Dinner", "Lunch"]}).outputs["tip"]
        empty = client.predict("tips", TABLE | {"time": ["", ""]}).outputs["tip"]
    np.testing.assert_array_equal(without, empty)
    assert not np.array_equal(without, said)
    with connect(sample_server.url("rest")) as client:
        np.testing.assert_array_equal(client.predict("tips", TABLE | {"time": [""]}).outputs["tip"], without)
        # As TensorFlow Serving does: its JSON must name every input.
        with pytest.raises(InvalidArgument, match="Missing named input: time in 'inputs' object"):
            client.predict("tips", TABLE)


@PROTOCOLS
def test_photo_takes_jpeg_files_of_any_size(sample_server: Served, protocol: str) -> None:
    folder = files("sklearn.datasets") / "images"
    whole = [(folder / f"{name}.jpg").read_bytes() for name in ("china", "flower")]
    small = tf.io.encode_jpeg(tf.io.decode_jpeg(whole[1])[:50, :70]).numpy()
    with connect(sample_server.url(protocol)) as client:
        answer = client.predict("photo", {"jpeg": np.array([*whole, small], np.object_)}).outputs
        assert [str(label) if isinstance(label, str) else label.decode() for label in answer["label"]][:2] == [
            "china",
            "flower",
        ]
        np.testing.assert_allclose(answer["scores"].sum(axis=1), 1, rtol=1e-5)
        with pytest.raises(InvalidArgument):
            client.predict("photo", {"jpeg": np.array([b"no JPEG"], np.object_)})


@PROTOCOLS
def test_sentiment_takes_text_and_tells_what_it_knows(sample_server: Served, protocol: str) -> None:
    texts = ["What a wonderful, happy day!", "terrible awful disaster", "", "GREAT 😀 work :)"]
    with connect(sample_server.url(protocol)) as client:
        answer = client.predict("sentiment", {"text": texts}).outputs
        words = client.predict("sentiment", {"text": texts}, signature="words").outputs
    labels = [label if isinstance(label, str) else label.decode() for label in answer["label"].tolist()]
    assert labels == ["positive", "negative", "neutral", "positive"]
    assert words["words"].tolist() == [5, 3, 0, 4]
    assert words["known"].tolist()[1:3] == [3, 0]


def test_sentiments_vocabulary_goes_wherever_the_version_goes(exported_fleet: ExportedFleet, tmp_path: Path) -> None:
    version = exported_fleet.models / "sentiment/1"
    assert {"assets/vocabulary.txt"} < set(read_manifest(version).files)
    shutil.copytree(version, tmp_path / "moved")
    (tmp_path / "moved/assets/vocabulary.txt").rename(tmp_path / "vocabulary.txt")
    with pytest.raises(Exception, match=r"moved/assets/vocabulary\.txt"):
        tf.saved_model.load(str(tmp_path / "moved"))
    (tmp_path / "vocabulary.txt").rename(tmp_path / "moved/assets/vocabulary.txt")
    request = read_golden(version).requests[0]
    loaded = tf.saved_model.load(str(tmp_path / "moved"))
    answer = loaded.signatures["serving_default"](text=tf.constant(request.inputs["text"].tolist()))
    np.testing.assert_array_equal(answer["score"].numpy(), request.outputs["score"])


def test_one_model_is_asked_to_regress_and_to_classify_at_once(sample_server: Served) -> None:
    data = load_diabetes()
    rows = [dict(zip(data.feature_names, row, strict=True)) for row in data.data[:3]]
    request = MultiInferenceRequest()
    for signature, method in (("serving_default", "regress"), ("speed", "classify")):
        task = request.tasks.add(method_name=f"tensorflow/serving/{method}")
        task.model_spec.name, task.model_spec.signature_name = "diabetes", signature
    for example in serialized_examples(rows):
        request.input.example_list.examples.add().MergeFromString(example)
    with grpc.insecure_channel(f"127.0.0.1:{sample_server.grpc_port}") as channel:
        ask = channel.unary_unary(
            "/tensorflow.serving.PredictionService/MultiInference",
            request_serializer=MultiInferenceRequest.SerializeToString,
            response_deserializer=MultiInferenceResponse.FromString,
        )
        regressed, classified = ask(request, timeout=30).results
    with connect(sample_server.url("grpc")) as client:
        values = client.regress("diabetes", rows).values
        classes = client.classify("diabetes", rows, signature="speed")
    np.testing.assert_array_equal([one.value for one in regressed.regression_result.regressions], values)
    scores = [[one.score for one in row.classes] for row in classified.classification_result.classifications]
    np.testing.assert_array_equal(np.array(scores, np.float32), classes.scores)
    assert classes.labels.tolist() == [["slower", "faster"]] * 3


@PROTOCOLS
def test_what_was_resigned_has_names_takes_any_batch_and_needs_no_temperature(
    sample_server: Served, protocol: str
) -> None:
    data = load_breast_cancer()
    with connect(sample_server.url(protocol)) as client:
        benign = client.predict("resigned", {"measurements": data.data.astype(np.float32)}).outputs["benign"]
        logit = client.predict("resigned", data.data[:7].astype(np.float32), signature="logits").outputs["logit"]
    assert np.mean((benign > 0.5) == data.target) > 0.9
    np.testing.assert_allclose(1 / (1 + np.exp(-logit)), benign[:7], rtol=1e-4, atol=1e-6)


@PROTOCOLS
def test_letters_is_sent_its_state_and_its_seed(sample_server: Served, protocol: str) -> None:
    start = {"letter": ["", "c"], "state": np.zeros((2, 2, 32), np.float32)}
    with connect(sample_server.url(protocol)) as client:
        first = client.predict("letters", start).outputs
        after = client.predict("letters", {"letter": ["c", "c"], "state": first["state"]}).outputs
        np.testing.assert_allclose(after["probabilities"].sum(axis=1), 1, rtol=1e-5)
        # In one row it is the first letter, in the other the second.
        assert np.abs(after["probabilities"][0] - after["probabilities"][1]).max() > 0.01
        names = [
            str(
                np.char.decode(
                    client.predict("letters", {"start": "cat ", "seed": seed}, signature="name")
                    .outputs["name"]
                    .astype("S")
                )
            )
            for seed in ([1, 2], [1, 2], [3, 4], [5, 6])
        ]
    assert all(name.startswith("cat ") for name in names)
    assert names[0] == names[1]
    assert len(set(names)) == 3


def test_custom_is_loaded_without_keras_and_its_own_code(exported_fleet: ExportedFleet, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['keras'] = None; import tensorflow as tf; import numpy as np;"
        "loaded = tf.saved_model.load(sys.argv[1]).signatures['serving_default'];"
        "print(loaded(measures=tf.constant([[5.1, 3.5, 0.2], [6.3, 3.3, 2.5]]))['petal_length'].numpy().tolist());"
        "print([name for name in sys.modules if name.split('.')[0] in ('export', 'clients', 'serving')])"
    )
    version = str(exported_fleet.models / "custom/1")
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, version], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lengths, modules = done.stdout.splitlines()
    # A setosa and a virginica: 1.4 and 6.0 cm.
    np.testing.assert_allclose(json.loads(lengths), [1.4, 6.0], atol=0.8)
    assert modules == "[]"


def test_customs_answers_are_near_the_flowers(sample_server: Served) -> None:
    data = load_iris().data.astype(np.float32)
    with connect(sample_server.url("grpc")) as client:
        lengths = client.predict("custom", {"measures": data[:, [0, 1, 3]]}).outputs["petal_length"]
    assert np.mean(np.abs(lengths - data[:, 2])) < 0.35


def test_resumed_answers_as_the_checkpoint_that_it_was_trained_to(
    sample_server: Served, exported_fleet: ExportedFleet
) -> None:
    assert {path.stem for path in (exported_fleet.cache / "resumed").glob("*.index")} == {
        "ckpt-50",
        "ckpt-55",
        "ckpt-60",
    }
    with connect(sample_server.url("grpc")) as client:
        logits = client.predict("resumed", {"image": np.zeros((3, 8, 8, 1), np.uint8)}).outputs["logits"]
    assert logits.shape == (3, 10)


def test_an_image_goes_over_rest_as_base64_by_hand(sample_server: Served) -> None:
    jpeg = (files("sklearn.datasets") / "images/china.jpg").read_bytes()
    body: dict[str, Any] = {"instances": [{"jpeg": {"b64": base64.b64encode(jpeg).decode()}}]}
    url = f"{sample_server.url('rest')}/v1/models/photo:predict"
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})  # noqa: S310
    with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310
        (answer,) = json.load(response)["predictions"]
    assert answer["label"] == "china"
