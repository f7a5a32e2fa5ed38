"""What each operation of TensorFlow does to the process that runs it, as reviewed in `reviewed.txt`.

The file has every operation that TensorFlow registers, one a line, with its class. `make generated` adds those of a new
TensorFlow as `new`, which is served no more than an operation that isn't in the file, until somebody has reviewed it.
An operation is reviewed by its kernel, not by whether it is stateful: `ReadFile` is stateless.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

REVIEWED = Path(__file__).with_name("reviewed.txt")

# It computes its outputs, and touches nothing but the variables, tables and generators of its own graph.
ALLOWED = "allowed"
# It has not been reviewed yet.
NEW = "new"
PYTHON = "python"
FILES = "files"
# A table's vocabulary, read when the version is loaded.
TABLE = "table"
# Reads, and writes, the variables' checkpoint.
RESTORE = "restore"
SAVE = "save"
# Changes a table as a whole or entry by entry, as loading does.
LOAD = "load"
# Frees a resource: TensorFlow calls it when a model in Python goes away.
UNLOAD = "unload"

_FILES = "reads or writes files of this server"
# What an operation of each class but `allowed` does, for errors.
DOES: Mapping[str, str] = {
    "compiled": "runs compiled code in this server",
    "datasets": "runs a tf.data pipeline in this server",
    "debug": "is made for debugging or for TensorFlow's own tests",
    "ends": "ends this server",
    FILES: _FILES,
    "hardware": "needs hardware that this server does not use",
    "internal": "is internal to TensorFlow",
    LOAD: "changes a table of the model, which only loading may do",
    "network": "exchanges data with other processes or devices",
    NEW: "is not known to be safe",
    PYTHON: "calls Python in this server",
    RESTORE: _FILES,
    SAVE: _FILES,
    "state": "keeps what requests leave in it, or waits for other requests",
    TABLE: _FILES,
    UNLOAD: "frees a table or a variable of the model",
}
# Operations that are allowed when an attribute has no value but these.
_ATTRIBUTES: Mapping[str, tuple[str, re.Pattern[bytes]]] = {
    # Else it names a file.
    "PrintV2": ("output_stream", re.compile(rb"stderr|stdout|log\((info|warning|error)\)")),
    "DecodeProtoV2": ("descriptor_source", re.compile(rb"(local://)?|bytes://.*", re.DOTALL)),
    "EncodeProto": ("descriptor_source", re.compile(rb"(local://)?|bytes://.*", re.DOTALL)),
}


@lru_cache
def reviewed() -> Mapping[str, str]:
    """The class of every operation in `reviewed.txt`."""
    return dict(line.split() for line in REVIEWED.read_text(encoding="ascii").splitlines())


def class_of(node: Any) -> str:
    """The class of the operation of a NodeDef: a key of DOES, or ALLOWED."""
    found = reviewed().get(node.op, NEW)
    if node.op in _ATTRIBUTES:
        name, harmless = _ATTRIBUTES[node.op]
        # A value of another kind is a placeholder, which the function's caller fills.
        value = node.attr.get(name)
        if value is not None and not (value.WhichOneof("value") == "s" and harmless.fullmatch(value.s)):
            return FILES
    return found
