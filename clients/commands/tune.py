"""`tune`: finds the batching parameters with the highest throughput for a model."""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tfserving.clients.commands.calls import SECONDS_OF_A_WINDOW, Target, reporting, signature_option
from tfserving.clients.commands.loads import (
    check_requests,
    input_option,
    limit_option,
    numbers,
    prepared,
    requests_option,
)
from tfserving.clients.commands.model import Model, fleet_model, unknown_model
from tfserving.foundation.command.errors import FAILED, WRONG, CommandError
from tfserving.foundation.command.options import complete_models, fleet_option, json_option, report_option, writable
from tfserving.foundation.command.progress import Progress
from tfserving.foundation.files import written_whole

if TYPE_CHECKING:
    from tfserving.clients.bench.generator import Bench
    from tfserving.clients.bench.load import Step
    from tfserving.clients.tune import Candidate, Parameters, Space
    from tfserving.clients.verification.proofs import ModelFolder
    from tfserving.foundation.devices import Device


@click.command(
    epilog="""\b
Examples:
  tfserving tune digits --limit p99=20ms
  tfserving tune digits --server-command "run.sh model_server"
  CUDA_VISIBLE_DEVICES=1 tfserving tune resnet --concurrency 256
  tfserving tune models/digits --concurrency 64 --report tune.html"""
)
@click.argument("model", metavar="MODEL|FOLDER", shell_complete=complete_models)
@limit_option("Only count candidates within this latency, for example p99=20ms.")
@click.option(
    "--concurrency", type=click.IntRange(1), metavar="N", help="Requests at a time.  [default: 32; 128 on a GPU]"
)
@input_option
@requests_option
@signature_option
@click.option(
    "--protocol",
    type=click.Choice(["grpc", "rest"]),
    default="grpc",
    show_default=True,
    help="The protocol of the requests.",
)
@click.option("--max-batch-size", metavar="N,…", help="Values to try.  [default: 4,16,64,128; 16,32,64,128 on a GPU]")
@click.option("--batch-timeout-micros", metavar="N,…", help="Values to try.  [default: 0,1000,5000]")
@click.option(
    "--num-batch-threads", metavar="N,…", help="Values to try.  [default: 1, 2 and the number of CPUs; 1,2 on a GPU]"
)
@click.option(
    "--no-padding",
    is_flag=True,
    help="Don't try batch sizes in powers of two (allowed_batch_sizes). On a GPU it tries no others by default.",
)
@click.option(
    "--server-command",
    metavar="COMMAND",
    help="The command that runs the server; flags are appended.  [default: TENSORFLOW_MODEL_SERVER, "
    "tensorflow_model_server on PATH, or the embedded server]",
)
@click.option(
    "--window",
    type=SECONDS_OF_A_WINDOW,
    default=1.5,
    show_default=True,
    metavar="SECONDS",
    help="Length of a window.",
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=writable(),
    default=Path("batching_parameters.txt"),
    show_default=True,
    metavar="FILE",
    help="Write the best parameters to this file.",
)
@fleet_option
@report_option
@json_option
def tune(
    *,
    model: str,
    limit: tuple[str, float] | None,
    concurrency: int | None,
    signature: str | None,
    given: tuple[str, ...],
    requests: str | None,
    protocol: str,
    max_batch_size: str | None,
    batch_timeout_micros: str | None,
    num_batch_threads: str | None,
    no_padding: bool,
    server_command: str | None,
    window: float,
    output: Path,
    fleet: Path,  # noqa: ARG001 - the project uses it
    report: Path | None,
    as_json: bool,
) -> None:
    """Find the batching parameters of highest throughput.

    It starts a server for each candidate, measures it and stops it: some 10 s each, for one or two dozen candidates.
    Nothing else should use the machine meanwhile. It also measures the model without batching; if that is best, it
    writes no file.

    If the server computes on a GPU, batches are padded to powers of two, and one or two of them run at a time. TF32 is
    off, unless NVIDIA_TF32_OVERRIDE is set or the server's command has --enable_tf32.
    """
    from tfserving.clients.bench.generator import GeneratorError
    from tfserving.clients.tune import ON_A_GPU, Candidate, Space, StartError, best, search

    tried: dict[str, Any] = {
        "max_batch_size": numbers(max_batch_size, int, "--max-batch-size"),
        "batch_timeout_micros": _from_zero(batch_timeout_micros),
        "num_batch_threads": numbers(num_batch_threads, int, "--num-batch-threads"),
    }
    tried = {name: values for name, values in tried.items() if values} | ({"padding": False} if no_padding else {})
    check_requests(requests)
    found = _model_folder(model)
    command = _command(server_command)
    measured: dict[Parameters | None, Candidate] = {}
    stopped = False
    with Progress() as progress:
        measuring = _Measuring(found, command, protocol, (signature, given, requests), concurrency, window, progress)
        try:
            measured[None] = Candidate(None, measuring(None))
            space = replace(Space() if measuring.device == "cpu" else ON_A_GPU, **tried)
            search(measuring, space, limit, measured)
        except (StartError, GeneratorError) as error:
            raise CommandError(str(error)) from None
        except KeyboardInterrupt:
            stopped = True
    candidates = list(measured.values())
    if stopped:
        _show(candidates, best(candidates, limit))
        raise KeyboardInterrupt
    winner = best(candidates, limit)
    try:
        if as_json:
            shown = {
                "device": measuring.device,
                "best": winner and _json(winner),
                "candidates": list(map(_json, candidates)),
            }
            click.echo(json.dumps(shown, indent=2))
        else:
            if measuring.device != "cpu":
                click.echo(_on_a_gpu(measuring.device, space))
            _show(candidates, winner, limit)
            _conclude(winner, limit, output)
    finally:
        if winner is not None and winner.parameters is not None:
            _write(output, winner.parameters.text())
        if report is not None:
            from tfserving.clients.reports.tuning import write

            with reporting(report):
                write(report, found.name, candidates, winner, limit)
    if winner is None:
        click.get_current_context().exit(FAILED)


def _model_folder(text: str) -> ModelFolder:
    """Return the folder of a model of the fleet, else the folder `text`. It must contain versions."""
    from tfserving.clients.verification.proofs import ModelFolder
    from tfserving.foundation.golden import SAVED_MODEL, is_version, versions_on_disk

    found = fleet_model(text, accepted=True)
    if found is not None and found.version is not None:
        raise CommandError(f"{text} is one version; tune the model, {found.name}.", WRONG)
    if found is None:
        folder = Path(text)
        if not folder.is_dir():
            raise CommandError(unknown_model(text), WRONG)
        folder = folder.resolve()
        if is_version(folder.name) and (folder / SAVED_MODEL).is_file():
            raise CommandError(f"{text} is one version; tune its model, {folder.parent}.", WRONG)
        found = ModelFolder(folder.name, folder)
    if not any((version / SAVED_MODEL).is_file() for version in versions_on_disk(found.folder).values()):
        inside = sorted(child for child in found.folder.iterdir() if child.is_dir() and versions_on_disk(child))
        models = f" It contains models: tune one of them, for example {inside[0]}." if inside else ""
        raise CommandError(
            f"{found.folder} has no version: a folder with a number as name and a SavedModel.{models}", WRONG
        )
    return found


def _command(text: str | None) -> list[str]:
    from tfserving.clients.tune import StartError, default_command

    try:
        if text is None:
            return default_command()
        if not (words := shlex.split(text)):
            raise ValueError("it is empty")
        return words
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not a command: {error}", param_hint="--server-command") from None
    except StartError as error:
        raise CommandError(str(error), WRONG) from None


def _write(output: Path, text: str) -> None:
    """Write the best parameters. They took minutes to find, so they are printed where that fails."""
    try:
        with written_whole(output) as file:
            file.write(text.encode())
    except OSError as error:
        raise CommandError(f"{output} can't be written: {error.strerror}. Its content:\n{text}") from None


class _Measuring:
    """Measures candidates, each on a server of its own. The requests are prepared once."""

    def __init__(
        self,
        model: ModelFolder,
        command: list[str],
        protocol: str,
        sent: tuple[str | None, tuple[str, ...], str | None],
        concurrency: int | None,
        window: float,
        progress: Progress,
    ) -> None:
        from tfserving.clients.bench.load import Durations

        # That of the first server; the others are like it.
        self.device: Device = "cpu"
        self._model = model
        self._command = command
        self._protocol = protocol
        self._sent = sent
        self._concurrency = concurrency
        self._durations = Durations(warm_up=1.0, window=window)
        self._progress = progress
        self._count = 0
        self._bench: Bench | None = None

    def __call__(self, parameters: Parameters | None) -> Step:
        from tfserving.clients.address import ServerUrls, read_address
        from tfserving.clients.bench.load import Load
        from tfserving.clients.tune import CONCURRENCY, CONCURRENCY_ON_A_GPU, running_server

        self._count += 1
        candidate = f"candidate {self._count}, {'no batching' if parameters is None else parameters}"
        self._progress.update(f"{candidate}: starting the server")
        with running_server(self._command, self._model.name, self._model.folder, parameters) as server:
            url = server.urls[self._protocol]
            if self._bench is None:
                self.device = server.device
                signature, given, requests = self._sent
                self._bench = prepared(
                    Target(ServerUrls((url,)), 30.0, {}),
                    Model(self._model.name),
                    signature,
                    given=given,
                    requests=requests,
                    batches=[],
                    durations=self._durations,
                    processes=0,
                    metrics=None,
                    progress=self._progress,
                )
            bench = replace(
                self._bench,
                address=read_address(url),
                page=lambda: None,
                progress=lambda text: self._progress.update(f"{candidate}: {text}"),
            )
            usual = CONCURRENCY if self.device == "cpu" else CONCURRENCY_ON_A_GPU
            return bench.measure(Load(concurrency=self._concurrency or usual))


def _on_a_gpu(device: Device, space: Space) -> str:
    """Return what the search tries on a GPU."""
    threads = " or ".join(map(str, space.num_batch_threads))
    sizes = "padded to powers of two" if space.padding else "not padded" if space.padding is False else "of any size"
    return f"The server computes on a GPU ({device}): batches are {sizes}, and {threads} of them run at a time.\n"


def _from_zero(text: str | None) -> list[int]:
    """Return the numbers from 0 in `text`."""
    try:
        found = [int(part) for part in text.split(",")] if text else []
    except ValueError:
        found = [-1]
    if any(number < 0 for number in found):
        raise click.BadParameter(
            f"{text!r} is not a list of numbers from 0, for example 0,1000", param_hint="--batch-timeout-micros"
        )
    return found


def _json(candidate: Candidate) -> dict[str, Any]:
    from tfserving.clients.bench.step_json import step_json

    result = step_json(candidate.step) if candidate.step else {"failure": candidate.trouble}
    result.pop("curve", None)
    return {"parameters": candidate.parameters and asdict(candidate.parameters), **result}


def _show(candidates: Collection[Candidate], winner: Candidate | None, limit: tuple[str, float] | None = None) -> None:
    """Print the candidates, the one with the highest throughput first."""
    from tfserving.clients.commands.tables import lines_of, new_table

    if not candidates:
        return
    table = new_table(("batching",), ("req/s", "p50 ms", "p99 ms", "failed"), ("",))
    for candidate in sorted(candidates, key=lambda one: -one.throughput):
        step = candidate.step
        if step is None:
            table.add_row(str(candidate.parameters), "", "", "", "", "server failed")
            continue
        times = [f"{step.throughput:.1f}", f"{step.percentiles['p50']:.3g}", f"{step.percentiles['p99']:.3g}"]
        remark = "" if candidate.keeps(limit) else "over the limit" if not step.failed else "requests failed"
        remark = "best" if candidate is winner else remark
        table.add_row(str(candidate.parameters or "none"), *times, str(step.failed), remark)
    click.echo("\n".join([*lines_of(table), ""]))
    for candidate in candidates:
        for failure in candidate.step.failures() if candidate.step else ():
            click.echo(f"{candidate.parameters or 'none'}: {failure}", err=True)
    for trouble in dict.fromkeys(candidate.trouble for candidate in candidates if candidate.trouble):
        click.echo(f"Warning: {trouble}\n", err=True)


def _conclude(winner: Candidate | None, limit: tuple[str, float] | None, output: Path) -> None:
    if winner is None:
        text = "No candidate is within the limit." if limit else "Each candidate failed some requests."
        click.secho(text, fg="red", bold=True)
    elif winner.parameters is None:
        click.secho("The model is fastest without batching; no file is written.", bold=True)
    else:
        click.secho(f"{output}: {winner.parameters}", bold=True)
