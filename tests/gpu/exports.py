"""The versions that the checks use: the samples and networks of a real size, exported by `tfserving export build`."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.gpu.lab import ROOT, Finished, Lab, Process
from tests.gpu.record import SkippedError
from tfserving.serving.models_yaml.fleet import read_fleet

SAMPLES = ROOT / "export/models/samples.yaml"
NETWORKS = {
    "encoder": "tests.gpu.builders:encoder",
    "resnet50": "tests.gpu.builders:resnet50",
    "mobilenet": "tests.gpu.builders:mobilenet",
    "resnet50_uint8": "tests.gpu.builders:resnet50_uint8",
    "encoder_xla": "tests.gpu.builders:encoder",
    "resnet50_xla": "tests.gpu.builders:resnet50",
}
# They are compared with what the CPU computed. Their requests are large.
LARGE = ("encoder", "resnet50", "mobilenet")
# Golden and warm-up requests have these numbers of rows, besides 1, 2 and 7: the sizes at which speed is measured.
BATCH_SIZES = (1, 8, 32)
# Each has a process of its own, because a flag of `export build` holds for all its models.
_XLA = tuple(name for name in NETWORKS if name.endswith("_xla"))
_POLL_SECONDS = 0.1


def builders(*, tiny: bool) -> dict[str, str]:
    """Return the builders of all models, by name. The samples are no tiny ones."""
    return {**({} if tiny else _samples()), **NETWORKS}


def _samples() -> dict[str, str]:
    return {name: one.builder for name, one in read_fleet(SAMPLES).models.items() if one.builder}


class Models:
    """The models of all checks and the models.yaml that lists them: all, or those in `only`."""

    def __init__(self, lab: Lab, only: Sequence[str] = ()) -> None:
        chosen = {name: one for name, one in builders(tiny=lab.tiny).items() if not only or name in only}
        self.names = tuple(chosen)
        # Small models for the checks of memory: without samples, any.
        self.small = tuple(name for name in self.names if name not in NETWORKS) or self.names[:1]
        self.compared = tuple(name for name in self.names if name not in NETWORKS or name in LARGE)
        self.fleet = lab.work / "models.yaml"
        content = {name: {"builder": builder, "batch_sizes": BATCH_SIZES} for name, builder in chosen.items()}
        self.fleet.write_text(json.dumps({"models": content}))


class Exports:
    """Exports that run in the background, several processes at a time, into the folder `name`.

    `given` is a folder of versions that were exported elsewhere. Its models are used from there.
    """

    def __init__(self, lab: Lab, models: Models, name: str, given: Path | None = None) -> None:
        self._lab, self._models, self._name, self._given = lab, models, name, given
        self._processes: dict[str, Process] = {}

    def begin(self, names: Iterable[str], env: Mapping[str, str], processes: int = 0) -> None:
        """Start the exports of models in so many processes, by default half as many as there are CPUs."""
        wanted = [name for name in names if name in self._models.names and not self._is_given(name)]
        plain = [name for name in wanted if name not in _XLA]
        count = min(len(plain), processes or max(1, (os.cpu_count() or 1) // 2))
        for number in range(count):
            self._start(plain[number::count], env)
        for name in wanted:
            if name in _XLA:
                self._start([name], env, "--xla")

    def wait(self, names: Iterable[str]) -> list[str]:
        """Wait until the exports of models ended; return those that are there. Raises SkippedError when none are."""
        waited = [name for name in names if name in self._models.names]
        while any(process.process.poll() is None for process in self._of(waited)):
            self._lab.remaining()
            time.sleep(_POLL_SECONDS)
        there = [name for name in waited if self.folder(name).is_dir()]
        if not there:
            raise SkippedError("no version was exported for it")
        return there

    def end(self) -> None:
        """End the exports that still run."""
        for process in self._of(self._processes):
            process.stop()

    def folder(self, name: str) -> Path:
        """Return the folder of the versions of a model."""
        given = self._given
        return given / name if given is not None and self._is_given(name) else self._lab.work / self._name / name

    def version(self, name: str) -> Path:
        """Return the folder of the newest version of a model."""
        return max(self.folder(name).iterdir(), key=lambda folder: int(folder.name))

    def made(self, names: Iterable[str]) -> list[str]:
        """Return those of the models that were exported here."""
        return [name for name in names if self.folder(name).is_dir() and not self._is_given(name)]

    def outcomes(self) -> dict[str, Any]:
        """Return for each model how its export ended: the seconds of its steps, or the error."""
        return {name: _outcome(process.wait(0), name) for name, process in self._processes.items()}

    def _start(self, names: Sequence[str], env: Mapping[str, str], *flags: str) -> None:
        folder = str(self._lab.work / self._name)
        words = ["export", "build", *names, "--fleet", str(self._models.fleet), "--folder", folder, *flags, "--json"]
        process = self._lab.start([sys.executable, "-m", "tfserving", *words], f"{self._name}-{names[0]}", env)
        self._processes |= dict.fromkeys(names, process)

    def _of(self, names: Iterable[str]) -> set[Process]:
        return {self._processes[name] for name in names if name in self._processes}

    def _is_given(self, name: str) -> bool:
        return self._given is not None and (self._given / name).is_dir()


def _outcome(ended: Finished, name: str) -> dict[str, Any]:
    try:
        listed = [one for one in ended.json()["models"] if one.get("model") == name]
    except (RuntimeError, KeyError, TypeError):
        listed = []
    if not listed:
        return {"exit_code": ended.code, "stderr": ended.stderr[-800:]}
    return {key: value for key, value in listed[0].items() if key in _OUTCOME}


_OUTCOME = ("status", "step_seconds", "golden_requests", "identical", "largest_difference", "options", "error")
