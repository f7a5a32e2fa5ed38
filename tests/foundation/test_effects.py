"""Operations that change something, or depend on chance, against those of the installed TensorFlow."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.clients.conftest import ON_SERVERS
from tfserving.foundation.messages import SavedModel
from tfserving.foundation.operations import ALLOWED, class_of, generate
from tfserving.foundation.operations.effects import draws, leaves_state

# The tests of that group need TensorFlow in this process, too: it is imported once.
pytestmark = ON_SERVERS
# Stateful, and yet the same request finds the same: what makes or reads a resource, calls a function, or belongs to one
# run alone (https://github.com/tensorflow/tensorflow/blob/v2.21.0/tensorflow/core/ops/data_flow_ops.cc).
HARMLESS = re.compile(
    r"TensorArray\w*|Ref(Enter|Exit|Identity|Merge|NextIteration|Select|Switch)|DebugGradientRefIdentity|DeepCopy"
    r"|(Anonymous)?Mutable(Dense)?HashTable(OfTensors)?(V2)?|(Anonymous)?HashTable(V2)?|LookupTable(Export|Find|Size)(V2)?"
    r"|(Read)?Variable(Op|Shape|V2|XlaSplitND)?|VarHandleOp|VarIsInitializedOp|IsVariableInitialized|DisableCopyOnRead"
    r"|(Destroy)?TemporaryVariable|ResourceGather(Nd)?|GuaranteeConst|StatefulPartitionedCall|If|Case|While|Xla(If|While)"
    r"|Assert|Print(V2)?|CheckNumerics(V2)?|DeviceIndex|StatelessRandomGetAlg|XlaDequantize|CudnnRNN\w*"
    r"|(Is)?BoostedTrees\w+"
)


def node(op: str, **attributes: bool) -> Any:
    made = SavedModel().meta_graphs.add().graph_def.node.add(op=op)
    for name, value in attributes.items():
        made.attr[name].b = value
    return made


def test_every_stateful_operation_is_in_one_group() -> None:
    sizes = {"state": 0, "random": 0, "harmless": 0}
    for name, operation in generate.registered().items():
        stateful = operation.is_stateful or any(argument.is_ref for argument in operation.input_arg)
        if not stateful or class_of(node(name)) != ALLOWED:
            continue
        found = {"state": leaves_state(node(name)), "random": draws(node(name)), "harmless": HARMLESS.fullmatch(name)}
        assert sum(map(bool, found.values())) == 1, (name, found)
        sizes[next(group for group, there in found.items() if there)] += 1
    assert min(sizes.values()) > 20


@pytest.mark.parametrize("op", ["LookupTableInsertV2", "LookupTableImportV2", "QueueEnqueueV2", "MutexLock", "Stage"])
def test_tables_and_queues_that_change_are_state(op: str) -> None:
    assert leaves_state(node(op))


@pytest.mark.parametrize("op", ["ScatterNd", "TensorScatterUpdate", "StackPushV2", "BatchFunction", "ReadVariableOp"])
def test_what_is_over_with_the_request_is_no_state(op: str) -> None:
    assert not leaves_state(node(op))


def test_pooling_of_random_regions_is_random_unless_it_is_told_not_to_be() -> None:
    assert draws(node("FractionalMaxPool"))
    assert not draws(node("FractionalMaxPool", deterministic=True))


@pytest.mark.parametrize("op", ["StatelessRandomUniformV2", "StatelessMultinomial", "RandomGammaGrad", "SobolSample"])
def test_what_takes_its_seed_as_an_input_is_not_random(op: str) -> None:
    assert not draws(node(op))
