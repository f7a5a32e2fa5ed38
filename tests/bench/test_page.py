"""docs/performance.md shows the figures that docs/performance.json has."""

from __future__ import annotations

import copy
import json

import pytest

from tests.bench.measured import Measured
from tests.bench.page import DOCS, TABLES, with_tables

PAGE = (DOCS / "performance.md").read_text()
FIGURES = json.loads((DOCS / "performance.json").read_text())


def test_the_pages_tables_are_those_of_the_figures() -> None:
    assert with_tables(PAGE, Measured(FIGURES)) == PAGE


def test_a_table_has_the_median_of_the_rounds() -> None:
    changed = copy.deepcopy(FIGURES)
    changed["rest"]["results"]["8"]["fastapi"]["rate"] = [700.0, 65_432.0, 90_000.0]

    (row,) = (line for line in with_tables(PAGE, Measured(changed)).splitlines() if "| FastAPI | 8 |" in line)
    assert row.startswith("| FastAPI | 8 | 65,432 |")


def test_tensorflow_serving_is_marked_when_another_machine_measured_it() -> None:
    here, elsewhere = copy.deepcopy(FIGURES), copy.deepcopy(FIGURES)
    for job in ("grpc", "rest"):
        for servers in here[job]["results"].values():
            servers["tensorflow_serving"] = servers["naive"]
        for servers in elsewhere[job]["results"].values():
            servers.pop("tensorflow_serving", None)

    assert "(measured elsewhere)" not in with_tables(PAGE, Measured(here))
    assert "gRPC, TensorFlow Serving 2.20 (measured elsewhere) | 6,060" in with_tables(PAGE, Measured(elsewhere))


def test_a_page_without_the_place_for_a_table_is_refused() -> None:
    place = f"<!-- {next(iter(TABLES))}:"

    with pytest.raises(ValueError, match=f"has to begin with {place}"):
        with_tables(PAGE.replace(place, "<!--"), Measured(FIGURES))
