"""Operations whose outputs are not a function of their inputs: they change a variable, or depend on chance.

TensorFlow registers all of these as stateful, and many that change nothing a request could notice, so that attribute
is not enough. `tests/foundation/test_effects.py` has every stateful operation in one of the groups.
"""

from __future__ import annotations

import re
from typing import Any

from tfserving.foundation.operations import LOAD, class_of

# What is left in a variable, a table or a queue, the next request finds there.
_ASSIGNS = re.compile(
    r"Assign(Add|Sub)?(VariableOp)?|AssignVariableXlaConcatND|(Resource)?(Sparse)?Apply[A-Z]\w+"
    r"|(Resource)?Scatter(Nd)?(Add|Div|Max|Min|Mul|Sub|Update)|(Resource)?StridedSliceAssign|(Resource)?CountUpTo"
    r"|SdcaShrinkL1"
)
_STATE = "state"
# Of the class `state`: nothing of these is left when a request has its response.
_OF_ONE_REQUEST = re.compile(r"Batch(Function)?|Unbatch(Grad)?|Stack\w*|\w*SparseToTensorsMap|\w*FromTensorsMap")
_DRAWS = re.compile(
    r"\w+CandidateSampler|Multinomial|NonDeterministicInts|(Parameterized)?TruncatedNormal"
    r"|Random(Crop|Gamma|Poisson(V2)?|Shuffle|StandardNormal|Uniform(Int)?)|Rng(ReadAnd)?Skip"
    r"|SampleDistortedBoundingBox(V2)?|Stateful(RandomBinomial|StandardNormal(V2)?|TruncatedNormal|Uniform(Full)?(Int)?)"
    r"|Skipgram|Timestamp"
)
# Random unless an attribute fixes the seed.
_POOLS = re.compile(r"FractionalAvgPool|FractionalMaxPool")


def leaves_state(node: Any) -> bool:
    """Whether the operation of a NodeDef changes what a later request may find: a variable, a table, a queue."""
    if _ASSIGNS.fullmatch(node.op):
        return True
    kind = class_of(node)
    return kind == LOAD or (kind == _STATE and not _OF_ONE_REQUEST.fullmatch(node.op))


def draws(node: Any) -> bool:
    """Whether the operation of a NodeDef gives other outputs each time: random numbers, or the time."""
    if _POOLS.fullmatch(node.op):
        return not node.attr["deterministic"].b
    return bool(_DRAWS.fullmatch(node.op))
