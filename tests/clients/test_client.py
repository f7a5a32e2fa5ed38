"""What both clients do alike, against the embedded server."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from google.protobuf import text_format

from tests.clients.conftest import ON_SERVERS, Server
from tests.servers import free_ports
from tfserving.clients import Client, Signature, TensorInfo, connect
from tfserving.clients.availability import available_version
from tfserving.clients.errors import (
    Call,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    OutOfRange,
    ServingError,
    Unavailable,
    Unimplemented,
)
from tfserving.clients.results import VersionStatus
from tfserving.foundation.messages import ModelServerConfig

pytestmark = ON_SERVERS
ROWS = np.array([[1, 2, 3], [0.1, -0.0, 1e-3]], np.float32)


def test_the_newest_version_answers(client: Client) -> None:
    prediction = client.predict("scale", {"x": ROWS})
    assert prediction.model == "scale"
    assert prediction.signature == "serving_default"
    assert list(prediction.outputs) == ["scaled", "total"]
    np.testing.assert_array_equal(prediction.outputs["scaled"], ROWS * np.float32(3))
    assert {array.dtype for array in prediction.outputs.values()} == {np.dtype(np.float32)}
    assert prediction.outputs["total"].shape == (2,)


def test_a_version_is_pinned_by_number_and_by_label(client: Client) -> None:
    for pin in ({"version": 1}, {"label": "stable"}):
        scaled = client.predict("scale", {"x": ROWS}, **pin).outputs["scaled"]
        np.testing.assert_array_equal(scaled, ROWS * np.float32(2))
    assert client.predict("scale", {"x": ROWS}, version=2).version == 2


def test_grpc_says_which_version_answered_and_rest_says_that_it_does_not_know(client: Client) -> None:
    version = client.predict("scale", {"x": ROWS}).version
    assert version == (2 if client.protocol == "grpc" else None)


def test_lists_take_the_type_the_signature_wants(client: Client) -> None:
    outputs = client.predict("scale", {"a": [0.5, 1], "n": [1, 2]}, signature="two").outputs
    np.testing.assert_array_equal(outputs["sum"], np.array([1.5, 3], np.float32))
    assert outputs["twice"].dtype == np.int32


def test_a_single_input_needs_no_name(client: Client) -> None:
    np.testing.assert_array_equal(client.predict("scale", ROWS).outputs["total"], (ROWS * np.float32(3)).sum(1))
    assert client.predict("words", ["four", b"ab"]).outputs["length"].tolist() == [4, 2]
    with pytest.raises(InvalidArgument, match=r"signature 'two' has 2 inputs \(a, n\); give them as a mapping"):
        client.predict("scale", [1.0], signature="two")


def test_numbers_come_back_bit_for_bit(client: Client) -> None:
    def come_back(case: str, signature: str, array: np.ndarray[Any, Any]) -> None:
        answered = client.predict("scale", {"x": array}, signature=signature).outputs["y"]
        assert answered.dtype == array.dtype, case
        assert answered.shape == array.shape, case
        assert answered.tobytes() == np.asarray(array).tobytes(), case

    come_back("float64", "same64", np.array([0.1, 1 / 3, -0.0, 5e-324 * 2**60, np.nan, np.inf, -np.inf, 1.7e308]))
    come_back("uint64", "unsigned", np.array([2**64 - 1, 0, 2**63], np.uint64))
    come_back("bool", "flags", np.array([[True, False]]))
    come_back("no rows", "flags", np.zeros((0, 2), np.bool_))
    come_back("scalar", "single", np.float32(16777217.0))
    come_back("zero dimensions", "single", np.array(np.float32(0.1)))


def test_every_float32_digit_survives(client: Client) -> None:
    rng = np.random.default_rng(3)
    exponents = rng.uniform(-37, 37, (1000, 3))
    rows = (rng.choice([-1, 1], (1000, 3)) * 10**exponents).astype(np.float32)
    answered = client.predict("scale", {"x": np.abs(rows)}, signature="positive").outputs["rows"]
    assert answered.tobytes() == np.abs(rows).tobytes()


def test_strings_are_bytes_in_and_out(client: Client) -> None:
    sent = np.array([b"nul\0", "ü".encode(), b""], np.object_)
    outputs = client.predict("scale", {"s": sent}, signature="upper").outputs
    assert outputs["text"].tolist() == [b"NUL\0", "ü".encode(), b""]
    assert outputs["raw_bytes"].tolist() == [b"nul\0\0\xff", "ü".encode() + b"\0\xff", b"\0\xff"]


def test_an_answer_without_rows_keeps_its_other_dimensions(client: Client) -> None:
    assert client.predict("scale", {"x": -np.abs(ROWS)}, signature="positive").outputs["rows"].shape == (0, 3)


def test_a_few_outputs_can_be_asked_for(client: Client) -> None:
    assert list(client.predict("scale", {"x": ROWS}, outputs=("total",)).outputs) == ["total"]


@pytest.mark.parametrize("outputs", [("nope",), ("total", "total")])
def test_outputs_that_are_not_there_or_are_there_twice_are_refused(client: Client, outputs: tuple[str, ...]) -> None:
    with pytest.raises(InvalidArgument, match=outputs[0]):
        client.predict("scale", {"x": ROWS}, outputs=outputs)


def test_a_wrong_input_is_named_with_what_was_sent_and_what_is_wanted(client: Client) -> None:
    def refused(case: str, inputs: dict[str, Any], said: str) -> None:
        with pytest.raises(InvalidArgument) as caught:
            client.predict("scale", inputs)
        assert said in str(caught.value), case
        asked = (caught.value.model, caught.value.signature, caught.value.protocol)
        assert asked == ("scale", "serving_default", client.protocol), case
        assert client.predict("scale", {"x": ROWS}).outputs["total"].shape == (2,), f"{case}: the server goes on"

    wanted = "signature 'serving_default' expects"
    refused("shape", {"x": ROWS[:, :2]}, f"inputs['x']: got float32 (2, 2), {wanted} float32 (?, 3)")
    double = ROWS.astype(np.float64)
    refused("dtype", {"x": double}, f"inputs['x']: got float64 (2, 3), {wanted} float32 (?, 3)")
    refused(
        "name",
        {"y": ROWS},
        "inputs['y'] is not an input of signature 'serving_default', which has 'x': float32 (?, 3)",
    )
    refused(
        "one too many",
        {"x": ROWS, "y": ROWS},
        "inputs['y'] is not an input of signature 'serving_default', which has 'x': float32 (?, 3)",
    )
    refused("none", {}, f"inputs['x'] is missing, {wanted} float32 (?, 3)")
    refused("ragged", {"x": [[1, 2, 3], [4]]}, "inputs['x']: its lists have different lengths")
    refused("text for a number", {"x": ["a"]}, "inputs['x']: 'a' is not of dtype float32")


def test_a_signature_that_is_not_there_is_named_with_those_that_are(client: Client) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        client.predict("words", {"s": np.array([b""], np.object_)}, signature="nope")
    assert "words version 1 lacks signature 'nope'; it has serving_default" in str(caught.value)


def test_a_model_that_is_not_served_is_named(client: Client) -> None:
    with pytest.raises(NotFound) as caught:
        client.predict("nope", {"x": ROWS})
    assert "doesn't serve a model 'nope'" in str(caught.value)
    for call in (client.metadata, client.status):
        with pytest.raises(NotFound, match="nope"):
            call("nope")


def test_a_version_that_is_not_served_is_answered_with_those_that_are(client: Client) -> None:
    with pytest.raises(NotFound) as caught:
        client.predict("scale", {"x": ROWS}, version=7)
    assert "the server has these versions of scale: version 2 AVAILABLE, version 1 AVAILABLE" in str(caught.value)
    assert caught.value.version == 7


def test_an_unknown_label_is_an_invalid_argument(client: Client) -> None:
    with pytest.raises(InvalidArgument, match="label: canary"):
        client.predict("scale", {"x": ROWS}, label="canary")


def test_calls_that_cannot_be_meant_are_refused_before_they_are_sent(protocol: str) -> None:
    with connect(f"{'http' if protocol == 'rest' else 'grpc'}://127.0.0.1:1") as nowhere:
        with pytest.raises(InvalidArgument, match="version 1 and label 'stable' are both given"):
            nowhere.predict("scale", {"x": ROWS}, version=1, label="stable")
        with pytest.raises(InvalidArgument, match="model's name is empty"):
            nowhere.predict("", {"x": ROWS})
        with pytest.raises(TypeError, match="a sequence of names"):
            nowhere.predict("scale", {"x": ROWS}, outputs="total")
        with pytest.raises(ValueError, match="above 0 seconds, got -1"):
            nowhere.status("scale", timeout=-1)


def test_both_protocols_tell_the_same_metadata(client: Client) -> None:
    metadata = client.metadata("scale", version=1)
    assert metadata.version == 1
    assert metadata.signatures["serving_default"] == Signature(
        "tensorflow/serving/predict",
        {"x": TensorInfo("float32", (None, 3))},
        {"scaled": TensorInfo("float32", (None, 3)), "total": TensorInfo("float32", (None,))},
    )
    assert metadata.signatures["single"].inputs == {"x": TensorInfo("float32", ())}
    assert "__saved_model_init_op" not in metadata.signatures
    assert client.metadata("scale", label="stable") == metadata


def test_both_protocols_tell_the_same_status(client: Client) -> None:
    assert client.status("scale") == (VersionStatus(2, "AVAILABLE"), VersionStatus(1, "AVAILABLE"))
    assert client.status("scale", version=1) == (VersionStatus(1, "AVAILABLE"),)


def test_waiting_returns_the_version_that_is_available(client: Client) -> None:
    assert client.wait_until_available("scale", timeout=5) == 2
    assert client.wait_until_available("scale", version=1, timeout=5) == 1


def test_waiting_in_vain_says_what_was_last_seen(client: Client) -> None:
    with pytest.raises(DeadlineExceeded, match=r"not available after 0.2 s; .* version 2 AVAILABLE"):
        client.wait_until_available("scale", version=9, timeout=0.2)
    with pytest.raises(DeadlineExceeded, match=r"NOT_FOUND: .*nope"):
        client.wait_until_available("nope", timeout=0.2)


def test_waiting_for_a_version_that_fails_to_load_raises_the_servers_error(
    client: Client, served: Server, tmp_path: Path
) -> None:
    version = max(status.version for status in client.status("breaking")) + 1
    broken = tmp_path / str(version)
    shutil.copytree(served.models / "breaking" / "1", broken)
    (broken / "saved_model.pb").write_bytes(b"no SavedModel")
    shutil.move(broken, served.models / "breaking" / str(version))
    with pytest.raises(ServingError) as caught:
        client.wait_until_available("breaking", version=version, timeout=30)
    assert not isinstance(caught.value, DeadlineExceeded)
    assert f"version {version} of breaking failed to load" in str(caught.value)
    assert caught.value.text
    assert client.wait_until_available("breaking", timeout=5) == 1, "the version before it goes on"
    shutil.rmtree(served.models / "breaking" / str(version))


def test_a_call_can_be_checked_before_it_is_sent(client: Client) -> None:
    assert client.predict("scale", {"x": ROWS}, check=True).outputs["total"].shape == (2,)
    with pytest.raises(InvalidArgument) as caught:
        client.predict("scale", {"x": ROWS[:, :2]}, check=True)
    assert caught.value.text == ("inputs['x']: got float32 (2, 2), signature 'serving_default' expects float32 (?, 3)")
    for call in (client.classify, client.regress):
        with pytest.raises(InvalidArgument, match=r"doesn't accept tf.Examples; its inputs are 'x': float32"):
            call("scale", [{}], check=True)
    assert client.regress("flowers", [{"length": 2.0}], signature="length", check=True).values.tolist() == [6]


def test_several_signatures_answer_the_same_examples(client: Client) -> None:
    def ask() -> Any:
        return client.multi_inference(
            "shared", {"length": "regress", "serving_default": "classify"}, [{"name": "rose"}], context={"length": 2.0}
        )

    if client.protocol == "rest":
        with pytest.raises(Unimplemented, match="use gRPC"):
            ask()
        return
    answers = ask()
    assert list(answers) == ["length", "serving_default"]
    assert answers["length"].values.tolist() == [6]
    assert answers["serving_default"].labels.tolist() == [["rose", "other"]]
    assert answers["serving_default"].scores.tolist() == [[2, 0.5]]
    assert {answer.version for answer in answers.values()} == {1}
    with pytest.raises(InvalidArgument, match="got 'predict', expected 'classify' or 'regress'"):
        client.multi_inference("flowers", {"length": "predict"}, [{}])  # type: ignore[dict-item]
    with pytest.raises(InvalidArgument, match="at least one signature"):
        client.multi_inference("flowers", {}, [{}])


def test_a_config_is_reloaded(client: Client, served: Server) -> None:
    text = (served.folder / "models.config").read_text()
    if client.protocol == "rest":
        with pytest.raises(Unimplemented, match="use gRPC"):
            client.reload_config(text)
        return
    try:
        client.reload_config(text.replace('key: "stable" value: 1', 'key: "stable" value: 2', 1), timeout=30)
        assert client.predict("scale", {"x": ROWS}, label="stable").version == 2
    finally:
        client.reload_config(text_format.Parse(text, ModelServerConfig()), timeout=30)
    assert client.predict("scale", {"x": ROWS}, label="stable").version == 1
    with pytest.raises(InvalidArgument, match="is not a ModelServerConfig in text form: 1:1"):
        client.reload_config("models {}")


def test_waiting_for_a_label_returns_the_version_that_it_means(client: Client) -> None:
    assert client.wait_until_available("scale", label="stable", timeout=5) == 1
    with pytest.raises(DeadlineExceeded, match=r"last status: version 2 AVAILABLE, .*label: canary"):
        client.wait_until_available("scale", label="canary", timeout=1)


def test_nobody_listening_is_unavailable(protocol: str) -> None:
    (port,) = free_ports(1)
    address = f"127.0.0.1:{port}"
    with connect(f"{'http' if protocol == 'rest' else 'grpc'}://{address}") as nobody:
        with pytest.raises(Unavailable, match=f"no (gRPC|REST) server is listening on .*{address}"):
            nobody.predict("scale", {"x": ROWS})
        with pytest.raises(DeadlineExceeded, match=r"last status: UNAVAILABLE: .*refused"):
            nobody.wait_until_available("scale", timeout=0.3)


def test_the_other_protocols_port_is_recognised(server: Server, protocol: str) -> None:
    wrong = f"http://{server.grpc}" if protocol == "rest" else f"grpc://{server.rest}"
    with connect(wrong) as client, pytest.raises(Unavailable, match=r"gRPC port"):
        client.status("scale")


def test_threads_share_a_client(client: Client) -> None:
    wrong: list[object] = []

    def ask(number: int) -> None:
        rows = np.full((1, 3), number, np.float32)
        for _ in range(20):
            answered = client.predict("scale", {"x": rows}, version=1).outputs["scaled"]
            if not np.array_equal(answered, rows * 2):
                wrong.append(answered)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_messages_may_be_larger_than_four_megabytes(client: Client) -> None:
    # JSON has 14 characters for each number, a tensor 4 bytes.
    count = 100_000 if client.protocol == "rest" else 400_000
    rows = np.full((count, 3), 1.2345678e-20, np.float32)
    answered = client.predict("scale", {"x": rows}, version=1, timeout=60).outputs["scaled"]
    assert answered.shape == rows.shape
    np.testing.assert_array_equal(answered, rows * 2)


class TestAvailableVersion:
    """The decision of a wait, for every state a server can be in."""

    @pytest.mark.parametrize(
        ("states", "asked", "answer"),
        [
            ([], None, None),
            ([(2, "AVAILABLE"), (1, "AVAILABLE")], None, 2),
            ([(2, "LOADING"), (1, "AVAILABLE")], None, 1),
            ([(2, "LOADING"), (1, "AVAILABLE")], 2, None),
            ([(2, "START")], None, None),
            ([(2, "END"), (1, "END")], None, None),
            ([(2, "UNLOADING")], 2, None),
        ],
    )
    def test_it_goes_on_or_ends(self, states: list[tuple[int, str]], asked: int | None, answer: int | None) -> None:
        statuses = [VersionStatus(version, state) for version, state in states]
        assert available_version(statuses, Call(version=asked)) == answer

    def test_a_failed_load_ends_it_unless_another_version_may_come(self) -> None:
        failed = VersionStatus(2, "END", "OUT_OF_RANGE", "Read less bytes than requested")
        with pytest.raises(OutOfRange, match="Read less bytes than requested"):
            available_version([failed], Call())
        with pytest.raises(OutOfRange):
            available_version([failed, VersionStatus(1, "AVAILABLE")], Call(version=2))
        assert available_version([failed, VersionStatus(1, "AVAILABLE")], Call()) == 1
        assert available_version([failed, VersionStatus(1, "LOADING")], Call()) is None


def test_bfloat16_lists_are_rounded_to_it() -> None:
    from tfserving.clients.inputs import to_arrays

    signature = Signature("", {"x": TensorInfo("bfloat16", (None,))}, {})
    assert to_arrays([1.5, 2], "s", signature)["x"].dtype == ml_dtypes.bfloat16
