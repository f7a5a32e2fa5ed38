"""Brings `reviewed.txt` up to the installed TensorFlow: what is gone is removed, what is new becomes `new`.

Needs TensorFlow: `make generated`. Then review each `new` operation: read its kernel, give it a class of `__init__.py`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from tfserving.foundation.operations import NEW, REVIEWED, reviewed


def registered() -> Mapping[str, Any]:
    """Every operation that TensorFlow registers when it is imported: its OpDef by its name."""
    # The foundation itself does without TensorFlow.
    messages = importlib.import_module("tensorflow.core.framework.op_def_pb2")
    session = importlib.import_module("tensorflow.python.client.pywrap_tf_session")
    listed = messages.OpList.FromString(session.TF_GetBuffer(session.TF_GetAllOpList()))
    return {operation.name: operation for operation in listed.op}


def text(operations: Mapping[str, Any]) -> str:
    """What `reviewed.txt` has to be for `operations`."""
    classes = reviewed()
    return "".join(f"{name} {classes.get(name, NEW)}\n" for name in sorted(operations))


if __name__ == "__main__":
    operations = registered()
    for name in sorted(operations.keys() - reviewed().keys()):
        print(f"{REVIEWED}: to be reviewed:\n{operations[name]}")
    REVIEWED.write_text(text(operations), encoding="ascii")
