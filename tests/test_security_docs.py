"""The limits of docs/security.md are those of the code."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any, get_args, get_type_hints

from tfserving.clients.limits import MAX_RESPONSE_BYTES
from tfserving.serving.embedded.flags import Flags

PAGE = (Path(__file__).parents[1] / "docs/security.md").read_text()
LISTED = dict(re.findall(r"^\|[^|]*\| `--([a-z_]+)=([^`]*)`", PAGE, re.MULTILINE))


def written(value: Any) -> str:
    """A default as the page has it."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def test_every_listed_flag_has_the_listed_default() -> None:
    assert len(LISTED) > 20
    assert {name: written(getattr(Flags(), name)) for name in LISTED} == LISTED


def test_every_flag_that_limits_something_is_listed() -> None:
    kinds = get_type_hints(Flags, include_extras=True)
    limiting = {
        field.name
        for field in dataclasses.fields(Flags)
        if re.search("no limit|as long as it takes", get_args(kinds[field.name])[-1])
    }
    assert limiting - LISTED.keys() == set()


def test_the_clients_limit_is_the_listed_one() -> None:
    assert f"{MAX_RESPONSE_BYTES // 2**20} MiB" in PAGE
