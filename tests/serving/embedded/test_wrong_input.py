"""A wrong input gets an error over both protocols; the embedded server's names it, what was sent and what is wanted.

Without what is explained, the texts are those that a real TensorFlow Serving was seen to answer with.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.serving.embedded.running import Asker, Start, both_transports, embedded_only, together
from tests.serving.embedded.saved_models import rows

pytestmark = together

GOOD = {"features": rows(2), "weight": np.ones(2, np.float32)}


def explains(ask: Asker, text: str, explanation: str) -> bool:
    """Whether `text` ends in the explanation that the embedded server adds; the real one explains nothing."""
    return text.endswith(explanation) if ask.engine.embedded else explanation not in text


@pytest.fixture(autouse=True)
def _still_serves(ask: Asker) -> object:
    yield
    assert ask.predict("pair", GOOD)["total"].tolist() == [3.0, 12.0]


@both_transports
def test_a_wrong_shape_over_grpc(ask: Asker) -> None:
    code, text = ask.error("pair", GOOD | {"features": np.ones((2, 4), np.float32)})

    assert code == "INVALID_ARGUMENT"
    assert text.startswith(
        "Shape of tensor serving_default_features [2,4] is not compatible with expected shape [?,3]."
        if ask.engine.embedded
        else "Matrix size-incompatible: In[0]: [2,4], In[1]: [3,1]"
    )
    assert explains(
        ask,
        text,
        "inputs['features']: got float32 (2, 4), expected float32 (?, 3)",
    )


def test_a_wrong_shape_over_rest(ask: Asker) -> None:
    status, document = ask.post("pair:predict", {"inputs": {"features": [[1, 2, 3, 4]], "weight": [1]}})

    assert status == 400
    assert explains(
        ask,
        document["error"],
        "inputs['features']: got float32 (1, 4), expected float32 (?, 3)",
    )


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 5), (2, 3, 1), (1, 3, 3, 3, 3), (2, 0)])
def test_a_shape_that_is_not_the_signatures_never_comes_to_the_graph(ask: Asker, shape: tuple[int, ...]) -> None:
    """TensorFlow Serving lets the graph decide, and there are operations that end it."""
    sent = np.ones(shape, np.float32)
    if not ask.engine.embedded:
        ask.post("scale:predict", {"inputs": sent.tolist()})
        return
    text = (
        f"Shape of tensor serving_default_x [{','.join(map(str, shape))}] is not compatible with expected shape [?,3]."
    )
    code, details = ask.error("scale", {"x": sent})
    assert code == "INVALID_ARGUMENT"
    assert details.startswith(text)
    status, document = ask.post("scale:predict", {"inputs": sent.tolist()})
    assert (status, document["error"].partition(".;")[0] + ".") == (400, text)


@embedded_only
def test_without_the_check_the_graph_takes_the_shapes_that_tensorflow_serving_lets_it_take(
    start: Start, models: Path
) -> None:
    server = start("--model_name=scale", f"--model_base_path={models}/scale", "--check_shapes=false").ready()
    assert Asker(server).predict("scale", {"x": np.ones((2, 5), np.float32)})["y"].shape == (2, 5)


@pytest.mark.parametrize("depth", [64, 65, 200])
def test_a_tensor_is_as_deep_as_tensorflow_has_them(ask: Asker, depth: int) -> None:
    value = json.loads("[" * depth + "1.5" + "]" * depth)
    document = {"signature_name": "float32", "inputs": value}
    assert ask.post("kinds:predict", document) == (200, {"outputs": value})


def test_a_tensor_that_is_too_deep_is_refused(ask: Asker) -> None:
    value = json.loads("[" * 255 + "1" + "]" * 255)
    status, answer = ask.post("kinds:predict", {"signature_name": "float32", "inputs": value})
    assert status == 400
    if ask.engine.embedded:
        assert answer["error"].startswith("tensor parsing error: x; got 255 dimensions, at most 254 are allowed; ")
    else:
        assert answer["error"] == "tensor parsing error: x"


@both_transports
def test_a_wrong_type_over_grpc(ask: Asker) -> None:
    assert ask.error("pair", GOOD | {"weight": np.array([b"1", b"2"], object)}) == (
        "INVALID_ARGUMENT",
        ask.engine.says(
            "Expects arg[1] to be float but string is provided",
            "inputs['weight']: got string (2,), expected float32 (?,)",
        ),
    )


def test_a_wrong_type_over_rest(ask: Asker) -> None:
    assert ask.post("pair:predict", {"instances": [{"features": [1, 2, 3], "weight": "1"}]}) == (
        400,
        {
            "error": ask.engine.says(
                "Failed to process element: 0 key: weight of 'instances' list. Error: INVALID_ARGUMENT: "
                'JSON Value: "1" Type: String is not of expected type: float',
                "expected float32 (?,) for inputs['weight']",
            )
        },
    )


@both_transports
def test_a_wrong_name_over_grpc(ask: Asker) -> None:
    code, text = ask.error("pair", {"features": rows(2), "wait": np.ones(2, np.float32)})

    assert code == "INVALID_ARGUMENT"
    assert text.startswith("Signature input alias: weight(feed name: serving_default_weight:0) not found in request")
    assert explains(
        ask,
        text,
        "got 'features', 'wait'; "
        "signature 'serving_default' expects 'features': float32 (?, 3), 'weight': float32 (?,)",
    )


@both_transports
def test_a_missing_input_over_grpc(ask: Asker) -> None:
    code, text = ask.error("pair", {"features": rows(2)})

    assert code == "INVALID_ARGUMENT"
    assert text.startswith(
        "input size does not match signature: 1!=2 len({features}) != len({features,weight}). "
        "Sent extra: {}. Missing but required: {weight}."
    )


@pytest.mark.parametrize(
    ("body", "beginning"),
    [
        ({"inputs": {"features": [[1, 2, 3]]}}, "Missing named input: weight in 'inputs' object."),
        ({"instances": [{"features": [1, 2, 3]}]}, "Failed to process element: 0 of 'instances' list. JSON object: "),
        ({"instances": [[1, 2, 3]]}, "instances is a plain list, but expecting list of objects"),
    ],
)
def test_a_missing_input_over_rest(ask: Asker, body: object, beginning: str) -> None:
    status, document = ask.post("pair:predict", body)

    assert status == 400
    assert document["error"].startswith(beginning)
    assert explains(ask, document["error"], "expected inputs: 'features': float32 (?, 3), 'weight': float32 (?,)")


@both_transports
def test_a_wrong_model(ask: Asker) -> None:
    code, text = ask.error("pears", GOOD)
    assert code == "NOT_FOUND"
    if ask.engine.embedded:
        assert text.startswith(
            "Servable not found for request: Latest(pears); no model is called 'pears'; this server has "
        )
        assert "'pair'" in text
    else:
        assert text == "Servable not found for request: Latest(pears)"

    status, document = ask.post("pears:predict", {"instances": [1]})
    assert (status, document["error"]) == (404, text)


@both_transports
def test_a_wrong_version(ask: Asker) -> None:
    wanted = ask.engine.says(
        "Servable not found for request: Specific(scale, 9)", "model 'scale' has versions [1, 2] available"
    )
    assert ask.error("scale", {"x": rows(1)}, version=9) == ("NOT_FOUND", wanted)
    assert ask.post("scale/versions/9:predict", {"instances": [[1, 2, 3]]}) == (404, {"error": wanted})


@both_transports
def test_a_wrong_label(ask: Asker) -> None:
    wanted = ask.engine.says("Unrecognized servable version label: canary", "model 'scale' has 'gone', 'stable'")
    assert ask.error("scale", {"x": rows(1)}, label="canary") == ("INVALID_ARGUMENT", wanted)
    assert ask.post("scale/labels/canary:predict", {"instances": [[1, 2, 3]]}) == (400, {"error": wanted})


@both_transports
def test_a_label_whose_version_is_not_there(ask: Asker) -> None:
    code, text = ask.error("scale", {"x": rows(1)}, label="gone")

    assert code == "NOT_FOUND"
    assert text.startswith("Servable not found for request: Specific(scale, 77)")


@both_transports
def test_a_wrong_signature(ask: Asker) -> None:
    code, text = ask.error("pair", GOOD, signature="nope")
    assert code == "FAILED_PRECONDITION"
    if ask.engine.embedded:
        assert text.startswith("Serving signature key \"nope\" not found.; model 'pair' version 1 has ")
        assert "'serving_default'" in text
    else:
        assert text == 'Serving signature key "nope" not found.'

    status, document = ask.post("pair:predict", {"signature_name": "nope", "instances": [1]})
    assert status == 400
    missing = 'Serving signature name: "nope" not found in signature def'
    if ask.engine.embedded:
        assert document["error"].startswith(f"{missing}; model 'pair'")
    else:
        assert document["error"] == missing


@both_transports
def test_a_tensor_that_does_not_hold_what_its_shape_says(ask: Asker) -> None:
    import grpc

    from tfserving.foundation.messages import PredictRequest, PredictResponse
    from tfserving.foundation.tensors import to_proto

    request = PredictRequest()
    request.model_spec.name = "scale"
    request.inputs["x"].CopyFrom(to_proto(rows(2)))
    request.inputs["x"].tensor_content = b"1234"

    with pytest.raises(grpc.RpcError) as failure:
        ask.call("PredictionService/Predict", request, PredictResponse)

    assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    text = failure.value.details() or ""
    if ask.engine.embedded:
        assert text.startswith("tensor parsing error: x; tensor_content has 4 bytes")
        assert text.endswith("expected float32 (?, 3)")
    else:
        assert text == "tensor parsing error: x"


def test_json_that_is_none(ask: Asker) -> None:
    assert ask.post("scale:predict", b'{"instances":[1,]}') == (
        400,
        {"error": "JSON Parse error: Invalid value. at offset: 16"},
    )
