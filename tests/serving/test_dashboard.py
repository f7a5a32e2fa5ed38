"""The dashboard: Grafana's own schema, and metrics that a real TensorFlow Serving has."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tfserving.clients.metrics import INFERENCE
from tfserving.serving.compose.services import DASHBOARD
from tfserving.serving.health import MEMORY_METRIC

ROOT = Path(__file__).resolve().parents[2]
SAID = json.loads(DASHBOARD.read_text())
METRIC = re.compile(r":[a-z0-9_:]+")
# Labels that Prometheus adds to what it reads.
OF_PROMETHEUS = {"namespace", "job"}
# What PromQL adds to a histogram's name.
PARTS = re.compile(r"_(bucket|count|sum)$")


def recorded() -> dict[str, tuple[str, set[str]]]:
    """The metrics page of a real TensorFlow Serving: by name the type and the labels."""
    for line in (ROOT / "tests/conformance/public/prometheus.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record.get("id") == "prometheus-metrics-page-0001":
            found = {}
            for name, kind, labels in (row.split(" ") for row in record["response"]["body"].splitlines()):
                found[name] = (kind, set(filter(None, labels.strip("{}").split(","))))
            return found
    raise AssertionError("the page isn't there")


def expressions() -> Iterator[tuple[str, str]]:
    for panel in SAID["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


def within(part: Any, whole: Any, where: str = "") -> Iterator[str]:
    """Where `part` says something that `whole` doesn't."""
    if isinstance(part, dict) and isinstance(whole, dict):
        for key, value in part.items():
            if key not in whole:
                yield f"{where}.{key}"
            else:
                yield from within(value, whole[key], f"{where}.{key}")
    elif isinstance(part, list) and isinstance(whole, list) and len(part) == len(whole):
        for number, (one, other) in enumerate(zip(part, whole, strict=True)):
            yield from within(one, other, f"{where}[{number}]")
    elif part != whole:
        yield where


def test_every_metric_and_label_is_one_of_a_real_page() -> None:
    page = recorded()
    asked = set()
    for title, expression in expressions():
        for name in METRIC.findall(expression):
            histogram = PARTS.sub("", name)
            metric = name if name in page else histogram
            assert metric in page, f"{title}: {name}"
            assert (metric == name) == (page[metric][0] != "histogram"), f"{title}: {name} is a {page[metric][0]}"
            asked.add(metric)
            for selected in re.findall(re.escape(name) + r"\{([^}]*)\}", expression):
                labels = set(re.findall(r"(\w+)(?:=|!)", selected))
                assert labels <= page[metric][1] | OF_PROMETHEUS, f"{title}: {labels} of {name}"
    assert len(asked) == 8


@pytest.mark.parametrize(
    ("what", "metric"),
    [
        ("requests", ":tensorflow:serving:request_latency_count{"),
        ("errors", 'status!="OK"'),
        ("latency percentiles by model", "histogram_quantile(0.99, sum by (model_name, le)"),
        ("batching", ":tensorflow:serving:batching_session:queuing_latency_bucket"),
        ("versions", ":tensorflow:cc:saved_model:load_attempt_count"),
        ("memory", MEMORY_METRIC),
    ],
)
def test_it_shows(what: str, metric: str) -> None:
    assert any(metric in expression for _, expression in expressions()), what


def test_status_and_metadata_are_no_requests() -> None:
    """TensorFlow Serving counts those that are read over REST: as OK, and with the latency of no API."""
    inference = f'API=~"(?i)({"|".join(INFERENCE)})"'
    for _, expression in expressions():
        for name, selected in re.findall(
            r":tensorflow:serving:(request_count|request_latency\w*)\{([^}]*)\}", expression
        ):
            assert ('status!="OK"' if name == "request_count" else inference) in selected, expression


def test_panels_lie_beside_one_another() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in SAID["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
        assert panel["description"], panel["title"]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Grafana's SDK needs Python 3.11")
def test_it_is_what_grafanas_own_schema_knows() -> None:
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.models import dashboard, table, timeseries

    def encoded(model: Any, said: Any) -> Any:
        return json.loads(JSONEncoder().encode(model.from_json(said)))

    assert list(within(SAID, encoded(dashboard.Dashboard, SAID))) == []
    for panel in SAID["panels"]:
        kind = {"timeseries": timeseries, "table": table}[panel["type"]]
        assert list(within(panel["options"], encoded(kind.Options, panel["options"]))) == [], panel["title"]
        if custom := panel["fieldConfig"]["defaults"].get("custom"):
            assert list(within(custom, encoded(kind.FieldConfig, custom))) == [], panel["title"]
