"""The alerts, by the real promtool: each fires for what it is about, and for nothing else."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.docker.engine import WATCHER
from tests.serving.fleets import GOOD, fleet
from tfserving.k8s import alerts

ROOT = Path(__file__).resolve().parents[2]
SERVER = 'namespace="prod", job="serving", pod="serving-1"'
OTHERS = 'namespace="test", job="serving", pod="serving-1"'
COUNT, LATENCY = ":tensorflow:serving:request_count", ":tensorflow:serving:request_latency"
LOADS = ":tensorflow:cc:saved_model:load_attempt_count"
READY, WANTED = "kube_deployment_status_replicas_ready", "kube_deployment_spec_replicas"
RESTARTS = "kube_pod_container_status_restarts_total"
SCALED = "kube_horizontalpodautoscaler_status_current_replicas"
MOST = "kube_horizontalpodautoscaler_spec_max_replicas"
DEPLOYMENT, SCALER = 'namespace="prod", deployment="serving"', 'namespace="prod", horizontalpodautoscaler="serving"'
ROLLOUT = 'namespace="prod", name="serving"'
POD = 'namespace="prod", pod="serving-1", container="server"'
MODEL = f'{SERVER}, model_name="digits"'
PREDICT = f'{MODEL}, API="predict"'
UP = {f"up{{{SERVER}}}": "1x60"}

# Series of an hour, one value a minute, that the alert is about, and such that it isn't about.
FIRING: dict[str, list[dict[str, str]]] = {
    "TensorFlowServingDown": [{f"up{{{SERVER}}}": "1x30 0x30"}, {f"up{{{OTHERS}}}": "1x60"}],
    "TensorFlowServingErrors": [
        {f'{COUNT}{{{MODEL}, status="INTERNAL"}}': "0+2x60", f"{LATENCY}_count{{{PREDICT}}}": "0+98x60"}
    ],
    "TensorFlowServingSlow": [
        {
            f'{LATENCY}_bucket{{{PREDICT}, le="100000"}}': "0+98x60",
            f'{LATENCY}_bucket{{{PREDICT}, le="10000000"}}': "0+100x60",
            f'{LATENCY}_bucket{{{PREDICT}, le="+Inf"}}': "0+100x60",
        }
    ],
    "TensorFlowServingPodsNotReady": [{f"{READY}{{{DEPLOYMENT}}}": "1x60", f"{WANTED}{{{DEPLOYMENT}}}": "2x60"}],
    "TensorFlowServingRestarts": [{f"{RESTARTS}{{{POD}}}": "0x50 1x10"}],
    # The series begins with the first failure.
    "TensorFlowServingLoadFailures": [
        {f'{LOADS}{{{SERVER}, model_path="/models/digits/2", status="fail"}}': "_x55 1x5"},
        {f'{LOADS}{{{SERVER}, model_path="/models/digits/2", status="fail"}}': "1x55 2x5"},
    ],
    "TensorFlowServingAtMaximum": [{f"{SCALED}{{{SCALER}}}": "10x60", f"{MOST}{{{SCALER}}}": "10x60"}],
}
QUIET: list[dict[str, str]] = [
    {f'{COUNT}{{{MODEL}, status="INTERNAL"}}': "0+2x60", f"{LATENCY}_count{{{PREDICT}}}": "0+998x60"},
    # Another fleet's.
    {
        f'{COUNT}{{{OTHERS}, model_name="digits", status="INTERNAL"}}': "0+2x60",
        f'{LATENCY}_count{{{OTHERS}, model_name="digits", API="predict"}}': "0+2x60",
    },
    {
        f'{LATENCY}_bucket{{{PREDICT}, le="100000"}}': "0+100x60",
        f'{LATENCY}_bucket{{{PREDICT}, le="10000000"}}': "0+100x60",
        f'{LATENCY}_bucket{{{PREDICT}, le="+Inf"}}': "0+100x60",
    },
    {f"{READY}{{{DEPLOYMENT}}}": "1x50 2x10", f"{WANTED}{{{DEPLOYMENT}}}": "2x60"},
    # A rolling update takes less than the alert waits.
    {f"{READY}{{{DEPLOYMENT}}}": "2x50 1x10", f"{WANTED}{{{DEPLOYMENT}}}": "2x60"},
    {f"{RESTARTS}{{{POD}}}": "3x60"},
    {f'{RESTARTS}{{namespace="prod", pod="fraud-serving-1", container="server"}}': "0x50 1x10"},
    # It failed long ago.
    {f'{LOADS}{{{SERVER}, model_path="/models/digits/2", status="fail"}}': "1x60"},
    {f'{LOADS}{{{SERVER}, model_path="/models/digits/2", status="success"}}': "1x55 2x5"},
    {f"{SCALED}{{{SCALER}}}": "9x60", f"{MOST}{{{SCALER}}}": "10x60"},
]


def promtool(host: str, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The promtool of the image that stands for the one that Compose runs."""
    mounted = ["--volume", f"{folder}:/alerts:ro", "--network", "none", "--entrypoint", "promtool"]
    command = ["docker", "--host", host, "run", "--rm", *mounted, WATCHER, *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def expected(name: str, series: dict[str, str]) -> dict[str, Any]:
    """A test of promtool: at the end of the hour this alert fires alone; with no name, none does."""
    given = series if name == "TensorFlowServingDown" else {**UP, **series}
    firing = 'ALERTS{alertstate="firing"}'
    return {
        "interval": "1m",
        "name": f"{name} {list(series)}",
        "input_series": [{"series": one, "values": values} for one, values in given.items()],
        "promql_expr_test": [
            {
                "expr": f"count by (alertname) ({firing})",
                "eval_time": "60m",
                "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1}] if name else [],
            }
        ],
    }


def test_each_alert_fires_for_what_it_is_about(docker_host: str, tmp_path: Path) -> None:
    read = fleet(tmp_path, f"{GOOD}kubernetes: {{namespace: prod}}\n")
    made = alerts.alerts(read)
    assert [one.name for one in made] == sorted(FIRING, key=[one.name for one in made].index)
    folder = tmp_path / "alerts"
    folder.mkdir()
    with_argo = fleet(tmp_path, f"{GOOD}kubernetes: {{namespace: prod, components: [volume, argo-rollouts]}}\n")
    available = {f"rollout_info_replicas_available{{{ROLLOUT}}}": "1x60"}
    argo = [
        expected("TensorFlowServingPodsNotReady", {**available, f"rollout_info_replicas_desired{{{ROLLOUT}}}": "2x60"}),
        expected("", {**available, f"rollout_info_replicas_desired{{{ROLLOUT}}}": "1x60"}),
    ]
    tests = [
        *(expected(name, series) for name, several in FIRING.items() for series in several),
        *(expected("", series) for series in QUIET),
    ]
    for name, of, several in (("usual", read, tests), ("argo", with_argo, argo)):
        rules = {"groups": [{"name": "serving", "rules": alerts.rules(of)}]}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(rules))
        content = {"rule_files": [f"{name}.yaml"], "evaluation_interval": "1m", "tests": several}
        (folder / f"test-{name}.yaml").write_text(yaml.safe_dump(content))
    folder.chmod(0o755)
    checked = promtool(docker_host, folder, "check", "rules", "/alerts/usual.yaml")
    assert f"SUCCESS: {len(made)} rules found" in checked.stdout, checked.stdout + checked.stderr
    done = promtool(docker_host, folder, "test", "rules", "/alerts/test-usual.yaml", "/alerts/test-argo.yaml")
    assert (done.returncode, "SUCCESS" in done.stdout) == (0, True), done.stdout + done.stderr


def test_every_alert_has_a_runbook_and_a_link_to_it(tmp_path: Path) -> None:
    url = "https://wiki.example.com/runbooks"
    read = fleet(tmp_path, f"{GOOD}kubernetes: {{components: [monitoring], monitoring: {{runbook_url: {url!r}}}}}\n")
    page = (ROOT / "docs/runbooks.md").read_text()
    sections = {title.lower() for title in re.findall(r"^## (\w+)$", page, re.M)}
    links = {rule["annotations"]["runbook_url"] for rule in alerts.rules(read)}
    assert links == {f"{url}#{section}" for section in sections}
    for text in re.split(r"^## \w+$", page, flags=re.M)[1:]:
        for part in ("Meaning", "Look at", "What to do"):
            assert f"**{part}" in text, text
