"""Classify and regress: tf.Examples in, classes and values out, the same over gRPC and REST."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tests.clients.conftest import ON_SERVERS, Server
from tfserving.clients import Client
from tfserving.clients.errors import InvalidArgument, NotFound
from tfserving.clients.verification.verify import verify
from tfserving.foundation.examples import read_examples
from tfserving.foundation.messages import Example

pytestmark = ON_SERVERS
ROSE = {"length": 0.25, "name": "rose"}


def test_classify_answers_labels_and_scores(client: Client) -> None:
    answer = client.classify("flowers", [ROSE, {"length": 2.0}])

    assert answer.labels.tolist() == [["rose", "other"], ["?", "other"]]
    assert answer.scores.tolist() == [[0.25, 4.0], [2.0, 0.5]]
    assert answer.labels.dtype == np.object_
    assert answer.scores.dtype == np.float32
    assert (answer.model, answer.signature) == ("flowers", "serving_default")


def test_regress_answers_a_value_for_each_example(client: Client) -> None:
    answer = client.regress("flowers", [{"length": 0.5}, {}], signature="length", version=1)

    assert answer.values.tolist() == [1.5, 3.0]
    assert answer.values.dtype == np.float32
    assert answer.version == 1


def test_a_context_gives_its_features_to_examples_without_their_own(client: Client) -> None:
    answer = client.classify("flowers", [{}, {"name": b"tulip"}], context={"length": 4.0, "name": "all"})

    assert answer.labels[:, 0].tolist() == ["all", "tulip"]
    assert answer.scores[:, 0].tolist() == [4.0, 4.0]


def test_every_float_arrives_bit_for_bit(client: Client) -> None:
    for value in (0.1, -0.0, 3.4028235e38, 1e-37, math.inf, -math.inf, math.nan):
        scores = client.classify("flowers", [{"length": np.float32(value)}]).scores

        assert scores[0, :1].tobytes() == np.float32(value).tobytes(), value


def test_an_example_can_be_given_in_several_ways(client: Client) -> None:
    ways = {
        "lists": {"length": [0.25], "name": ["rose"]},
        "arrays": {"length": np.array([0.25]), "name": np.array([b"rose"], object)},
        "message": read_examples([ROSE]).examples[0],
        "bytes": read_examples([ROSE]).examples[0].SerializeToString(),
    }
    for way, features in ways.items():
        assert client.classify("flowers", [features]).labels.tolist() == [["rose", "other"]], way


def test_integers_and_floats_together_are_floats() -> None:
    (example,) = read_examples([{"mixed": [1, 2.5], "whole": [1, True]}]).examples

    assert list(example.features.feature["mixed"].float_list.value) == [1.0, 2.5]
    assert list(example.features.feature["whole"].int64_list.value) == [1, 1]


def test_what_is_no_example_is_refused_before_it_is_sent(client: Client) -> None:
    def refused(examples: Any, text: str) -> None:
        with pytest.raises(InvalidArgument) as caught:
            client.classify("flowers", examples)
        assert text in caught.value.text

    refused([], "examples is empty; at least one is needed")
    refused(ROSE, "examples is a sequence of tf.Examples, not one dict; put it in a list")
    refused([ROSE, 5], "examples[1] is a int; a dict of features, an Example or its bytes is needed")
    refused([{"name": ["rose", 1]}], "examples[0]['name'] mixes bytes and int64; a feature is of one kind")
    refused([{"name": None}], "examples[0]['name'] holds a NoneType; a feature holds numbers, str or bytes")
    refused([{"whole": 2**63}], "examples[0]['whole']: ")
    refused([b"\xff"], "examples[0] is no serialized tf.Example")


def test_a_signature_that_can_not_be_asked_so_is_the_servers_error(client: Client) -> None:
    with pytest.raises(InvalidArgument, match=r"Expected one output Tensor\."):
        client.regress("flowers", [ROSE])
    with pytest.raises(InvalidArgument, match="No signature was found with the name: nope"):
        client.classify("flowers", [ROSE], signature="nope")
    with pytest.raises(NotFound, match="Servable not found"):
        client.classify("weeds", [ROSE])
    with pytest.raises(InvalidArgument, match=r"Data types don't match\. Data type: string but expected"):
        client.classify("flowers", [{"length": "long"}])


def test_an_example_without_features_is_one(client: Client) -> None:
    assert client.classify("flowers", [Example()]).labels.tolist() == [["?", "other"]]


def test_golden_requests_to_classify_and_to_regress_are_verified(server: Server) -> None:
    report = verify([server.models / "flowers"], grpc=server.grpc, rest=server.rest)

    assert report.ok, report.sentence()
    assert report.requests == 2
    assert {(row.protocol, row.signature, row.output, row.verdict) for row in report.rows} == {
        (protocol, signature, output, "equal")
        for protocol in ("grpc", "rest")
        for signature, output in (("serving_default", "classes"), ("serving_default", "scores"), ("length", "outputs"))
    }
