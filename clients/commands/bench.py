"""`bench`: puts load on a model server, and measures throughput and latency."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tfserving.clients.commands.calls import (
    SECONDS,
    SECONDS_OF_A_WINDOW,
    Target,
    reporting,
    server_options,
    signature_option,
)
from tfserving.clients.commands.loads import (
    check_requests,
    input_option,
    limit_option,
    numbers,
    prepared,
    requests_option,
)
from tfserving.clients.commands.model import Model, model_argument
from tfserving.foundation.command.errors import CommandError
from tfserving.foundation.command.options import fleet_option, json_option, report_option
from tfserving.foundation.command.progress import Progress

if TYPE_CHECKING:
    from tfserving.clients.bench.generator import Bench
    from tfserving.clients.bench.load import Load, Step

# A process takes some 70 MB and a second to start, and more processes than CPUs don't help. A concurrent request is a
# task, and over REST a connection.
MOST_PROCESSES = max(16, 2 * (os.cpu_count() or 1))
MOST_CONCURRENCY = 10_000


@click.command(
    epilog="""\b
Examples:
  tfserving bench digits
  tfserving bench digits --concurrency 1,2,4,8,16 --report bench.html
  tfserving bench digits --concurrency 8 --duration 60
  tfserving bench digits --rate 100,200,400 --json > bench.json
  tfserving bench digits --limit p99=20ms --server http://127.0.0.1:8501
  tfserving bench digits --batch 1,8,32 --requests digits --compare bench.json"""
)
@model_argument
@click.option("--concurrency", metavar="N,…", help="Closed loop: requests at a time.  [default: 1,2,4,8]")
@click.option("--rate", metavar="N,…", help="Open loop: requests a second, however long the server takes.")
@click.option(
    "--arrival",
    type=click.Choice(["poisson", "uniform"]),
    default="poisson",
    show_default=True,
    help="Send the requests of an open loop at random or at even times.",
)
@limit_option("Find the highest rate within this latency, for example p99=20ms.")
@click.option("--batch", metavar="N,…", help="Rows in each request.  [default: those of the input; 1 if generated]")
@click.option("--duration", type=SECONDS, metavar="SECONDS", help="Hold each load for this time.")
@click.option(
    "--warm-up", type=SECONDS, default=1.0, show_default=True, metavar="SECONDS", help="Time before the measurement."
)
@click.option(
    "--window",
    type=SECONDS_OF_A_WINDOW,
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="Length of a window.",
)
@input_option
@requests_option
@signature_option
@click.option(
    "--processes",
    type=click.IntRange(0, MOST_PROCESSES),
    default=0,
    metavar="N",
    help="Processes that send requests.  [default: as many as needed]",
)
@click.option("--metrics", metavar="URL", help="The server's metrics page.  [default: that of its REST port]")
@click.option(
    "--compare",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Show the differences to an earlier run, a file with its --json.",
)
@server_options
@fleet_option
@report_option
@json_option
def bench(
    *,
    target: Target,
    model: Model,
    signature: str | None,
    given: tuple[str, ...],
    requests: str | None,
    concurrency: str | None,
    rate: str | None,
    arrival: Any,
    limit: tuple[str, float] | None,
    batch: str | None,
    duration: float | None,
    warm_up: float,
    window: float,
    processes: int,
    metrics: str | None,
    compare: Path | None,
    fleet: Path,  # noqa: ARG001 - the project uses it
    report: Path | None,
    as_json: bool,
) -> None:
    """Put load on a server; print its throughput and latency.

    Each load is measured in windows, until three in a row agree within 10 %, or for nine windows. With --duration it
    is held for that time. The latency of an open loop counts from the time at which a request should be sent, so a
    server that stalls can't hide it. A note says when the client is the bottleneck.
    """
    from tfserving.clients.bench.load import Durations

    concurrencies = numbers(concurrency, int, "--concurrency", MOST_CONCURRENCY)
    rates = numbers(rate, float, "--rate")
    batches = numbers(batch, int, "--batch")
    if limit and (concurrencies or rates):
        raise click.UsageError("--limit finds the rate; leave out --concurrency and --rate")
    if given and requests:
        raise click.UsageError("--input and --requests both select what to send; give one of them")
    check_requests(requests)
    earlier = _earlier(compare)
    loads = _loads(concurrencies, rates, arrival, batches)
    with Progress() as progress:
        progress.update(f"preparing the requests to {model.name}")
        made = prepared(
            target,
            model,
            signature,
            given=given,
            requests=requests,
            batches=batches,
            durations=Durations(warm_up=warm_up, window=window, hold=duration),
            processes=processes,
            metrics=metrics,
            progress=progress,
        )
        steps, stopped = _until_stopped(_found(made, limit, batches or [1]) if limit else _measured(made, loads))
    if stopped and not steps:
        raise KeyboardInterrupt
    try:
        if as_json:
            from tfserving.clients.bench.step_json import step_json

            found = {"model": str(model), "server": target.url, "steps": [step_json(step) for step in steps]}
            click.echo(json.dumps(found, indent=2))
        else:
            _show(steps, earlier, limit)
    finally:
        if report is not None:
            from tfserving.clients.reports.load import write

            with reporting(report):
                write(report, f"{model} on {target.url}", steps, earlier)
    if stopped:
        raise KeyboardInterrupt
    if not any(step.requests for step in steps):
        raise CommandError("no request succeeded.")


def _loads(concurrencies: list[int], rates: list[float], arrival: Any, batches: list[int]) -> list[Load]:
    from tfserving.clients.bench.load import Load

    return [
        load
        for rows in batches or [1]
        for load in [
            *(Load(concurrency=many, batch=rows) for many in concurrencies or ([] if rates else [1, 2, 4, 8])),
            *(Load(rate=fast, arrival=arrival, batch=rows) for fast in rates),
        ]
    ]


def _until_stopped(measured: Iterator[Step]) -> tuple[list[Step], bool]:
    """Return the steps, and whether Ctrl-C stopped them. The last one may be incomplete then."""
    from tfserving.clients.bench.generator import GeneratorError, MeasurementStopped

    steps: list[Step] = []
    try:
        for step in measured:
            steps.append(step)  # noqa: PERF402 - the steps before Ctrl-C are kept
    except MeasurementStopped as stop:
        return [*steps, stop.step], True
    except KeyboardInterrupt:
        return steps, True
    except GeneratorError as error:
        raise CommandError(str(error)) from None
    return steps, False


def _measured(bench: Bench, loads: list[Load]) -> Iterator[Step]:
    for load in loads:
        yield bench.measure(load)


def _found(bench: Bench, limit: tuple[str, float], batches: list[int]) -> Iterator[Step]:
    """Return the steps towards the highest rate within the limit, for each number of rows."""
    from tfserving.clients.bench.generator import highest_rate

    name, most = limit
    for rows in batches:
        yield from highest_rate(bench, lambda step: step.latency(name) <= most, batch=rows)


def _earlier(path: Path | None) -> list[Step]:
    """Return the steps of an earlier run."""
    from tfserving.clients.bench.step_json import read_step
    from tfserving.clients.rest_json import parse_request
    from tfserving.foundation.given import given_text

    if path is None:
        return []
    try:
        return [read_step(step) for step in parse_request(given_text(path))["steps"]]
    except OSError as error:
        raise click.BadParameter(str(error), param_hint="--compare") from None
    except KeyError as error:
        reason = f"it lacks {error}"
    except (AttributeError, ValueError, TypeError, RecursionError) as error:
        reason = str(error)
    raise click.BadParameter(f"{path} is not the output of `bench --json`: {reason}", param_hint="--compare")


def _show(steps: list[Step], earlier: list[Step], limit: tuple[str, float] | None) -> None:
    from tfserving.clients.commands.tables import lines_of, new_table

    before = {step.load: step for step in earlier}
    server = any(step.server_ms is not None for step in steps)
    columns = ("req/s", "mean ms", "p50", "p90", "p99", "p99.9", "max", *(["server mean"] if server else []), "failed")
    table = new_table(("load",), columns)
    for step in steps:
        table.add_row(*_cells(step, server=server))
        if step.load in before:
            table.add_row(*_changes(step, before[step.load], server=server))
    click.echo("\n".join([*lines_of(table), "", *_remarks(steps)]).rstrip())
    if limit:
        name, most = limit
        kept = [step for step in steps if step.load.open and step.latency(name) <= most and not step.failed]
        kept = [step for step in kept if step.throughput >= 0.95 * step.load.rate]
        best = max((step.load.rate for step in kept), default=0)
        click.secho(f"highest rate with {name} up to {most:g} ms: {best:g} requests a second", bold=True)


def _cells(step: Step, *, server: bool) -> list[str]:
    times = [step.mean_ms, *step.percentiles.values(), step.max_ms]
    own = ["" if step.server_ms is None else f"{step.server_ms:.3g}"] if server else []
    return [str(step.load), f"{step.throughput:.1f}", *(f"{time:.3g}" for time in times), *own, str(step.failed)]


def _changes(step: Step, before: Step, *, server: bool) -> list[str]:
    def change(now: float, then: float) -> str:
        return f"{100 * (now / then - 1):+.0f} %" if then else ""

    pairs = [
        (step.throughput, before.throughput),
        (step.mean_ms, before.mean_ms),
        *zip(step.percentiles.values(), before.percentiles.values(), strict=True),
        (step.max_ms, before.max_ms),
    ]
    return ["  change", *(change(*pair) for pair in pairs), *([""] if server else []), ""]


def _remarks(steps: list[Step]) -> list[str]:
    remarks = []
    for step in steps:
        if step.client_bound:
            remarks.append(
                f"{step.load}: the client is the bottleneck: {step.processes} of its processes can't send more than "
                f"{step.sent:.0f} requests a second"
            )
        if step.load.open and step.lag_p99_ms > max(1.0, 0.1 * step.percentiles["p50"]):
            late = f"{step.lag_p99_ms:.3g} ms"
            remarks.append(f"{step.load}: requests were sent up to {late} late (p99), which the latencies include")
        if not step.steady:
            remarks.append(f"{step.load}: not steady: its windows differ by more than 10 %")
        remarks += [f"{step.load}: {failure}" for failure in step.failures()]
    return remarks
