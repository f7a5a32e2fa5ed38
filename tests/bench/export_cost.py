"""Measure what an export costs beyond saving and loading a model: time, with `digits`, and memory, with large weights.

python -m tests.bench.export_cost time         saves and loads, and exports, in turn, each in a process of its own
python -m tests.bench.export_cost memory       the most that the export of 500 MB and its fresh process have in memory,
                                               by themselves and together (on Linux)
python -m tests.bench.export_cost memory 2000  the same of 2 GB
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from tfserving.export.servable import Servable

ROOT = Path(__file__).resolve().parents[2]
ROWS, COLUMNS = 12_500, 5_000
MB = 1_000_000
# How the samples can be saved with TensorFlow alone.
WAYS = {"dense": ("model", "variables"), "digits": ("export", "variables")}


def save_and_load(name: str, how: str) -> dict[str, float]:
    """Seconds to save and load the sample `name` with TensorFlow alone, saving what `how` says.

    `model`: tf.saved_model.save of the Keras model with the sample's signatures (it fails on models with random layers,
    whose seeds it doesn't find), `export`: Keras' own export, `variables`: tf.saved_model.save of nothing but the
    signatures and the variables that they use.
    """
    import tensorflow as tf

    servable = _builder(name)()
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        if how == "export":
            servable.module.export(folder, format="tf_saved_model", verbose=False)
        else:
            signatures = {}
            for key, signature in servable.signatures.items():
                specs = {key: tf.TensorSpec(spec.shape, spec.dtype, key) for key, spec in signature.inputs.items()}
                signatures[key] = tf.function(signature.function).get_concrete_function(**specs)
            module = servable.module
            if how == "variables":
                module = tf.Module()
                module.used = [variable for function in signatures.values() for variable in function.variables]
            tf.saved_model.save(module, folder, signatures)
        tf.saved_model.load(folder)
        return {"seconds": time.perf_counter() - started}


def export_sample(name: str) -> dict[str, float]:
    """Seconds of an export of the sample `name`, and of its steps, without those of its training."""
    from tfserving.export.errors import ProofError
    from tfserving.export.exporter import Target, export
    from tfserving.export.proof import FreshProcess
    from tfserving.foundation.command.progress import Progress

    build = _builder(name)
    with tempfile.TemporaryDirectory() as folder, FreshProcess() as fresh:
        # Training leaves it time to import TensorFlow, but here the weights may come from the cache.
        fresh.load(Path(folder), ["function"])
        with contextlib.suppress(ProofError):
            fresh.signatures()
        exported = export(Target(name, f"tfserving.export.models.{name}:build", Path(folder)), build, fresh, Progress())
    steps = {name: seconds for name, seconds in exported.seconds.items() if name != "build"}
    return {"seconds": sum(steps.values()), **steps}


def _builder(name: str) -> Callable[[], Servable]:
    from tfserving.export.builders import find_builder

    return find_builder(f"tfserving.export.models.{name}:build", Path.cwd())


def export_large(megabytes: str = "500") -> dict[str, float]:
    """The megabytes that both processes have at most while a model is exported, and this one while it is published.

    The model has matrices of 250 MB, so many megabytes of them.
    """
    from tfserving.export.console import import_tensorflow
    from tfserving.export.exporter import Target, export
    from tfserving.export.proof import FreshProcess
    from tfserving.export.publish import publish
    from tfserving.export.servable import Signature, TensorSpec
    from tfserving.foundation.command.progress import Progress

    import_tensorflow()
    import numpy as np
    import tensorflow as tf

    def build(count: int, rows: int = ROWS) -> Servable:
        module = tf.Module()
        # One operation makes each, so that nothing is there twice.
        module.layers = [
            tf.Variable(
                tf.raw_ops.StatelessRandomUniformV2(
                    shape=(rows, COLUMNS), key=np.array([number], np.uint64), counter=np.zeros(2, np.uint64), alg=1
                )
            )
            for number in range(count)
        ]

        return Servable(
            module=module,
            signatures={
                "serving_default": Signature(
                    lambda values: {"product": sum(tf.matmul(values, layer) for layer in module.layers)},
                    {"values": TensorSpec("float32", (None, rows))},
                    ("product",),
                )
            },
            examples={"serving_default": {"values": np.random.default_rng(1).random((32, rows), np.float32)}},
        )

    count = int(megabytes) * MB // (4 * ROWS * COLUMNS)
    size = 4 * ROWS * COLUMNS * count
    with tempfile.TemporaryDirectory() as folder, FreshProcess() as fresh:
        target = Target("large", "tests.bench.export_cost:build", Path(folder, "large"))
        # What TensorFlow sets up on first use is no copy of the weights.
        export(replace(target, folder=Path(folder, "small")), lambda: build(count, 2), fresh, Progress())
        gc.collect()
        processes = [psutil.Process(), *psutil.Process().children()]
        before = [_forget_peak(process) for process in processes]
        both = _Watched(processes)
        made = export(target, lambda: build(count), fresh, Progress())
        together = both.most()
        exporter, fresh_process = (_peak(process) - was for process, was in zip(processes, before, strict=True))
        gc.collect()
        was = _forget_peak(processes[0])
        started = time.perf_counter()
        publish(made.path, "large", made.version, str(Path(folder, "published")))
        published = time.perf_counter() - started
        publisher = _peak(processes[0]) - was
    return {
        "model_mb": size / MB,
        "exporter_mb": exporter / MB,
        "fresh_process_mb": fresh_process / MB,
        "together_mb": together / MB,
        "publish_mb": publisher / MB,
        "export_seconds": sum(made.seconds.values()),
        "publish_seconds": published,
    }


class _Watched:
    """How much more memory some processes have together than when it was made, looked at again and again."""

    def __init__(self, processes: Sequence[psutil.Process]) -> None:
        self._processes = processes
        self._before = self._now()
        self._most = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def most(self) -> int:
        """The most that it was, in bytes."""
        self._ended.set()
        self._thread.join()
        return self._most

    def _watch(self) -> None:
        while not self._ended.wait(0.02):
            self._most = max(self._most, self._now() - self._before)

    def _now(self) -> int:
        return sum(int(process.memory_info().rss) for process in self._processes)


def _forget_peak(process: psutil.Process) -> int:
    """Has the kernel count anew the most that `process` has; the bytes that it has now."""
    Path(f"/proc/{process.pid}/clear_refs").write_text("5")
    return int(process.memory_info().rss)


def _peak(process: psutil.Process) -> int:
    """The most bytes that `process` had in memory, as the kernel counts them."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
    return 1024 * int(status["VmHWM"].split()[0])


def in_a_process_of_its_own(*job: str) -> dict[str, float]:
    """What this module prints for `job`."""
    return json.loads(  # type: ignore[no-any-return]
        subprocess.check_output(
            [sys.executable, "-m", "tests.bench.export_cost", *job],
            cwd=ROOT,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
        )
    )


def compare_times(rounds: int) -> dict[str, Any]:
    """Saves and loads the samples in every way that works, and exports them, in turn: median seconds, and ratios."""
    result: dict[str, Any] = {}
    for name, ways in WAYS.items():
        times: dict[str, list[dict[str, float]]] = {way: [] for way in (*ways, "ours")}
        for number in range(rounds):
            for way in ways:
                times[way].append(in_a_process_of_its_own("save-and-load", name, way))
            times["ours"].append(in_a_process_of_its_own("export", name))
            print(f"{name}: round {number + 1} of {rounds}", file=sys.stderr)
        ours = {step: statistics.median(one[step] for one in times["ours"]) for step in times["ours"][0]}
        bare = {way: statistics.median(one["seconds"] for one in times[way]) for way in ways}
        result[name] = {
            "export": ours,
            "save_and_load": bare,
            "ratio": {way: ours["seconds"] / seconds for way, seconds in bare.items()},
        }
    return result


def main() -> None:
    """Run the command of the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    jobs: dict[str, Callable[..., dict[str, float]]] = {
        "save-and-load": save_and_load,
        "export": export_sample,
        "large": export_large,
    }
    parser.add_argument("what", choices=["time", "memory", *jobs])
    parser.add_argument("more", nargs="*")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.what == "time":
        result: dict[str, Any] = compare_times(arguments.rounds)
    elif arguments.what == "memory":
        result = in_a_process_of_its_own("large", *arguments.more)
    else:
        with contextlib.redirect_stdout(sys.stderr):
            result = jobs[arguments.what](*arguments.more)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
