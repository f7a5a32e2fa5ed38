"""`tune`: the batching parameters that suit a model."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tfserving.clients.commands.calls import (
    EXIT_CODES,
    FAILED,
    SECONDS_OF_A_WINDOW,
    Target,
    reporting,
    signature_option,
)
from tfserving.clients.commands.loads import limit_option, numbers, prepared
from tfserving.foundation.command.options import json_option, report_option, writable
from tfserving.foundation.files import written_whole

if TYPE_CHECKING:
    from tfserving.clients.bench.generator import Bench
    from tfserving.clients.bench.load import Step
    from tfserving.clients.tune import Candidate, Parameters


@click.command(
    epilog=f"""\b
Examples:
  tfserving client tune models/digits --limit p99=20ms
  tfserving client tune models/digits --concurrency 64 --output batching_parameters.txt --report tune.html
  tfserving client tune models/digits --engine "docker-run.sh tensorflow_model_server" --max-batch-size 8,32

{EXIT_CODES}"""
)
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@limit_option("Only what keeps this counts, as p99=20ms.  [default: no limit]")
@click.option("--concurrency", type=click.IntRange(1), default=32, show_default=True, help="Requests at a time.")
@signature_option
@click.option("--input", "given", multiple=True, metavar="[NAME=]VALUE", help="What is sent, as for `predict`.")
@click.option("--requests", metavar="SOURCE", help="Send these golden or captured requests, as for `bench`.")
@click.option("--protocol", type=click.Choice(["grpc", "rest"]), default="grpc", show_default=True, help="How.")
@click.option("--max-batch-size", metavar="N,…", help="Values to try.  [default: 4,16,64,128]")
@click.option("--batch-timeout-micros", metavar="N,…", help="Values to try.  [default: 0,1000,5000]")
@click.option("--num-batch-threads", metavar="N,…", help="Values to try.  [default: 1, 2 and one a core]")
@click.option("--no-padding", is_flag=True, help="Don't try batch sizes in powers of two (allowed_batch_sizes).")
@click.option(
    "--engine",
    help="The command of the model server; its flags are added.  [default: what "
    "TENSORFLOW_MODEL_SERVER names, tensorflow_model_server on PATH, else the embedded server]",
)
@click.option("--window", type=SECONDS_OF_A_WINDOW, default=1.5, show_default=True, help="Seconds of each window.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=writable(),
    default=Path("batching_parameters.txt"),
    show_default=True,
    help="Where the best parameters are written.",
)
@report_option
@json_option
def tune(
    *,
    folder: Path,
    limit: tuple[str, float] | None,
    concurrency: int,
    signature: str | None,
    given: tuple[str, ...],
    requests: str | None,
    protocol: str,
    max_batch_size: str | None,
    batch_timeout_micros: str | None,
    num_batch_threads: str | None,
    no_padding: bool,
    engine: str | None,
    window: float,
    output: Path,
    report: Path | None,
    as_json: bool,
) -> None:
    """Finds the batching parameters with the most throughput under a limit, for the model in FOLDER.

    A server is started for each candidate, loaded and stopped, some 10 s each, a dozen or two of them. Nothing else
    should keep the machine busy. Without batching it is measured, too: if that is best, this is said, and no file is
    written.
    """
    from tfserving.clients.bench.generator import GeneratorError
    from tfserving.clients.tune import EngineError, Space, best, search

    space = Space(
        max_batch_size=numbers(max_batch_size, int, "--max-batch-size") or Space.max_batch_size,
        batch_timeout_micros=_from_zero(batch_timeout_micros) or Space.batch_timeout_micros,
        num_batch_threads=numbers(num_batch_threads, int, "--num-batch-threads") or Space.num_batch_threads,
        padding=not no_padding,
    )
    try:
        shlex.split(engine or "")
    except ValueError as error:
        raise click.BadParameter(f"{engine!r} is no command: {error}", param_hint="--engine") from None
    try:
        measuring = _Measuring(folder, engine, protocol, (signature, given, requests), concurrency, window)
        candidates = search(measuring, space, limit)
    except (EngineError, GeneratorError) as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(FAILED)
    winner = best(candidates, limit)
    try:
        if as_json:
            shown = {"best": winner and _json(winner), "candidates": list(map(_json, candidates))}
            click.echo(json.dumps(shown, indent=2))
        else:
            _show(candidates, winner, limit, output)
    finally:
        if winner is not None and winner.parameters is not None:
            _write(output, winner.parameters.text())
        if report is not None:
            from tfserving.clients.reports.tuning import write

            with reporting(report):
                write(report, measuring.model, candidates, winner, limit)
    if winner is None:
        sys.exit(FAILED)


def _write(output: Path, text: str) -> None:
    """Writes the best parameters, which took minutes to find; where that fails, they are shown."""
    try:
        with written_whole(output) as file:
            file.write(text.encode())
    except OSError as error:
        click.echo(f"Error: {output}: {error.strerror}; it is to hold:\n{text}", err=True)
        sys.exit(FAILED)


class _Measuring:
    """Measures candidates, each on a server of its own; what is sent is prepared once."""

    def __init__(
        self,
        folder: Path,
        engine: str | None,
        protocol: str,
        sent: tuple[str | None, tuple[str, ...], str | None],
        concurrency: int,
        window: float,
    ) -> None:
        from tfserving.clients.bench.load import Durations, Load
        from tfserving.clients.tune import default_engine

        self.model = folder.resolve().name
        self._folder = folder
        self._command = shlex.split(engine) if engine else default_engine()
        self._protocol = protocol
        self._sent = sent
        self._load = Load(concurrency=concurrency)
        self._durations = Durations(warm_up=1.0, window=window)
        self._bench: Bench | None = None

    def __call__(self, parameters: Parameters | None) -> Step:
        from tfserving.clients.address import ServerUrls, read_address
        from tfserving.clients.tune import engine

        said = "no batching" if parameters is None else str(parameters)
        if sys.stderr.isatty():
            click.echo(f"\r\033[K{said}", err=True, nl=False)
        with engine(self._command, self.model, self._folder, parameters) as urls:
            url = urls[self._protocol]
            if self._bench is None:
                signature, given, requests = self._sent
                self._bench = prepared(
                    Target(ServerUrls((url,)), 30.0, {}),
                    (self.model, None, None, signature),
                    given=given,
                    requests=requests,
                    batches=[],
                    durations=self._durations,
                    processes=0,
                    metrics=None,
                )
            bench = replace(self._bench, address=read_address(url), page=lambda: None, progress=lambda _: None)
            return bench.measure(self._load)


def _from_zero(text: str | None) -> list[int]:
    """The numbers in `text`, of which 0 may be one."""
    try:
        found = [int(part) for part in text.split(",")] if text else []
    except ValueError:
        found = [-1]
    if any(number < 0 for number in found):
        raise click.BadParameter(
            f"{text!r} is no list of numbers from 0, as 0,1000 is", param_hint="--batch-timeout-micros"
        )
    return found


def _json(candidate: Candidate) -> dict[str, Any]:
    step = asdict(candidate.step) if candidate.step else {"trouble": candidate.trouble}
    step.pop("curve", None)
    return {"parameters": candidate.parameters and asdict(candidate.parameters), **step}


def _show(candidates: list[Candidate], winner: Candidate | None, limit: tuple[str, float] | None, output: Path) -> None:
    from tfserving.clients.commands.tables import lines_of, new_table

    if sys.stderr.isatty():
        click.echo("\r\033[K", err=True, nl=False)
    table = new_table(("batching",), ("req/s", "p50 ms", "p99 ms", "failed"), ("",))
    for candidate in sorted(candidates, key=lambda one: -one.throughput):
        step = candidate.step
        if step is None:
            table.add_row(str(candidate.parameters), "", "", "", "", "can't be served")
            continue
        times = [f"{step.throughput:.1f}", f"{step.percentiles['p50']:.3g}", f"{step.percentiles['p99']:.3g}"]
        remark = "" if candidate.keeps(limit) else "over the limit" if not step.failed else "failed"
        remark = "best" if candidate is winner else remark
        table.add_row(str(candidate.parameters or "none"), *times, str(step.failed), remark)
    click.echo("\n".join([*lines_of(table), ""]))
    for candidate in candidates:
        for failure in candidate.step.failures() if candidate.step else ():
            click.echo(f"{candidate.parameters or 'none'}: {failure}", err=True)
    for trouble in dict.fromkeys(candidate.trouble for candidate in candidates if candidate.trouble):
        click.echo(f"can't be served: {trouble}\n", err=True)
    if winner is None:
        click.secho("nothing keeps the limit" if limit else "no candidate answered every request", fg="red", bold=True)
    elif winner.parameters is None:
        click.secho("without batching it is quickest; no file is written", bold=True)
    else:
        click.secho(f"{output}: {winner.parameters}", bold=True)
