"""Marks in manifests that become expressions of Helm's templates.

A mark is a text or number that no manifest contains. A setting of models.yaml is rendered with a mark as its value, so
the mark is found wherever the value goes, also within other texts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO
from typing import Any

import yaml

from tfserving.serving.yaml_text import Dumper, as_yaml

# Letters and digits: a mark is a valid part of every name, and YAML never quotes it.
_MARK = "zq{0}q{1}z"
_ANY = re.compile(r"zq(\d)q(\d+)z")
_SETTING, _PLAIN, _BLOCK = range(3)
_BLOCK_LINE = re.compile(rf"( *)zq{_BLOCK}q(\d+)z:.*")
_STYLE: dict[str, Any] = {
    "width": 1 << 20,
    "allow_unicode": True,
    "sort_keys": False,
    "default_flow_style": False,
}
_FIRST_NUMBER = 918273001


def setting(index: int) -> str:
    """The mark of the setting with this index, as text."""
    return _MARK.format(_SETTING, index)


def number(index: int) -> int:
    """The mark of the setting with this index, as a number."""
    return _FIRST_NUMBER + index


@dataclass(frozen=True)
class Expression:
    """A value that Helm computes: what stands between `{{` and `}}`."""

    text: str


@dataclass(frozen=True)
class Block:
    """Lines of a template among the fields of an object, as the key of one of them.

    In the lines, `@2` is the indentation of the fields plus 2.
    """

    lines: tuple[str, ...]


def merged(value: str) -> Block:
    """The fields of a map in the values."""
    return Block((f"{{{{- with {value} }}}}", "{{- toYaml . | nindent @0 }}", "{{- end }}"))


def whole(field: str, value: str) -> Block:
    """A field with a map or a list of the values."""
    return Block((f"{field}:", f"  {{{{- toYaml {value} | nindent @2 }}}}"))


def optional(field: str, value: str) -> Block:
    """The same; no field when the map or list is empty."""
    return Block((f"{{{{- with {value} }}}}", *whole(field, ".").lines, "{{- end }}"))


class _Marking(Dumper):
    """Writes expressions and blocks as marks, which it lists in `found`."""

    def __init__(self, *words: Any, **options: Any) -> None:
        super().__init__(*words, **options)
        self.found: list[Expression | Block] = []


def _mark(dumper: _Marking, data: Expression | Block) -> yaml.Node:
    dumper.found.append(data)
    kind = _PLAIN if isinstance(data, Expression) else _BLOCK
    return dumper.represent_scalar("tag:yaml.org,2002:str", _MARK.format(kind, len(dumper.found) - 1))


_Marking.add_representer(Expression, _mark)
_Marking.add_representer(Block, _mark)


def dumped(content: Any) -> str:
    """Return `content` as YAML for Helm."""
    return as_yaml(content, width=_STYLE["width"])


def template(content: Any, within: dict[str, str]) -> str:
    """Return the template of an object; `within` are expressions by the texts that they replace within other texts.

    What Helm would take for an expression of its own stays as it is: Prometheus and Grafana use the same braces.
    """
    stream = StringIO()
    dumper = _Marking(stream, **_STYLE)
    dumper.open()
    dumper.represent(content)
    dumper.close()
    lines = stream.getvalue().replace("{{", '{{ "{{" }}').splitlines()
    longest_first = sorted(within, key=len, reverse=True)
    marks = re.compile("|".join([*map(re.escape, longest_first), _ANY.pattern]))
    return "".join(f"{made}\n" for line in lines for made in _lines(line, dumper.found, marks, within))


def _lines(line: str, found: list[Expression | Block], marks: re.Pattern[str], within: dict[str, str]) -> Iterator[str]:
    """Yield the lines of a template for a line with marks."""
    if match := _BLOCK_LINE.fullmatch(line):
        block, indent = found[int(match[2])], len(match[1])
        assert isinstance(block, Block)
        for one in block.lines:
            yield " " * indent + re.sub(r"@(\d)", lambda offset: str(indent + int(offset[1])), one)
        return

    def expression(match: re.Match[str]) -> str:
        if match[0] in within:
            return f"{{{{ {within[match[0]]} }}}}"
        one = found[int(match[2])]
        assert isinstance(one, Expression)
        return f"{{{{ {one.text} }}}}"

    yield marks.sub(expression, line)
