"""The queries that stop a canary, by the promtool of the real Prometheus."""

from __future__ import annotations

import json
import re
import subprocess
import textwrap
from pathlib import Path
from typing import Any

from tests.k8s.prometheus import IMAGE
from tfserving.k8s.figures import error_difference, latency_ratio

PAGE = Path(__file__).resolve().parents[2] / "docs/argo_rollouts.md"
ERRORS = error_difference("new", "old", "60")
FAILED, LATENCY = ":tensorflow:serving:request_count", ":tensorflow:serving:request_latency"


def grows(metric: str, pods: str, each: float, model: str = "m", **labels: str) -> dict[str, str]:
    """A counter that grows by so much every 5 s."""
    found = {"rollouts_pod_template_hash": pods, "model_name": model, **labels}
    text = ",".join(f'{name}="{value}"' for name, value in found.items())
    return {"series": f"{metric}{{{text}}}", "values": f"0+{each:g}x12"}


def pods(
    name: str, served: float, failed: float | None = None, ms: float = 2, model: str = "m"
) -> list[dict[str, str]]:
    """The series of a revision's pods, of requests every 5 s. A series of failures begins with the first one."""
    took = served * ms * 1000
    made = [
        grows(f"{LATENCY}_count", name, served, model, API="Predict"),
        grows(f"{LATENCY}_sum", name, took, model, API="Predict"),
        # Reads of a model's status have no API, and would hide failures.
        grows(f"{LATENCY}_count", name, 1000, model),
        grows(FAILED, name, 1000, model, status="OK"),
    ]
    return made + ([grows(FAILED, name, failed, model, status="INTERNAL")] if failed is not None else [])


CASES: list[tuple[str, list[dict[str, str]], float | None]] = [
    (ERRORS, pods("old", 100) + pods("new", 10), 0),
    (ERRORS, pods("old", 100) + pods("new", 9, 1), 0.1),
    (ERRORS, pods("old", 95, 5) + pods("new", 9, 1), 0.05),
    # Old pods without requests, and ones that never got any.
    (ERRORS, pods("old", 0, 0) + pods("new", 9, 1), 0.1),
    (ERRORS, pods("new", 9, 1), 0.1),
    # All fail.
    (ERRORS, [*pods("old", 100), grows(FAILED, "new", 5, status="INTERNAL")], 1),
    # Two failures of three.
    (ERRORS, pods("old", 100) + pods("new", 1 / 12, 2 / 12), 0),
    # One of two models, which gets few of the requests.
    (ERRORS, pods("new", 1000, model="other") + pods("new", 1, 1), 0.5),
    # No figures.
    (ERRORS, pods("old", 100), None),
    (f"{ERRORS} >= 0", pods("old", 100) + pods("new", 0, 0), None),
    (latency_ratio("new", "old", "60", 0), pods("old", 100) + pods("new", 10, ms=3), 1.5),
    (latency_ratio("new", "old", "60", 2), pods("old", 100) + pods("new", 10, ms=3), 0.5),
    (latency_ratio("new", "old", "60", 0), pods("new", 10), None),
]


def promtool(docker_host: str, text: str, *words: str) -> subprocess.CompletedProcess[str]:
    """`promtool WORDS` for a file with this text."""
    command = ["docker", "-H", docker_host, "run", "--rm", "--interactive", "--network=none", "--entrypoint=sh", IMAGE]
    script = f"cat > /tmp/it.yaml && promtool {' '.join(words)} /tmp/it.yaml"
    return subprocess.run([*command, "-c", script], input=text, check=False, capture_output=True, text=True)


def test_the_worst_model_counts_and_few_failures_do_not(docker_host: str) -> None:
    tests = []
    for query, series, value in CASES:
        samples: list[dict[str, Any]] = [] if value is None else [{"value": value}]
        expected = {"expr": f"round({query}, 0.001)", "eval_time": "60s", "exp_samples": samples}
        tests.append({"interval": "5s", "input_series": series, "promql_expr_test": [expected]})
    # JSON is YAML.
    text = json.dumps({"rule_files": [], "tests": tests})
    done = promtool(docker_host, text, "test", "rules")
    assert done.returncode == 0, done.stdout + done.stderr
    # What the page says of a scrape job.
    (said,) = re.findall(r"^```yaml\n(relabel_configs:.*?)^```$", PAGE.read_text(), re.M | re.S)
    scrape = textwrap.indent(said, "    ")
    done = promtool(docker_host, f"scrape_configs:\n  - job_name: servers\n{scrape}", "check", "config")
    assert done.returncode == 0, done.stdout + done.stderr
