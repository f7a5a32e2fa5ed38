"""Errors in models.yaml, in plain words: the file, the line, the key, what is there, and what is expected."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel

from tfserving.foundation.command.suggest import did_you_mean
from tfserving.serving.models_yaml.patterns import EXPECTED as PATTERNS

MOST_SHOWN = 20
_LONGEST_SHOWN = 60
# What pydantic expected, by the type of its error: https://docs.pydantic.dev/latest/errors/validation_errors/
_EXPECTED = {
    "model_type": "a mapping of keys to values",
    "dict_type": "a mapping of keys to values",
    "tuple_type": "a list",
    "string_type": "text",
    "string_too_short": "a text that is not empty",
    "string_pattern_mismatch": "{pattern}",
    "path_type": "a path",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "literal_error": "{expected}",
    "too_short": "at least {min_length} {entries}",
}


class FleetError(Exception):
    """models.yaml can't be used; the text names the file, the line and the key."""


def suggested(text: str, word: str, choices: Iterable[str]) -> str:
    """Return `text`, with the choice that `word` may stand for."""
    suggestion = did_you_mean(word, choices)
    return f"{text}.{suggestion}" if suggestion else text


def explain(path: Path, root: yaml.Node | None, problems: Iterable[Any], schema: type[BaseModel]) -> str:
    """Return the errors that pydantic found in the file `path`, a line each; `root` has the lines of its values."""
    found = [problem for problem in problems if not _follows(problem)]
    more = [f"{path}: and {len(found) - MOST_SHOWN} more errors"] if len(found) > MOST_SHOWN else []
    return "\n".join([*(_explain(path, root, problem, schema) for problem in found[:MOST_SHOWN]), *more])


def _follows(problem: Mapping[str, Any]) -> bool:
    """Return whether a list is too short only because its entries have errors of their own."""
    return bool(problem["type"] == "too_short" and problem["input"])


def _explain(path: Path, root: yaml.Node | None, problem: Mapping[str, Any], schema: type[BaseModel]) -> str:
    location = [part for part in problem["loc"] if part != "[key]"]
    line, node = _look_up(root, location)
    where = ".".join(map(str, location)) or "the file"
    return f"{path}:{line}: {where}: {_text(problem, node, location, schema)}"


def _text(problem: Mapping[str, Any], node: yaml.Node | None, location: list[Any], schema: type[BaseModel]) -> str:
    kind, context = problem["type"], problem.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    if kind == "missing":
        return "this key is missing"
    if kind == "extra_forbidden":
        return suggested("unknown key", str(location[-1]), _keys(schema, location))
    if "pattern" in context and problem["loc"][-1:] == ("[key]",):
        return f"the key is {location[-1]!r}, expected {PATTERNS[context['pattern']]}"
    if kind == "invalid_key" or problem["loc"][-1:] == ("[key]",):
        return f"the key {location[-1]!r} is not text. Put it in quotes"
    context = {**context, "entries": "entry" if context.get("min_length") == 1 else "entries"}
    if "pattern" in context:
        context["pattern"] = PATTERNS[context["pattern"]]
    text = f"got {shown(problem['input'], node)}, expected {_EXPECTED[kind].format_map(context)}"
    if kind == "literal_error":
        return suggested(text, str(problem["input"]), re.findall(r"'([^']*)'", context["expected"]))
    return text


def shown(value: object, node: yaml.Node | None = None) -> str:
    """Return a value for an error, as the file has it."""
    if isinstance(value, Mapping):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, list | tuple):
        return "a list" if value else "an empty list"
    if value is None:
        return "no value"
    # `yes` is true, and 0x10 is 16.
    written = node.value if isinstance(node, yaml.ScalarNode) else str(value)
    text = repr(value) if isinstance(value, str) else written
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"


def _look_up(root: yaml.Node | None, location: Iterable[Any]) -> tuple[int, yaml.Node | None]:
    """Return the line of the deepest part of `location` that the file has, and the node there."""
    node, line = root, 1
    for part in location:
        found = next((pair for pair in _entries(node) if pair[0] == str(part)), None)
        if found is None:
            return line, None
        _, line, node = found
    return line, node


def _entries(node: yaml.Node | None) -> Iterator[tuple[str, int, yaml.Node]]:
    """Yield the key or the number, the line and the value of what a node contains."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield str(key.value), key.start_mark.line + 1, value
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            yield str(number), value.start_mark.line + 1, value


def _keys(schema: type[BaseModel], location: list[Any]) -> list[str]:
    """Return the keys that the mapping around the last part of `location` may have."""
    parts = iter(location[:-1])
    for part in parts:
        field = schema.model_fields.get(part)
        if field is None or (inner := _settings(field.annotation)) is None:
            return []
        if _has(field.annotation, dict) or _has(field.annotation, tuple):
            # The name of a model or metric, or the number of an entry.
            next(parts, None)
        schema = inner
    return list(schema.model_fields)


def _settings(annotation: Any) -> type[BaseModel] | None:
    """Return the class of settings that an annotation contains; None when it contains none."""
    if isinstance(annotation, type) and get_origin(annotation) is None and issubclass(annotation, BaseModel):
        return annotation
    found = (_settings(part) for part in get_args(annotation))
    return next((one for one in found if one is not None), None)


def _has(annotation: Any, kind: type) -> bool:
    return get_origin(annotation) is kind or any(_has(part, kind) for part in get_args(annotation))
