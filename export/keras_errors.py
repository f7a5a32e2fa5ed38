"""Shortens Keras's errors about files to one line, with what to change.

Keras shows the whole configuration of every object around the one that fails, and the reason last.
"""

from __future__ import annotations

import re
from collections.abc import Callable

# The text that Keras writes before the error of each nested object, and after the last one.
NESTED = "Exception encountered: "
ADVICE = re.compile(r"\s*(Make sure custom classes|Please ensure you are using|Full object config: ).*", re.DOTALL)
LONGEST = 300
# The arguments of every layer (keras/src/layers/layer.py, Layer.__init__).
LAYER_ARGUMENTS = ("name", "trainable", "dtype", "autocast", "activity_regularizer")


def why(text: str) -> tuple[str, str]:
    """Return the part of a Keras error about the innermost object, without its configuration, and what to change.

    The second is '' when it is unknown.
    """
    last = ADVICE.sub("", text.rpartition(NESTED)[2]).strip()
    lines = [line.strip() for line in last.splitlines() if line.strip()]
    reason = " ".join(lines[:2]) if lines and lines[0].endswith(":") else "".join(lines[:1])
    hint = next((hint(match) for pattern, hint in HINTS if (match := pattern.search(reason))), "")
    return (reason if len(reason) <= LONGEST else f"{reason[:LONGEST]}…"), hint


def _unexpected(match: re.Match[str]) -> str:
    name, argument = match.groups()
    if argument in LAYER_ARGUMENTS:
        return f"{name}.__init__ must take **kwargs and pass them to super().__init__(**kwargs)"
    return f"get_config of {name} returns {argument!r}, which its __init__ does not accept"


def _unregistered(match: re.Match[str]) -> str:
    name = match[1].rpartition(">")[2]
    if _is_keras(name):
        return ""
    return (
        f"decorate {name} with @keras.saving.register_keras_serializable() and import its module before the file is "
        f"loaded; or pass custom_objects={{{match[1]!r}: {name}}}; or, for a loss or a metric, compile=False"
    )


def _unrecognized(match: re.Match[str]) -> str:
    name, arguments = match.groups()
    if _is_keras(name):
        return f"another version of Keras has a {name} that accepts them; load the file with that version"
    return f"get_config of {name} returns arguments that its __init__ does not accept: {arguments}"


def _is_keras(name: str) -> bool:
    """Return whether `name` is a class of Keras."""
    import keras

    return name == "Functional" or hasattr(keras.layers, name) or hasattr(keras, name)


HINTS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'"), _unexpected),
    (re.compile(r"Unrecognized keyword arguments passed to (\w+): (.+)"), _unrecognized),
    (re.compile(r"Could not locate (?:class|function) '([^']+)'"), _unregistered),
    (re.compile(r"Unknown [\w ]+: '([^']+)'"), _unregistered),
    (
        re.compile(r"(\w+)\.__init__\(\) missing \d+ required (?:positional|keyword-only) arguments?: (.+)"),
        lambda match: f"get_config of {match[1]} must also return {match[2]}",
    ),
    (
        re.compile(r"safe_mode=False"),
        lambda _: (
            "a Lambda layer is Python code in the file. If you trust the file, load_keras(path, safe_mode=False) runs "
            "it. A registered layer of your own does not need this."
        ),
    ),
    (
        re.compile(r"objects? could not be loaded"),
        lambda _: (
            "the model's layers differ from those in the file, or were built differently. A layer must create its "
            "variables in __init__ or build(), in the same order"
        ),
    ),
    (
        re.compile(r"SavedModel format is not supported"),
        lambda _: (
            "use `saved_model:` in models.yaml to serve a SavedModel as it is, load_existing(path) to call its "
            "functions, or --from-checkpoint to restore a checkpoint"
        ),
    ),
    (
        re.compile(r"File format not supported"),
        lambda _: "restore a checkpoint of TensorFlow with the option --from-checkpoint, not in the builder",
    ),
    (
        re.compile(r"No model config found"),
        lambda _: (
            "the file has weights but no model: make the model in the builder, then call model.load_weights(path)"
        ),
    ),
    (
        re.compile(r"no item named|Expected a model\.weights|truncated file|: line \d+ column \d+|Bad (?:CRC|magic)"),
        lambda _: "the file is damaged or incomplete; write it again with model.save('name.keras')",
    ),
)
