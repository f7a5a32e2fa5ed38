"""The reviewed operations, against those of the installed TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tests.clients.conftest import ON_SERVERS
from tfserving.foundation.operations import ALLOWED, NEW, REVIEWED, generate, reviewed
from tfserving.serving.embedded.core.safety import MAY_STAND_UNUSED

# The tests of that group need TensorFlow in this process, too: it is imported once.
pytestmark = ON_SERVERS
# Parts of the names of what may be a file, or somebody else's address.
NAMES = {
    "address",
    "dir",
    "dirs",
    "file",
    "filename",
    "filenames",
    "files",
    "host",
    "logdir",
    "path",
    "paths",
    "pattern",
}
NAMES |= {"server", "source", "stream", "target", "token", "uri", "url", "urls"}
# The reviewed ones: a regular expression, the name of a gradient, and those that `class_of` looks at.
HARMLESS = {
    *(("StaticRegexFullMatch", "pattern"), ("StaticRegexReplace", "pattern"), ("RegexFullMatch", "pattern")),
    *(("RegexReplace", "pattern"), ("PrintV2", "output_stream")),
    *(("DecodeProtoV2", "descriptor_source"), ("EncodeProto", "descriptor_source")),
    *((name, "source") for name in ("TensorArrayGrad", "TensorArrayGradV2", "TensorArrayGradV3")),
    ("TensorArrayGradWithShape", "source"),
}


@pytest.fixture(scope="module")
def registered() -> Mapping[str, Any]:
    return generate.registered()


def test_every_operation_of_tensorflow_is_reviewed(registered: Mapping[str, Any]) -> None:
    new = sorted(name for name in registered if reviewed().get(name, NEW) == NEW)
    assert not new, f"not reviewed: run `make generated`, then give each a class in {REVIEWED}"
    assert not reviewed().keys() - registered.keys(), "gone: run `make generated`"
    assert REVIEWED.read_text(encoding="ascii") == generate.text(registered)


def test_no_allowed_operation_names_a_file(registered: Mapping[str, Any]) -> None:
    from tensorflow.core.framework.types_pb2 import DT_STRING

    texts = {
        (name, argument.name)
        for name, operation in registered.items()
        for argument in (*operation.attr, *operation.input_arg)
        if reviewed()[name] == ALLOWED and argument.type in {"string", "list(string)", DT_STRING}
    }
    assert {(name, text) for name, text in texts if NAMES & set(text.split("_"))} == HARMLESS


def test_what_may_stand_unused_does_nothing_while_a_graph_is_imported(registered: Mapping[str, Any]) -> None:
    # TensorFlow computes constants then: outputs of operations without a state.
    for name, operation in registered.items():
        if reviewed()[name] in MAY_STAND_UNUSED:
            assert operation.is_stateful or not operation.output_arg, name
