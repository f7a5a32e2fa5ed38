"""URLs, methods and headers, answered by the face without a network."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tfserving.serving.embedded.core.loader import Runtime, load
from tfserving.serving.embedded.core.manager import Manager
from tfserving.serving.embedded.core.served import Served
from tfserving.serving.embedded.rest.face import LongError, Place, RestFace
from tfserving.serving.embedded.rest.http import Request

BODY = b'{"instances":[[1,2,3]]}'


@pytest.fixture(scope="module")
def face(models: Path) -> Iterator[RestFace]:
    import threading

    served = Served(lambda name, version, path: load(name, version, path, Runtime()))
    manager = Manager(served)
    manager.aspire("scale", {1: models / "scale" / "1"})
    manager.wait_until_settled(threading.Event())
    yield RestFace(served, wanted=lambda: ["scale"])
    manager.stop(30)


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("POST", b"/v1/models/scale:predict", 200),
        ("POST", b"/V1/Models/sc%61le/Versions/01:predict", 200),
        ("POST", b"/v1/models/scale:PREDICT", 400),
        ("POST", b"/v1/models/scale:predict?x=1", 400),
        ("POST", b"/v1/models/scale/versions/9223372036854775807:predict", 404),
        ("POST", b"/v1/models/scale/versions/9223372036854775808:predict", 400),
        ("POST", b"/v1/models/scale/versions/" + b"9" * 10000 + b":predict", 400),
        ("POST", b"/v1/models/scale%:predict", 400),
        ("POST", b"/v1/models/..%2Fscale:predict", 404),
        ("POST", b"/v1/models/scale%00:predict", 404),
        ("POST", b"/v1/models/m%FCnchen:predict", 404),
        ("GET", b"/v1/models/scale", 200),
        ("GET", b"/v1/models/scale/METADATA", 200),
        ("GET", b"/v1/models/scale/metadata/", 400),
        ("GET", b"/v1/models", 400),
        ("GET", b"/v1/models/versions/1", 400),
        ("GET", b"/v1/models/scale?x=1", 404),
        ("GET", b"/v1/models/scale/labels/any", 200),
        ("GET", b"/v1/models/scale/labels/any/metadata", 400),
        ("GET", b"/v1", 404),
        ("GET", b"/", 404),
        ("HEAD", b"/v1/models/scale", 400),
        ("PUT", b"/v1/models/scale", 400),
        ("TRACE", b"/v1/models/scale", 501),
        ("OPTIONS", b"/v1/models/scale", 400),
    ],
)
def test_each_url_has_its_status(face: RestFace, method: str, target: bytes, status: int) -> None:
    assert face.respond(Request(method, target, body=BODY)).status == status


def test_a_version_that_64_bits_can_not_hold_gets_an_empty_body(face: RestFace) -> None:
    response = face.respond(Request("GET", b"/v1/models/scale/versions/99999999999999999999"))

    assert (response.status, response.body, response.kind) == (400, b"", b"application/json")


def test_what_lies_outside_the_api_is_a_page(face: RestFace) -> None:
    response = face.respond(Request("GET", b"/favicon.ico"))

    assert response.kind == b"text/html"
    assert b"<H1>Not Found</H1>" in response.body


def test_a_compressed_body_is_inflated(face: RestFace) -> None:
    headers = {b"content-encoding": b"gzip"}
    packed = gzip.compress(BODY)

    assert face.respond(Request("POST", b"/v1/models/scale:predict", headers, packed)).status == 200
    cut = face.respond(Request("POST", b"/v1/models/scale:predict", headers, packed[:-5]))
    assert json.loads(cut.body)["error"] == "JSON Parse error: The document is empty"


def test_a_body_that_inflates_without_end_is_not_kept(face: RestFace) -> None:
    bomb = gzip.compress(b"[" * (200 * 2**20), compresslevel=1)

    response = face.respond(Request("POST", b"/v1/models/scale:predict", {b"content-encoding": b"gzip"}, bomb))

    assert json.loads(response.body)["error"] == "JSON Parse error: The document is empty"


def test_a_body_that_inflates_to_more_than_the_limit_is_refused(face: RestFace) -> None:
    small = RestFace(face._served, wanted=list, largest_body=10 * 2**20)
    headers = {b"content-encoding": b"gzip"}

    def inflated(spaces: int, cut: int = 0) -> tuple[int, str]:
        packed = gzip.compress(b" " * (spaces - len(BODY)) + BODY, compresslevel=1)
        request = Request("POST", b"/v1/models/scale:predict", headers, packed[: len(packed) - cut])
        response = small.respond(request)
        return response.status, json.loads(response.body).get("error", "")

    assert inflated(10 * 2**20) == (200, "")
    assert inflated(10 * 2**20 + 1) == (413, "The body is larger than 10485760 bytes")
    assert inflated(1000 * 2**20) == (413, "The body is larger than 10485760 bytes")
    assert inflated(10 * 2**20, cut=1) == (400, "JSON Parse error: The document is empty")


@pytest.mark.parametrize("key", ["inputs", "instances"])
def test_a_tensor_in_more_arrays_than_the_limit_is_refused(face: RestFace, key: str) -> None:
    def sent(face: RestFace) -> tuple[int, str]:
        body = f'{{"{key}":{"[" * 300}1{"]" * 300}}}'.encode()
        response = face.respond(Request("POST", b"/v1/models/scale:predict", {}, body))
        return response.status, json.loads(response.body)["error"]

    status, error = sent(RestFace(face._served, wanted=list, explain=False, most_nested=256))
    assert status == 400
    assert error.endswith("arrays; at most 256 are allowed")
    # As TensorFlow Serving 2.20 responds, which has no limit of its own.
    without = RestFace(face._served, wanted=list, explain=False)
    assert sent(without) == (400, "tensor parsing error: x")


def test_what_cannot_be_made_small_is_inflated_as_it_is(face: RestFace) -> None:
    noise = np.random.default_rng(1).bytes(300_000).hex().encode()
    body = b'{"instances":[[1,2,3]],"ignored":"' + noise + b'"}'
    headers = {b"content-encoding": b"gzip"}
    request = Request("POST", b"/v1/models/scale:predict", headers, gzip.compress(body))

    assert face.respond(request).status == 200
    twice = Request("POST", b"/v1/models/scale:predict", headers, gzip.compress(body) * 2)
    assert json.loads(face.respond(twice).body)["error"] == "JSON Parse error: The document is empty"


@pytest.mark.parametrize(
    ("target", "status"), [(b"/healthz", 200), (b"/readyz", 200), (b"/readyz/none", 503), (b"/v1/models", 200)]
)
def test_head_is_answered_as_get_on_pages_of_this_server_alone(face: RestFace, target: bytes, status: int) -> None:
    listing = RestFace(face._served, wanted=lambda: ["scale"], list_models=True)
    assert listing.respond(Request("HEAD", target)) == listing.respond(Request("GET", target))
    assert listing.respond(Request("HEAD", target)).status == status


@pytest.mark.parametrize(
    ("method", "target", "place"),
    [
        ("POST", b"/v1/models/scale:predict", Place.PREDICTIONS),
        ("GET", b"/v1/models/scale/metadata", Place.PREDICTIONS),
        ("GET", b"/healthz", Place.HERE),
        ("HEAD", b"/healthz", Place.HERE),
        ("GET", b"/readyz/scale", Place.BESIDE),
        ("GET", b"/v1/models/scale", Place.BESIDE),
        ("GET", b"/v1/models", Place.BESIDE),
        ("GET", b"/metrics", Place.METRICS),
        ("GET", b"/metrics?x", Place.METRICS),
    ],
)
def test_each_request_has_its_place(face: RestFace, method: str, target: bytes, place: Place) -> None:
    measured = RestFace(face._served, wanted=list, metrics_path=b"/metrics")
    assert measured.place(Request(method, target)) is place


def test_explanations_can_be_left_out(face: RestFace) -> None:
    plain = RestFace(face._served, wanted=list, explain=False)
    request = Request("POST", b"/v1/models/scales:predict", body=BODY)

    assert json.loads(plain.respond(request).body) == {"error": "Servable not found for request: Latest(scales)"}
    assert json.loads(face.respond(request).body)["error"].endswith(
        "no model is called 'scales'; this server has 'scale'"
    )


def test_a_small_request_of_a_signature_that_is_short_may_be_answered_at_once(face: RestFace) -> None:
    request = Request("POST", b"/v1/models/scale:predict", body=BODY)
    answer = face.respond(request)
    for _ in range(1000):
        try:
            assert face.respond(request, only_short=True) == answer
        except LongError:
            face.respond(request)
        else:
            break
    else:
        raise AssertionError("it is never short")
    assert face.may_be_short(request)


@pytest.mark.parametrize(
    "request_",
    [
        Request("POST", b"/v1/models/scale:predict", body=BODY + b" " * 5000),
        Request("POST", b"/v1/models/scale:predict", {b"content-encoding": b"gzip"}, BODY),
        Request("POST", b"/v1/models/scale:classify", body=b'{"examples":[{}]}'),
        Request("GET", b"/v1/models/scale/metadata"),
        Request("POST", b"/metrics"),
    ],
    ids=["large", "compressed", "classify", "metadata", "metrics"],
)
def test_what_may_take_long_is_not_tried_at_once(face: RestFace, request_: Request) -> None:
    assert not face.may_be_short(request_)


@pytest.mark.parametrize("runtime", [Runtime(allowed_operations=("ReadFile",)), Runtime(inter_op_threads=1)])
def test_signatures_that_may_wait_for_others_are_never_short(models: Path, runtime: Runtime) -> None:
    servable = load("scale", 1, models / "scale" / "1", runtime)
    assert not servable.paces
    servable.close()
