"""YAML that the parsers of Docker Compose, Kubernetes, Helm and Envoy read as the same values.

They follow YAML 1.1 or 1.2 more closely than PyYAML, which writes `12e4`, `09` and `y` without quotes: to them these
are numbers and a boolean. So every text that begins as a number does is quoted.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

_AMBIGUOUS = re.compile(r"[yYnN~]|[-+]?\.?\d.*")
# PyYAML escapes them in double quotes only, and a parser joins lines there.
_BREAK = re.compile("[\r\x85\u2028\u2029]")


class Dumper(yaml.SafeDumper):
    """Writes YAML that all these parsers read as the same values."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - as PyYAML calls it
        """Write each object where it stands."""
        return True


def _text(dumper: Dumper, data: str) -> yaml.Node:
    style = '"' if _BREAK.search(data) else "|" if "\n" in data else "'" if _AMBIGUOUS.fullmatch(data) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", data, style=style)


Dumper.add_representer(str, _text)


def as_yaml(*documents: Any, width: int = 120) -> str:
    """Return one or more documents as YAML."""
    options: dict[str, Any] = {"sort_keys": False, "default_flow_style": False, "allow_unicode": True, "width": width}
    return str(yaml.dump_all(documents, Dumper=Dumper, **options))
