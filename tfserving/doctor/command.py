"""`tfserving doctor`: check this machine."""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
from collections.abc import Iterable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tfserving.foundation.command.errors import FAILED
from tfserving.foundation.command.options import fleet_option, json_option, models_argument

if TYPE_CHECKING:
    from tfserving.doctor.engines import Verdict
    from tfserving.doctor.finding import Check, Finding

# No check may take longer.
_SECONDS = 3.2
_ENGINES = ("docker", "native", "embedded")
_STYLES = {"ok": "green", "missing": "yellow", "problem": "red"}


@click.command(
    epilog="""\b
Examples:
  tfserving doctor
  tfserving doctor digits --engine docker
  tfserving doctor --json

\b
Exit codes: 0 `tfserving serve` can work here; 1 it can't."""
)
@models_argument
@fleet_option
@click.option(
    "--engine", type=click.Choice(["auto", *_ENGINES]), default="auto", show_default=True, help="The engine to check."
)
@click.option("--port", type=click.IntRange(1, 65535), default=8500, show_default=True, help="Port for gRPC.")
@click.option("--rest-port", type=click.IntRange(1, 65535), default=8501, show_default=True, help="Port for REST.")
@json_option
def doctor(names: tuple[str, ...], fleet: Path, engine: str, port: int, rest_port: int, as_json: bool) -> None:
    """Check what this machine has, and what `serve` will use.

    Each missing thing comes with what it is for and how to get it. Nothing is started, changed or downloaded.
    """
    from tfserving.doctor import cluster, engines, gpu, installation, machine
    from tfserving.doctor import fleet as fleets
    from tfserving.doctor.finding import run_checks

    # Their time is no check's: the first import after an installation takes seconds.
    for module in ("tfserving.serving.engines.choice", "docker"):
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(module)
    considered = _ENGINES if engine == "auto" else (engine,)
    checks: dict[str, Check] = {
        "Python": installation.python,
        "tfserving": installation.toolkit,
        "TensorFlow": installation.tensorflow,
        "GPU": partial(gpu.gpu, fleet),
        "Docker": partial(engines.docker, fleet),
        "native": engines.native,
        "embedded": engines.embedded,
        "models.yaml": partial(fleets.models_yaml, fleet, names),
        f"port {port}": partial(machine.port, port, "gRPC", fleet),
        f"port {rest_port}": partial(machine.port, rest_port, "REST", fleet),
        "Kubernetes": cluster.cluster,
        "disk": partial(machine.disk, fleet.parent),
        "memory": machine.memory,
        "CPU": machine.processor,
    }
    choices = {f"choice {name}": partial(engines.why_not, name, engine) for name in considered}
    found = run_checks({**checks, **choices}, _SECONDS)
    findings = {name: found[name] for name in checks}
    verdict = engines.verdict(engine, {name: found[f"choice {name}"] for name in considered}, findings)
    if as_json:
        checked = [asdict(finding) for finding in findings.values()]
        click.echo(json.dumps({"checks": checked, "serve": verdict.as_json()}, indent=2))
    else:
        _show(findings.values(), verdict)
    # A check that hangs is a thread that does not end this process.
    sys.exit(0 if verdict.possible else FAILED)


def _show(findings: Iterable[Finding], verdict: Verdict) -> None:
    """Print a row for each finding, and the verdict."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for finding in findings:
        cell = Text(finding.found)
        if finding.state != "ok" and finding.hint:
            cell.append(f"\n{finding.hint}", "dim")
        table.add_row(Text(finding.state, _STYLES[finding.state]), finding.name, cell)
    console = Console(highlight=False)
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        click.echo(line.rstrip())
    if verdict.possible:
        which = f"{verdict.engine} {'engine' if verdict.engine == 'docker' else 'server'}"
        click.echo(f"\n`tfserving serve` will use the {which}, because")
    else:
        click.echo("\n`tfserving serve` can't work here, because")
    for reason in verdict.reasons:
        click.echo(f"  {reason}")
