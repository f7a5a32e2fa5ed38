"""What a running server answers, over both protocols."""

from __future__ import annotations

import json

import grpc
import numpy as np
import pytest

from tests.serving.embedded.running import Asker, together
from tests.serving.embedded.saved_models import rows
from tfserving.foundation.messages import PredictRequest, PredictResponse, SignatureDefMap
from tfserving.foundation.tensors import from_proto, to_proto

pytestmark = together


def test_grpc_predict_echoes_model_version_and_signature(ask: Asker) -> None:
    response = ask.predict_raw("scale", {"x": rows(2)})

    assert response.model_spec.name == "scale"
    assert response.model_spec.version.value == 2
    assert response.model_spec.signature_name == "serving_default"
    assert not response.model_spec.version_label


def test_grpc_answers_floats_in_the_typed_field(ask: Asker) -> None:
    output = ask.predict_raw("scale", {"x": rows(2)}).outputs["y"]

    assert list(output.float_val) == [0, -2, -4, -6, -8, -10]
    assert output.tensor_content == b""
    assert [dim.size for dim in output.tensor_shape.dim] == [2, 3]


def test_a_version_is_chosen_by_number_or_by_label(ask: Asker) -> None:
    assert ask.predict("scale", {"x": rows(1)}, version=1)["version"].tolist() == [1]
    assert ask.predict("scale", {"x": rows(1)}, label="stable")["version"].tolist() == [1]
    assert ask.post("scale/versions/1:predict", {"instances": [[1, 2, 3]]})[1]["predictions"][0]["version"] == 1
    assert ask.post("scale/labels/stable:predict", {"instances": [[1, 2, 3]]})[1]["predictions"][0]["version"] == 1


def test_an_output_filter_gives_only_what_it_names(ask: Asker) -> None:
    from tfserving.foundation.messages import PredictRequest, PredictResponse
    from tfserving.foundation.tensors import to_proto

    request = PredictRequest(output_filter=["version"])
    request.model_spec.name = "scale"
    request.inputs["x"].CopyFrom(to_proto(rows(1)))

    response = ask.call("PredictionService/Predict", request, PredictResponse)

    assert list(response.outputs) == ["version"]


def test_rest_answers_rows_for_instances(ask: Asker) -> None:
    body = {"instances": [{"features": [1, 2, 3], "weight": 2}, {"features": [0, 0, 1], "weight": 0.5}]}

    assert ask.post("pair:predict", body) == (
        200,
        {
            "predictions": [
                {"total": 12.0, "doubled": [2.0, 4.0, 6.0]},
                {"total": 0.5, "doubled": [0.0, 0.0, 2.0]},
            ]
        },
    )


def test_rest_answers_columns_for_inputs(ask: Asker) -> None:
    body = {"inputs": {"features": [[1, 2, 3]], "weight": [2]}}

    assert ask.post("pair:predict", body) == (200, {"outputs": {"total": [12.0], "doubled": [[2.0, 4.0, 6.0]]}})


def test_rest_lays_rows_out_as_tensorflow_serving_does(ask: Asker) -> None:
    response = ask.rest.post(
        "/v1/models/kinds:predict",
        content=b'{"signature_name":"float32","instances":[4,[9.5]]}'.replace(b"[9.5]", b"9.5"),
    )

    assert response.content == b'{\n    "predictions": [4.0, 9.5\n    ]\n}'
    assert response.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("signature", "values"),
    [
        ("float64", [1.5, -0.1]),
        ("int64", [2**62, -5]),
        ("int32", [7, -7]),
        ("uint8", [0, 255]),
        ("bool", [True, False]),
        ("string", ["blå", ""]),
    ],
)
def test_every_element_type_comes_back_over_both_protocols(ask: Asker, signature: str, values: list[object]) -> None:
    array = (
        np.array([str(v).encode() for v in values], object) if signature == "string" else np.array(values, signature)
    )

    answered = ask.predict("kinds", {"x": array}, signature=signature)["y"]
    assert answered.dtype == array.dtype
    assert answered.tolist() == array.tolist()

    assert ask.post("kinds:predict", {"signature_name": signature, "instances": values}) == (
        200,
        {"predictions": values},
    )


def test_strings_in_tensor_content_are_read(ask: Asker) -> None:
    words = np.array([["blå".encode(), b""], [b"x" * 300, b"\xff"]], object)
    request = PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "kinds", "string"
    request.inputs["x"].CopyFrom(to_proto(words, pack=True))

    answered = from_proto(ask.call("PredictionService/Predict", request, PredictResponse).outputs["y"])
    assert answered.tolist() == words.tolist()

    request.inputs["x"].tensor_content += b"more"
    with pytest.raises(grpc.RpcError, match="tensor parsing error: x") as refused:
        ask.call("PredictionService/Predict", request, PredictResponse)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_half_precision_goes_over_grpc_only(ask: Asker) -> None:
    array = np.array([0.5, 65504], np.float16)

    assert ask.predict("kinds", {"x": array}, signature="float16")["y"].tolist() == array.tolist()
    status, document = ask.post("kinds:predict", {"signature_name": "float16", "inputs": [0.5]})
    assert status == 501
    assert document["error"].startswith("Conversion of JSON Value: 0.5 to type: half")


def test_nan_and_infinity_go_in_and_out_over_rest(ask: Asker) -> None:
    body = b'{"signature_name": "float32", "inputs": [NaN, Infinity, -Infinity, 1e39]}'
    response = ask.rest.post("/v1/models/kinds:predict", content=body)

    assert response.status_code == 200
    assert json.loads(response.content)["outputs"][1:] == [float("inf"), float("-inf"), float("inf")]
    assert b"NaN,\n        Infinity,\n        -Infinity,\n" in response.content


def test_strings_that_are_not_text_go_in_base64(ask: Asker) -> None:
    body = {"signature_name": "encoded", "instances": [{"b64": "/wBh"}, "b"]}

    # The output's name ends in _bytes.
    assert ask.post("kinds:predict", body) == (200, {"predictions": [{"b64": "/wBB"}, {"b64": "Qg=="}]})


def test_a_table_in_an_asset_is_served(ask: Asker) -> None:
    assert ask.predict("lookup", {"word": np.array([b"blue", b"no"], object)})["id"].tolist() == [2, -1]
    assert ask.post("lookup:predict", {"instances": ["red", "green"]}) == (200, {"predictions": [0, 1]})


def test_a_large_tensor_passes(ask: Asker) -> None:
    array = np.random.default_rng(0).random(2_000_000).astype(np.float32)

    assert np.array_equal(ask.predict("kinds", {"x": array}, signature="float32")["y"], array)


def test_metadata_describes_the_signatures(ask: Asker) -> None:
    response = ask.metadata("pair")
    definitions = SignatureDefMap.FromString(response.metadata["signature_def"].value).signature_def
    assert sorted(definitions["serving_default"].inputs) == ["features", "weight"]
    assert response.model_spec.version.value == 1

    status, document = ask.get("pair/metadata")
    assert status == 200
    assert document["model_spec"] == {"name": "pair", "version": "1", "signature_name": ""}
    features = document["metadata"]["signature_def"]["signature_def"]["serving_default"]["inputs"]["features"]
    assert features["dtype"] == "DT_FLOAT"
    assert [dim["size"] for dim in features["tensor_shape"]["dim"]] == ["-1", "3"]


def test_status_lists_versions_newest_first(ask: Asker) -> None:
    assert list(ask.status("scale")) == [2, 1]

    status, document = ask.get("scale")
    assert status == 200
    assert document["model_version_status"] == [
        {"version": version, "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
        for version in ("2", "1")
    ]
    assert ask.get("scale/versions/1")[1]["model_version_status"][0]["version"] == "1"


def test_what_is_not_there_is_not_found(ask: Asker) -> None:
    assert ask.get("nobody")[0] == 404
    assert ask.get("scale/versions/9") == (404, {"error": ask.get("scale/versions/9")[1]["error"]})
    assert ask.get("scale/versions/9")[1]["error"].startswith("Could not find version 9 of model scale")
    assert ask.rest.get("/elsewhere").status_code == 404
    assert ask.rest.get("/v1/nothing").json()["error"] == "Malformed request: GET /v1/nothing"


def test_a_method_that_is_no_method_of_http_is_not_implemented(ask: Asker) -> None:
    assert ask.rest.request("FOO", "/v1/models/scale").status_code == 501


def test_many_threads_get_their_own_answers(ask: Asker) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def one(number: int) -> bool:
        x = np.full((number % 5 + 1, 3), number, np.float32)
        body = {"inputs": x.tolist()}
        over_grpc = ask.predict("scale", {"x": x})["y"]
        over_rest = ask.post("scale:predict", body)[1]["outputs"]["y"]
        return bool(np.array_equal(over_grpc, x * -2) and np.array_equal(over_rest, x * -2))

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(one, range(200)))
