"""Check this toolkit on this machine's GPU: `python -m tests.gpu OUT.json`. See README.md beside this file."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FrameType
from typing import Any

import click

from tests.gpu.exports import Exports, Models, builders
from tests.gpu.lab import CPU_ONLY, Lab
from tests.gpu.machine import Machine
from tests.gpu.memory import Memory
from tests.gpu.proof import Proof
from tests.gpu.record import Record
from tests.gpu.speed import Speed
from tfserving.foundation.gpus import visible_gpus

NO_GPU = 3
# Without it the others would measure the CPU.
FIRST = "machine.device"
PARTS = {"machine": Machine, "memory": Memory, "proof": Proof, "speed": Speed}
# PART.METHOD, and the seconds that it may take. The most valuable come first: when the time is over the last are left.
CHECKS: dict[str, float] = {
    FIRST: 60,
    "memory.growth": 90,
    "memory.fraction": 45,
    "memory.workers": 60,
    "memory.full": 75,
    "proof.export_alone": 60,
    "proof.export_all": 120,
    "proof.verify": 90,
    "proof.tf32": 60,
    "speed.start": 90,
    "speed.in_process": 45,
    "speed.served": 60,
    "speed.one_row": 30,
    "speed.warm": 30,
    "proof.deterministic": 90,
    "speed.uint8": 40,
    "speed.xla": 60,
    "speed.tf32": 40,
    "proof.check": 45,
    "speed.unbatched": 30,
}
LISTED = "\n\n\b\nChecks, in this order:\n" + "\n".join(
    f"  {name:20} {(getattr(PARTS[name.partition('.')[0]], name.partition('.')[2]).__doc__ or '')}" for name in CHECKS
)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 130}, epilog=LISTED)
@click.argument("out", metavar="OUT.json", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--minutes", type=click.FloatRange(0.5, 120), default=8.0, show_default=True, help="The time for all.")
@click.option("--only", "prefixes", multiple=True, metavar="NAME", help="Run only the checks whose names begin so.")
@click.option("--model", "names", multiple=True, metavar="NAME", help="Use only these models, such as encoder.")
@click.option(
    "--versions",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A folder of versions that were exported on a CPU, as FOLDER/MODEL/VERSION. Other models are exported here.",
)
@click.option("--work", type=click.Path(file_okay=False, path_type=Path), help="Keep the logs and versions here.")
@click.option("--on-cpu", is_flag=True, help="Run all steps with tiny models on a CPU, and judge nothing.")
def main(
    *,
    out: Path,
    minutes: float,
    prefixes: tuple[str, ...],
    names: tuple[str, ...],
    versions: Path | None,
    work: Path | None,
    on_cpu: bool,
) -> None:
    """Check the toolkit on this machine's GPU, and write what was measured to OUT.json.

    The file is written after each step. A check that fails doesn't stop the others, and checks without time are listed
    as skipped.

    Exit codes: 0 everything that ran holds; 1 something does not; 3 this machine has no GPU.
    """
    wanted = [name for name in CHECKS if not prefixes or name.startswith((FIRST, *prefixes))]
    if wanted == [FIRST] and not FIRST.startswith(prefixes):
        raise click.BadParameter(
            f"got {', '.join(prefixes)}, expected the begin of a check's name", param_hint="--only"
        )
    if unknown := {*names} - {*builders(tiny=on_cpu)}:
        known = ", ".join(builders(tiny=on_cpu))
        raise click.BadParameter(f"got {', '.join(sorted(unknown))}, expected some of {known}", param_hint="--model")
    if not on_cpu and not visible_gpus():
        click.echo("Error: nvidia-smi lists no GPU. --on-cpu runs the steps with tiny models on a CPU.", err=True)
        sys.exit(NO_GPU)
    _end_on_signals()
    folder = work or Path(tempfile.mkdtemp(prefix="tfserving-gpu-"))
    folder.mkdir(parents=True, exist_ok=True)
    record = Record(out, on_gpu=not on_cpu, minutes=minutes, machine=_machine())
    lab = Lab(folder.resolve(), record, minutes=minutes, tiny=on_cpu)
    try:
        _run(lab, wanted, Models(lab, names), versions and versions.resolve())
        record.finish()
    finally:
        lab.close()
        if work is None:
            shutil.rmtree(folder, ignore_errors=True)
    sys.exit(1 if record.of("failed", "broken") else 0)


def _run(lab: Lab, wanted: list[str], models: Models, versions: Path | None) -> None:
    exports = Exports(lab, models, "exported-on-cpu", versions), Exports(lab, models, "exported-on-gpu")
    parts = {name: part(lab, models, *exports) for name, part in PARTS.items()}
    exports[0].begin(models.names, CPU_ONLY)
    for name in wanted:
        part, _, method = name.partition(".")
        reason = "TensorFlow does not compute on the GPU" if FIRST in lab.record.of("failed", "broken") else ""
        lab.check(name, CHECKS[name], getattr(parts[part], method), reason)
        result = lab.record.running
        click.echo(f"{name:20} {result.outcome:9} {result.seconds:6.1f} s  {result.reason or result.what}")
        for claim in result.claims:
            if claim.holds is False:
                click.echo(f"{'':20} does not hold: {claim.text}: {str(claim.measured)[:300]}")


def _machine() -> dict[str, Any]:
    gpus = visible_gpus()
    packages = {}
    for name in ("tensorflow", "tensorflow-cpu", "keras", "numpy"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "gpus": [{**vars(gpu), "has_tf32": gpu.has_tf32} for gpu in gpus],
        "driver": gpus[0].driver if gpus else None,
        "cpus": os.cpu_count(),
        "python": sys.version.split()[0],
        "packages": packages,
    }


def _end_on_signals() -> None:
    def end(number: int, _frame: FrameType | None) -> None:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)


if __name__ == "__main__":
    main()
