from __future__ import annotations

import json
import math

import numpy as np
import pytest

from tfserving.foundation.tensors import Array
from tfserving.serving.embedded.core.view import State, Status
from tfserving.serving.embedded.errors import Code, RequestError
from tfserving.serving.embedded.rest import json_text, responses

MATRIX = np.array([[1, 2], [3, 4]], np.int32)


def test_rows_of_one_output_stand_on_one_line() -> None:
    assert responses.rows({"y": MATRIX}) == b'{\n    "predictions": [[1, 2], [3, 4]\n    ]\n}'


def test_rows_of_several_outputs_are_objects() -> None:
    assert responses.rows({"y": MATRIX, "z": np.array([0.5, np.nan], np.float32)}).decode() == (
        '{\n    "predictions": [\n'
        '        {\n            "y": [1, 2],\n            "z": 0.5\n        },\n'
        '        {\n            "y": [3, 4],\n            "z": NaN\n        }\n'
        "    ]\n}"
    )


def test_columns_are_indented() -> None:
    assert responses.columns({"y": MATRIX}).decode() == (
        '{\n    "outputs": [\n        [\n            1,\n            2\n        ],\n'
        "        [\n            3,\n            4\n        ]\n    ]\n}"
    )
    assert responses.columns({"y": np.array(2.0)}) == b'{\n    "outputs": 2.0\n}'
    assert responses.columns({"a": np.array(True), "b": np.array([7])}).decode() == (
        '{\n    "outputs": {\n        "a": true,\n        "b": [\n            7\n        ]\n    }\n}'
    )


@pytest.mark.parametrize("shape", [(0,), (2, 0), (0, 2), (1, 2, 3, 2), (3, 0, 2)])
def test_any_shape_reads_back_as_it_was(shape: tuple[int, ...]) -> None:
    array: Array = np.arange(math.prod(shape)).reshape(shape)

    assert json.loads(responses.columns({"y": array}))["outputs"] == array.tolist()
    assert json.loads(responses.rows({"y": array}))["predictions"] == array.tolist()
    both = json.loads(responses.rows({"y": array, "z": array}))["predictions"]
    assert both == [{"y": row, "z": row} for row in array.tolist()]


def test_strings_are_text_or_base64_by_the_outputs_name() -> None:
    strings = np.array([b"a", b"\xff"], object)

    assert responses.rows({"y": strings}) == b'{\n    "predictions": ["a", "\xff"\n    ]\n}'
    assert responses.rows({"y_bytes": strings}).decode() == (
        '{\n    "predictions": [{\n            "b64": "YQ=="\n        }, '
        '{\n            "b64": "/w=="\n        }\n    ]\n}'
    )
    assert json.loads(responses.columns({"y_bytes": strings})) == {"outputs": [{"b64": "YQ=="}, {"b64": "/w=="}]}


@pytest.mark.parametrize(
    ("outputs", "text"),
    [
        ({"y": np.array(1)}, "Tensor name: y has no shape information "),
        ({"y": np.zeros(3), "z": np.zeros(2)}, "Tensor name: z has inconsistent batch size: 2 expecting: 3"),
        ({"y": np.zeros(1, np.complex64)}, "Serializing value of type: complex64 is not supported"),
    ],
)
def test_what_can_not_be_rows(outputs: dict[str, Array], text: str) -> None:
    with pytest.raises(RequestError) as failure:
        responses.rows(outputs)

    assert (failure.value.code, failure.value.text) == (Code.INVALID_ARGUMENT, text)


def test_a_status_tells_why_a_version_ended() -> None:
    error = RequestError(Code.NOT_FOUND, "gone", "it was there")
    found = [Status(2, State.END, error), Status(1, State.AVAILABLE, None)]

    document = json.loads(responses.statuses(found, explain=True))
    assert document["model_version_status"][0] == {
        "version": "2",
        "state": "END",
        "status": {"error_code": "NOT_FOUND", "error_message": "gone; it was there"},
    }
    assert document["model_version_status"][1]["state"] == "AVAILABLE"
    plain = json.loads(responses.statuses(found, explain=False))
    assert plain["model_version_status"][0]["status"]["error_message"] == "gone"


def test_an_error_is_escaped() -> None:
    assert responses.error('a "b"\n') == b'{\n    "error": "a \\"b\\"\\n"\n}'


@pytest.mark.parametrize(
    "shape", [(7,), (1, 7), (7, 1), (5, 3), (3, 5), (2, 3, 4), (2, 1, 9, 1), (1, 1, 1, 20), (20, 0)]
)
@pytest.mark.parametrize("block", [1, 4, 6])
def test_large_arrays_are_written_in_parts_as_small_ones_are_at_once(
    shape: tuple[int, ...], block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    outputs: tuple[dict[str, Array], ...] = (
        {"y": values},
        {"y": values, "z": np.arange(len(values)), "s_bytes": values.astype(bytes).astype(object)},
    )
    wanted = [write(some) for some in outputs for write in (responses.rows, responses.columns)]
    monkeypatch.setattr(responses, "BLOCK", block)
    monkeypatch.setattr(json_text, "_AT_ONCE", block)
    assert [write(some) for some in outputs for write in (responses.rows, responses.columns)] == wanted


def test_an_error_that_repeats_what_was_sent_has_an_end() -> None:
    assert len(responses.error("a" * 10**6)) < 20_000
    assert json.loads(responses.error("a" * 20_000))["error"].endswith("a...TRUNCATED")
