"""Why Keras can't load a file, in one line, and what to change.

Keras shows the whole configuration of each object around the one that is the reason, and the reason last.
"""

from __future__ import annotations

import re
from collections.abc import Callable

# What Keras writes before the error of each object around an object that can't be made, and after the last one.
NESTED = "Exception encountered: "
ADVICE = re.compile(r"\s*(Make sure custom classes|Please ensure you are using|Full object config: ).*", re.DOTALL)
LONGEST = 300
# What every layer takes (keras/src/layers/layer.py, Layer.__init__).
LAYER_ARGUMENTS = ("name", "trainable", "dtype", "autocast", "activity_regularizer")


def why(text: str) -> tuple[str, str]:
    """What an error of Keras says about the innermost object, without its configuration, and what to change.

    The second is empty when that is not known.
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
    return f"get_config of {name} returns {argument!r}, which its __init__ does not take"


def _unregistered(match: re.Match[str]) -> str:
    name = match[1].rpartition(">")[2]
    if _is_keras(name):
        return ""
    return (
        f"{name} needs @keras.saving.register_keras_serializable(), and its module imported before the file is loaded; "
        f"or custom_objects={{{match[1]!r}: {name}}}; or, for a loss or a metric, compile=False"
    )


def _unrecognized(match: re.Match[str]) -> str:
    name, arguments = match.groups()
    if _is_keras(name):
        return f"another version of Keras has a {name} that takes them; load the file with that version"
    return f"get_config of {name} returns them, and its __init__ does not take them: {arguments}"


def _is_keras(name: str) -> bool:
    """Whether the class `name` is one of Keras's."""
    import keras

    return name == "Functional" or hasattr(keras.layers, name) or hasattr(keras, name)


HINTS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'"), _unexpected),
    (re.compile(r"Unrecognized keyword arguments passed to (\w+): (.+)"), _unrecognized),
    (re.compile(r"Could not locate (?:class|function) '([^']+)'"), _unregistered),
    (re.compile(r"Unknown [\w ]+: '([^']+)'"), _unregistered),
    (
        re.compile(r"(\w+)\.__init__\(\) missing \d+ required (?:positional|keyword-only) arguments?: (.+)"),
        lambda match: f"get_config of {match[1]} must return {match[2]}, too",
    ),
    (
        re.compile(r"safe_mode=False"),
        lambda _: (
            "a Lambda layer is Python code in the file: load_keras(path, safe_mode=False) runs it; do that only with a "
            "file that you trust; a registered layer of your own needs no such trust"
        ),
    ),
    (
        re.compile(r"objects? could not be loaded"),
        lambda _: (
            "the model's layers are not those of the file, or not built as they were; a layer makes its variables in "
            "__init__ or build(), in the same order"
        ),
    ),
    (
        re.compile(r"SavedModel format is not supported"),
        lambda _: (
            "`saved_model:` in models.yaml serves a SavedModel as it is, load_existing(path) gives its functions; "
            "--from-checkpoint restores a checkpoint"
        ),
    ),
    (
        re.compile(r"File format not supported"),
        lambda _: "a checkpoint of TensorFlow is restored by the command, --from-checkpoint, not in the builder",
    ),
    (
        re.compile(r"No model config found"),
        lambda _: "the file has weights, no model: make the model in the builder, then model.load_weights(path)",
    ),
    (
        re.compile(r"no item named|Expected a model\.weights|truncated file|: line \d+ column \d+|Bad (?:CRC|magic)"),
        lambda _: "the file is damaged or incomplete; write it again with model.save('name.keras')",
    ),
)
