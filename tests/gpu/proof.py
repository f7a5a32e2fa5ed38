"""Checks of proofs: outputs of a GPU against golden outputs of a CPU and of the GPU, with TF32 off and on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tests.gpu.exports import LARGE, Exports, Models
from tests.gpu.lab import Lab, Server
from tfserving.foundation.golden import MANIFEST
from tfserving.foundation.manifest import read_manifest_file

TF32_ON = "--enable_tf32=true"
DETERMINISTIC = "--enable_deterministic_gpu=true"
# Several exports share a GPU only if none takes all its memory.
GROWTH = {"TF_FORCE_GPU_ALLOW_GROWTH": "true"}
# Its outputs differed by 6e-8 from one call to the next, even in one process.
NEVER_EQUAL = ("sentiment",)
_START_SECONDS = 90.0
_ROW = ("model", "protocol", "output", "verdict", "device", "absolute", "scaled", "ulp", "hint")


class Proof:
    """Servers of versions that were exported on the CPU (`on_cpu`) and on the GPU (`on_gpu`) are verified."""

    def __init__(self, lab: Lab, models: Models, on_cpu: Exports, on_gpu: Exports) -> None:
        self._lab, self._models = lab, models
        self._exports = {"cpu": on_cpu, "gpu": on_gpu}

    def export_alone(self) -> None:
        """`export build` works on the GPU as a user runs it: the builder and the fresh process share the GPU."""
        exports = self._exports["gpu"]
        model = self._models.small[-1]
        exports.begin([model], {})
        made = exports.wait([model])
        self._lab.record.figure("exported", exports.outcomes())
        self._lab.record.claim(f"{model} is exported", made, made == [model])

    def export_all(self) -> None:
        """What is exported on the CPU is exported on the GPU, with tolerances for each kind of device."""
        record, on_cpu, on_gpu = self._lab.record, self._exports["cpu"], self._exports["gpu"]
        there = on_cpu.wait(self._models.compared)
        record.figure("exported_on_cpu", on_cpu.outcomes())
        wanted = on_cpu.made(there)
        on_gpu.begin([name for name in wanted if not on_gpu.made([name])], GROWTH)
        made = on_gpu.wait(wanted)
        record.figure("exported_on_gpu", on_gpu.outcomes())
        record.figure("tolerances_of_cpu", {name: _tolerances(on_cpu, name) for name in there})
        tolerances = {name: _tolerances(on_gpu, name) for name in made}
        record.figure("tolerances_of_gpu", tolerances)
        record.claim("every model is exported on the GPU", sorted({*wanted} - {*made}), {*made} >= {*wanted})
        without = [name for name, sets in tolerances.items() if "gpu" not in sets]
        record.claim("every manifest has tolerances for a GPU", without, not without)

    def verify(self) -> None:
        """With TF32 off, as it is by default, the golden outputs of the CPU and those of the GPU are matched."""
        record = self._lab.record
        servers = {name: self._start(f"plain-{name}", name) for name in self._there()}
        for name, server in servers.items():
            server.must_start(self._lab.remaining(_START_SECONDS))
            report = self._verified(server, name)
            record.figure(f"golden_outputs_of_{name}", report)
            record.claim(f"the golden outputs of the {name} are matched", report["failed"], not report["failed"])

    def tf32(self) -> None:
        """With TF32 on, the tolerances for TF32 hold, and those of a GPU without TF32 do not."""
        record = self._lab.record
        # Deep convolutional networks have tolerances for TF32 if a GPU measured them.
        on = {name: self._with_tolerances(name, "gpu-tf32") for name in self._there()}
        for name, models in on.items():
            if not models:
                continue
            server = self._start(f"tf32-{name}", name, TF32_ON)
            server.must_start(self._lab.remaining(_START_SECONDS))
            report = self._verified(server, name, models)
            record.figure(f"golden_outputs_of_{name}", report)
            claim = f"the golden outputs of the {name} are matched with the tolerances for TF32"
            record.claim(claim, report["failed"], not report["failed"])
            if name == "cpu":
                strict = self._verified(server, name, models, "--device", "gpu")
                record.figure("with_the_tolerances_for_gpu", strict)
                record.claim("some fail with those for `gpu`", strict["failed"], bool(strict["failed"]))
                record.claim("a hint names TF32", strict["hints"], any("TF32" in hint for hint in strict["hints"]))

    def deterministic(self) -> None:
        """Two processes with --enable_deterministic_gpu return the same bits."""
        self._pair("deterministic", DETERMINISTIC)
        unequal = self._lab.record.running.figures["deterministic"]["unequal"]
        others = [one for one in unequal if one.partition(" ")[0] not in NEVER_EQUAL]
        self._lab.record.claim("all outputs of the two are equal", others, not others)
        # To compare with: what two processes of today's defaults return.
        self._pair("as_it_comes")

    def check(self) -> None:
        """`export check` accepts on the GPU what was exported on the CPU."""
        exports = self._exports["cpu"]
        folders = [str(exports.version(name)) for name in exports.wait(self._models.compared)]
        done = self._lab.tool("export", "check", *folders, "--json")
        self._lab.record.figure("seconds", done.seconds)
        self._lab.record.claim("all versions are intact", done.stdout[-2000:] if done.code else "", done.code == 0)

    def _there(self) -> list[str]:
        return [name for name, exports in self._exports.items() if exports.made(self._models.compared) or name == "cpu"]

    def _start(self, name: str, exported_on: str, *flags: str) -> Server:
        exports = self._exports[exported_on]
        models = {model: exports.folder(model) for model in exports.wait(self._models.compared)}
        return self._lab.server(name, models, *flags)

    def _with_tolerances(self, exported_on: str, device: str) -> list[str]:
        exports = self._exports[exported_on]
        return [name for name in exports.wait(self._models.compared) if device in _tolerances(exports, name)]

    def _verified(self, server: Server, exported_on: str, models: Sequence[str] = (), *options: str) -> dict[str, Any]:
        """Verify models, by default all: the small ones over both protocols, in all ways; the large ones one by one."""
        there = models or self._exports[exported_on].wait(self._models.compared)
        small = [model for model in there if model not in LARGE]
        large = [model for model in there if model in LARGE]
        reports = [
            *([self._send(exported_on, small, "--server", server.urls, *options)] if small else []),
            *(
                [self._send(exported_on, large, "--server", server.grpc_url, "--way", "alone", *options)]
                if large
                else []
            ),
        ]
        return _summary(reports)

    def _pair(self, name: str, *flags: str) -> None:
        """Compare the outputs of two servers with each other, request by request."""
        pair = [self._start(f"{name}-{number}", "cpu", *flags) for number in (1, 2)]
        for server in pair:
            server.must_start(self._lab.remaining(_START_SECONDS))
        models = self._exports["cpu"].wait(self._models.compared)
        ends = ("--server", pair[0].grpc_url, "--against", pair[1].grpc_url, "--way", "alone")
        self._lab.record.figure(name, _summary([self._send("cpu", models, *ends)]))

    def _send(self, exported_on: str, models: Iterable[str], *options: str) -> dict[str, Any]:
        sources = [str(self._exports[exported_on].folder(model)) for model in models]
        report: dict[str, Any] = self._lab.tool("verify", *sources, *options, "--json").json()
        return report


def _summary(reports: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what reports of `verify --json` have in common, and a row for each output and protocol."""
    rows = [row for report in reports for row in report["rows"]]
    return {
        "sentences": [report["summary"] for report in reports],
        "tolerances": sorted({text for report in reports for text in report["tolerances"]}),
        "hints": sorted({text for report in reports for text in report["hints"]}),
        "failed": sorted(
            {f"{row['model']} {row['output']}: {str(row['reason'])[:300]}" for row in rows if not row["ok"]}
        ),
        "unequal": sorted({f"{row['model']} {row['output']}" for row in rows if row["verdict"] != "equal"}),
        "rows": [{key: row[key] for key in _ROW if row.get(key) is not None} for row in rows],
    }


def _tolerances(exports: Exports, name: str) -> dict[str, dict[str, dict[str, float]]]:
    sets = read_manifest_file(exports.version(name) / MANIFEST).tolerances()
    return {device: {dtype: {**vars(one)} for dtype, one in of.items()} for device, of in sets.items()}
