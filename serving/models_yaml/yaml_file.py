"""Reading a YAML file that may be anything: large, nested, no YAML at all."""

from __future__ import annotations

from pathlib import Path

import yaml
from yaml.composer import ComposerError

from tfserving.foundation.command.hints import typed
from tfserving.foundation.command.project import FLEET_FILE, FLEET_VARIABLE
from tfserving.foundation.files import read_text
from tfserving.serving.models_yaml.errors import FleetError

# Enough for a fleet of thousands of models.
LARGEST_BYTES, MOST_VALUES = 1 << 20, 100_000
_LONGEST_VALUE = 10_000


def parsed(path: Path) -> tuple[yaml.Node | None, object]:
    """Return the YAML of a file, as nodes, which have their lines, and as values. Raises FleetError."""
    try:
        text = read_text(path, LARGEST_BYTES)
    except FileNotFoundError:
        raise FleetError(_missing(path)) from None
    except OSError as error:
        raise FleetError(f"{path}: {error.strerror}. Use --fleet FILE to name another file") from None
    except ValueError as error:
        raise FleetError(f"{path}: {error}. Use --fleet FILE to name another file") from None
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is not None and _size(root, {}) > MOST_VALUES:
            raise FleetError(f"{path}: more than {MOST_VALUES} values, where a value counts again for each alias of it")
        _refuse_duplicates(path, root)
        # `yaml.safe_load` does this with the nodes. The time is linear in the size of the file.
        return root, None if root is None else yaml.SafeLoader("").construct_document(root)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise FleetError(f"{path}:{line}: not valid YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise FleetError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise FleetError(f"{path}: nested too deeply") from None
    except ValueError as error:
        # A number of thousands of digits, or a date such as 2026-02-30.
        raise FleetError(f"{path}: a value can't be read: {error}") from None


def _missing(path: Path) -> str:
    """Return where models.yaml was searched, and how to create one or name another."""
    if str(path) != FLEET_FILE:
        return f"there is no file {path}. Name a models.yaml with --fleet or {FLEET_VARIABLE}"
    return (
        f"there is no {path} in {path.absolute().parent} or the folders above it. `{typed('init')}` creates a project, "
        "and --fleet FILE names a file elsewhere"
    )


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """Return how many values a node has, where the values of an alias count each time; `known` is by node."""
    if (found := known.get(id(node))) is not None:
        return found
    if isinstance(node, yaml.ScalarNode) and len(node.value) > _LONGEST_VALUE:
        raise ComposerError(None, None, f"a value has more than {_LONGEST_VALUE} characters", node.start_mark)
    # A node that contains itself is infinitely large.
    known[id(node)] = MOST_VALUES + 1
    parts = node.value if isinstance(node, yaml.CollectionNode) else []
    inside = [one for pair in parts for one in pair] if isinstance(node, yaml.MappingNode) else parts
    known[id(node)] = 1 + sum(_size(one, known) for one in inside)
    return known[id(node)]


def _refuse_duplicates(path: Path, node: yaml.Node | None, where: str = "") -> None:
    """Raise FleetError for a key that appears twice, which YAML allows and nobody means."""
    if not isinstance(node, yaml.MappingNode):
        return
    seen: set[str] = set()
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise FleetError(f"{path}:{key.start_mark.line + 1}: {where or 'the file'}: a key is a list or a mapping")
        here = f"{where}.{key.value}" if where else str(key.value)
        if key.value in seen:
            raise FleetError(f"{path}:{key.start_mark.line + 1}: {here}: this key appears twice")
        seen.add(key.value)
        _refuse_duplicates(path, value, here)
