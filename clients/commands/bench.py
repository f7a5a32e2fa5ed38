"""`bench`: load on a model server, and what it makes of it."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tfserving.clients.commands.calls import (
    EXIT_CODES,
    FAILED,
    SECONDS,
    SECONDS_OF_A_WINDOW,
    Target,
    check_pinned,
    model_option,
    reporting,
    server_options,
    signature_option,
    version_options,
)
from tfserving.clients.commands.loads import limit_option, numbers, prepared
from tfserving.foundation.command.options import json_option, report_option

if TYPE_CHECKING:
    from tfserving.clients.bench.load import Step

# Each process takes some 70 MB and a second to start, and more than the CPUs are no help; a request at a time is a
# task, and over REST a connection.
MOST_PROCESSES = max(16, 2 * (os.cpu_count() or 1))
MOST_CONCURRENCY = 10_000


@click.command(
    epilog=f"""\b
Examples:
  tfserving client bench --model digits
  tfserving client bench --model digits --concurrency 1,2,4,8,16 --report bench.html
  tfserving client bench --model digits --rate 100,200,400 --arrival poisson --json > bench.json
  tfserving client bench --model digits --limit p99=20ms --server http://127.0.0.1:8501
  tfserving client bench --model digits --batch 1,8,32 --requests models/digits --compare bench.json

{EXIT_CODES}"""
)
@server_options
@model_option
@version_options
@signature_option
@click.option(
    "--input",
    "given",
    multiple=True,
    metavar="[NAME=]VALUE",
    help="What is sent, as for `predict`.  [default: made-up numbers of the signature's shapes]",
)
@click.option(
    "--requests", metavar="SOURCE", help="Send the golden requests of this folder, or a captured file's, in turn."
)
@click.option("--concurrency", metavar="N,…", help="Closed loop: so many requests at a time.  [default: 1,2,4,8]")
@click.option("--rate", metavar="N,…", help="Open loop: so many requests a second, whatever the server does.")
@click.option(
    "--arrival",
    type=click.Choice(["poisson", "uniform"]),
    default="poisson",
    show_default=True,
    help="Whether an open loop's requests come at random or evenly.",
)
@limit_option("Find the highest rate that keeps this, as p99=20ms.")
@click.option("--batch", metavar="N,…", help="Rows in each request.  [default: as given, 1 where made up]")
@click.option(
    "--warm-up",
    type=SECONDS,
    default=1.0,
    show_default=True,
    help="Seconds before it counts.",
)
@click.option(
    "--window", type=SECONDS_OF_A_WINDOW, default=2.0, show_default=True, help="Seconds of each of the three windows."
)
@click.option(
    "--processes",
    type=click.IntRange(0, MOST_PROCESSES),
    default=0,
    help="Processes that ask; more CPUs than the server leaves are no help.  [default: as many as are needed]",
)
@click.option("--metrics", metavar="URL", help="The server's Prometheus page.  [default: a REST server's own]")
@click.option(
    "--compare",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Show the differences to an earlier run's --json.",
)
@report_option
@json_option
def bench(
    *,
    target: Target,
    model: str,
    version: int | None,
    label: str | None,
    signature: str | None,
    given: tuple[str, ...],
    requests: str | None,
    concurrency: str | None,
    rate: str | None,
    arrival: Any,
    limit: tuple[str, float] | None,
    batch: str | None,
    warm_up: float,
    window: float,
    processes: int,
    metrics: str | None,
    compare: Path | None,
    report: Path | None,
    as_json: bool,
) -> None:
    """Loads a model server, and shows throughput and latencies.

    Each load is kept up for three windows that agree within 10 %, nine at most. An open loop's latencies count from
    when a request was meant to be sent, so that a server that stalls can't hide it. When the client is what can't do
    more, that is said.
    """
    from tfserving.clients.bench.generator import GeneratorError, highest_rate
    from tfserving.clients.bench.load import Durations, Load

    check_pinned(version, label)
    concurrencies = numbers(concurrency, int, "--concurrency", MOST_CONCURRENCY)
    rates = numbers(rate, float, "--rate")
    batches = numbers(batch, int, "--batch")
    if limit and (concurrencies or rates):
        raise click.UsageError("--limit finds a rate by itself; leave --concurrency and --rate out")
    if given and requests:
        raise click.UsageError("--input and --requests both say what is sent; give one of them")
    earlier = _earlier(compare)
    durations = Durations(warm_up=warm_up, window=window)
    made = prepared(
        target,
        (model, version, label, signature),
        given=given,
        requests=requests,
        batches=batches,
        durations=durations,
        processes=processes,
        metrics=metrics,
    )
    loads = [
        load
        for rows in batches or [1]
        for load in [
            *(Load(concurrency=many, batch=rows) for many in concurrencies or ([] if rates else [1, 2, 4, 8])),
            *(Load(rate=fast, arrival=arrival, batch=rows) for fast in rates),
        ]
    ]
    try:
        if limit:
            name, most = limit
            steps = [
                step
                for rows in batches or [1]
                for step in highest_rate(made, lambda step: step.latency(name) <= most, batch=rows)
            ]
        else:
            steps = [made.measure(load) for load in loads]
    except GeneratorError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(FAILED)
    found = {"model": model, "server": target.url, "steps": [asdict(step) for step in steps]}
    try:
        if as_json:
            click.echo(json.dumps(found, indent=2))
        else:
            _show(steps, earlier, limit)
    finally:
        if report is not None:
            from tfserving.clients.reports.load import write

            with reporting(report):
                write(report, f"{model} on {target.url}", steps, earlier)
    if not any(step.requests for step in steps):
        sys.exit(FAILED)


def _earlier(path: Path | None) -> list[Step]:
    """The steps of an earlier run."""
    from tfserving.clients.bench.load import Load, Step
    from tfserving.foundation.given import given_text

    if path is None:
        return []
    try:
        steps = json.loads(given_text(path))["steps"]
        return [Step(**{**step, "load": Load(**step["load"])}).checked() for step in steps]
    except OSError as error:
        raise click.BadParameter(str(error), param_hint="--compare") from None
    except (AttributeError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise click.BadParameter(
            f"{path} is not what bench --json wrote: {type(error).__name__}: {error}", param_hint="--compare"
        ) from None


def _show(steps: list[Step], earlier: list[Step], limit: tuple[str, float] | None) -> None:
    from tfserving.clients.commands.tables import lines_of, new_table

    if sys.stderr.isatty():
        click.echo("\r\033[K", err=True, nl=False)
    before = {step.load: step for step in earlier}
    table = new_table(("load",), ("req/s", "mean", "p50", "p90", "p99", "p99.9", "max ms", "server", "failed"))
    for step in steps:
        table.add_row(*_cells(step))
        if step.load in before:
            table.add_row(*_changes(step, before[step.load]))
    click.echo("\n".join([*lines_of(table), "", *_remarks(steps)]).rstrip())
    if limit:
        name, most = limit
        kept = [step for step in steps if step.load.open and step.latency(name) <= most and not step.failed]
        kept = [step for step in kept if step.throughput >= 0.95 * step.load.rate]
        best = max((step.load.rate for step in kept), default=0)
        click.secho(f"the highest rate with {name} at most {most:g} ms: {best:g} requests a second", bold=True)


def _cells(step: Step) -> list[str]:
    server = "" if step.server_ms is None else f"{step.server_ms:.3g}"
    times = [step.mean_ms, *step.percentiles.values(), step.max_ms]
    return [str(step.load), f"{step.throughput:.1f}", *(f"{time:.3g}" for time in times), server, str(step.failed)]


def _changes(step: Step, before: Step) -> list[str]:
    def change(now: float, then: float) -> str:
        return f"{100 * (now / then - 1):+.0f} %" if then else ""

    pairs = [
        (step.throughput, before.throughput),
        (step.mean_ms, before.mean_ms),
        *zip(step.percentiles.values(), before.percentiles.values(), strict=True),
        (step.max_ms, before.max_ms),
    ]
    return ["  against before", *(change(*pair) for pair in pairs), "", ""]


def _remarks(steps: list[Step]) -> list[str]:
    said = []
    for step in steps:
        if step.client_bound:
            most = f"its processes ({step.processes}) can't ask more than {step.asked:.0f} a second"
            said.append(f"{step.load}: the client is the bottleneck: {most}")
        if step.load.open and step.lag_p99_ms > max(1.0, 0.1 * step.percentiles["p50"]):
            late = f"{step.lag_p99_ms:.3g} ms"
            said.append(f"{step.load}: the client asked up to {late} late (p99), which the latencies have in them")
        if not step.stable:
            said.append(f"{step.load}: its windows differ by more than 10 %; something else is going on")
        said += [f"{step.load}: {failure}" for failure in step.failures()]
    return said
