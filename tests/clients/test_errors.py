from __future__ import annotations

import json
import pickle

import grpc
import pytest

from tfserving.clients import errors
from tfserving.clients.errors import Call, ServingError, from_code, from_grpc, from_http

CALL = Call("rest", "http://127.0.0.1:8501", "digits", 3, None, "serving_default")
CLASSES = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ServingError)]


class Refused(grpc.RpcError):
    """A failed call as grpcio raises it: an RpcError that knows its code and details."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        self._code, self._details = code, details

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details


def body(text: str) -> bytes:
    return json.dumps({"error": text}, indent=4).encode()


def test_every_status_code_of_grpc_has_its_class() -> None:
    made = {type(from_grpc(Refused(code, "text"), CALL)).code for code in grpc.StatusCode if code.name != "OK"}
    assert made == {code.name for code in grpc.StatusCode} - {"OK"}
    assert {kind.code for kind in CLASSES} == made


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, errors.InvalidArgument),
        (401, errors.Unauthenticated),
        (403, errors.PermissionDenied),
        (404, errors.NotFound),
        (409, errors.AlreadyExists),
        (429, errors.ResourceExhausted),
        (499, errors.Cancelled),
        (500, errors.Internal),
        (501, errors.Unimplemented),
        (503, errors.Unavailable),
        (504, errors.DeadlineExceeded),
        (502, errors.Unavailable),
        (418, errors.InvalidArgument),
        (599, errors.Internal),
    ],
)
def test_http_statuses_mean_what_tensorflow_serving_means_by_them(status: int, kind: type[ServingError]) -> None:
    error = from_http(status, body("the server's text"), CALL)
    assert type(error) is kind
    assert error.text == "the server's text"


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        (400, 'Serving signature name: "nope" not found in signature def', errors.FailedPrecondition),
        (400, "End of sequence\n\t [[{{node IteratorGetNext}}]]", errors.OutOfRange),
        (
            400,
            "Failed to process element: 0 of 'instances' list. Error: UNIMPLEMENTED: Conversion of JSON Value: 0",
            errors.Unimplemented,
        ),
        (
            400,
            "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: Expecting tensor size: 1",
            errors.InvalidArgument,
        ),
    ],
)
def test_the_text_tells_apart_what_one_status_stands_for(status: int, text: str, kind: type[ServingError]) -> None:
    assert type(from_http(status, body(text), CALL)) is kind


@pytest.mark.parametrize("page", [b"<HTML>Not\n Found</HTML>", b"", b"[]", b'{"error": 1}', b"\xff"])
def test_another_servers_page_is_quoted_with_the_question_whose_port_it_is(page: bytes) -> None:
    error = from_http(404, page, CALL)
    assert isinstance(error, errors.NotFound)
    assert error.text.startswith("HTTP 404")
    assert "the response isn't one of TensorFlow Serving's REST API" in str(error)


def test_an_error_says_what_was_asked_of_whom() -> None:
    error = errors.InvalidArgument("no good", CALL, "a hint")
    assert str(error) == ("digits version 3, signature 'serving_default', over REST: INVALID_ARGUMENT: no good\na hint")
    assert (error.model, error.version, error.label, error.signature) == ("digits", 3, None, "serving_default")
    assert (error.protocol, error.server) == ("rest", "http://127.0.0.1:8501")
    assert str(errors.NotFound("gone", Call("grpc", "a", "m", label="stable"))) == (
        "m label 'stable', over gRPC: NOT_FOUND: gone"
    )
    assert str(errors.Internal("bare")) == "INTERNAL: bare"


def test_a_code_without_a_class_is_unknown() -> None:
    assert type(from_code("SOMETHING_NEW", "text")) is errors.Unknown


def test_errors_cross_process_borders() -> None:
    error = pickle.loads(pickle.dumps(errors.NotFound("gone", CALL, "hint")))  # noqa: S301 - our own bytes
    assert type(error) is errors.NotFound
    assert (error.text, error.call, error.hint) == ("gone", CALL, "hint")


def test_the_tree_at_the_top_of_the_module_shows_every_class() -> None:
    assert errors.__doc__ is not None
    assert all(kind.__name__ in errors.__doc__ for kind in CLASSES)
    assert all(kind.__base__ is ServingError for kind in CLASSES if kind is not ServingError)


@pytest.mark.parametrize(
    ("code", "status", "text", "said"),
    [
        ("INVALID_ARGUMENT", 400, "Unrecognized servable version label: canary", "the version must be loaded first"),
        (
            "UNAVAILABLE",
            503,
            "The batch scheduling queue to which this task was submitted is full; currently 2 batches enqueued",
            "raise max_enqueued_batches",
        ),
        (
            "RESOURCE_EXHAUSTED",
            429,
            "SERVER: Received message larger than max (20 vs. 10)",
            "grpc.max_receive_message_length",
        ),
    ],
)
def test_known_errors_say_what_can_be_done(code: str, status: int, text: str, said: str) -> None:
    for error in (from_grpc(Refused(grpc.StatusCode[code], text), CALL), from_http(status, body(text), CALL)):
        assert error.code == code
        assert said in error.hint
        assert error.text == text
