"""Put ten minutes of mixed load on an embedded server whose versions are swapped continuously.

    python -m tests.bench.soak                      --seconds 600, 32 clients, a swap every 5 s
    python -m tests.bench.soak --seconds 60 --workers 2

Half of the clients use gRPC, half REST: predict (small, large, by version and by label), classify, status, metadata,
and requests that must be refused. Every response is checked. At the end the server gets SIGTERM under this load, and no
request may be lost. Then a server is killed under load, and another one serves on the same ports. The output is the
number of requests, and the memory, threads and descriptors of the server over time.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from tests.serving.embedded import saved_models
from tests.serving.embedded.running import Asker, Process, ask_until_refused, free_port, wait_until
from tests.serving.embedded.saved_models import rows
from tfserving.foundation.messages import ClassificationRequest, ClassificationResponse

FACTOR = 2.0
VERSIONS = (1, 2, 3)


class Clients:
    """Clients of one server; `counts` has the responses, `failed` the failures."""

    def __init__(self, server: Process) -> None:
        self._server = server
        self._lock = threading.Lock()
        self.ended = threading.Event()
        self.counts: Counter[str] = Counter()
        self.failed: list[str] = []

    def work(self, number: int) -> None:
        """One client: asks one thing after the other until it is `ended`."""
        ask = Asker(self._server)
        chance = random.Random(number)  # noqa: S311 - no secret
        over_grpc = {
            "gRPC predict": lambda: self._predict(ask, chance.choice((1, 1, 1, 2000))),
            "gRPC predict by label": lambda: self._by_label(ask),
            "gRPC classify": lambda: self._classify(ask),
            "gRPC status": lambda: _expect(bool(ask.status("swapped")), "no status"),
            "gRPC metadata": lambda: _expect("signature_def" in ask.metadata("fixed").metadata, "no metadata"),
            "gRPC refused": lambda: self._refused(ask),
        }
        over_rest = {
            "REST predict": lambda: self._rest_predict(ask, chance.choice((1, 1, 1, 500))),
            "REST classify": lambda: self._rest_classify(ask),
            "REST status": lambda: _expect(ask.get("swapped")[0] == 200, "no status"),
            "REST metadata": lambda: _expect(ask.get("fixed/metadata")[0] == 200, "no metadata"),
            "REST refused": lambda: self._rest_refused(ask),
        }
        doing: dict[str, Callable[[], None]] = over_grpc if number % 2 else over_rest
        names, (first, *_) = list(doing), doing
        while not self.ended.is_set():
            name = chance.choice((first, first, *names))
            try:
                doing[name]()
            except Exception as error:
                with self._lock:
                    self.failed.append(f"{name}: {error!r}"[:1000])
            with self._lock:
                self.counts[name] += 1
        ask.close()

    def _predict(self, ask: Asker, count: int) -> None:
        x = rows(count)
        outputs = ask.predict("swapped", {"x": x})
        _expect(np.array_equal(outputs["y"], x * FACTOR * outputs["version"][0]), "a wrong answer")
        _expect(len(set(outputs["version"].tolist())) == 1, "rows of two versions in one answer")

    def _by_label(self, ask: Asker) -> None:
        outputs = ask.predict("fixed", {"x": rows(2)}, label="stable")
        _expect(np.array_equal(outputs["y"], rows(2)), "a wrong answer")

    def _classify(self, ask: Asker) -> None:
        request = ClassificationRequest()
        request.model_spec.name, request.model_spec.signature_name = "examples", "classify"
        request.input.example_list.examples.add().features.feature["f"].float_list.value.append(1.5)
        response = ask.call("PredictionService/Classify", request, ClassificationResponse)
        _expect(response.result.classifications[0].classes[0].score == 1.5, "a wrong answer")

    def _refused(self, ask: Asker) -> None:
        code, _ = ask.error("fixed", {"wrong": rows(1)})
        _expect(code == "INVALID_ARGUMENT", code)

    def _rest_predict(self, ask: Asker, count: int) -> None:
        x = rows(count)
        status, document = ask.post("swapped:predict", {"instances": x.tolist()})
        _expect(status == 200, str(document)[:200])
        version = document["predictions"][0]["version"]
        answered = np.array([row["y"] for row in document["predictions"]])
        _expect(np.array_equal(answered, x * FACTOR * version), "a wrong answer")

    def _rest_classify(self, ask: Asker) -> None:
        answer = ask.post("examples:classify", {"signature_name": "classify", "examples": [{"f": 1.5, "s": "one"}]})
        _expect(answer == (200, {"results": [[["one", 1.5], ["other", -1.5]]]}), str(answer))

    def _rest_refused(self, ask: Asker) -> None:
        status, _ = ask.post("fixed:predict", b'{"instances": [[1, 2, 3')
        _expect(status == 400, str(status))


def _expect(held: bool, what: str) -> None:
    if not held:
        raise AssertionError(what)


def measure(server: Process) -> dict[str, float]:
    """What the server's processes use together: megabytes, threads, descriptors."""
    process = psutil.Process(server.process.pid)
    family = [process, *process.children(recursive=True)]
    return {
        "mb": round(sum(one.memory_info().rss for one in family) / 1e6, 1),
        "threads": sum(one.num_threads() for one in family),
        "descriptors": sum(one.num_fds() for one in family),
    }


def prepare(folder: Path) -> tuple[str, ...]:
    """Models, and versions to swap in; returns the flags of a server for them."""
    for version in VERSIONS:
        saved_models.scale(folder / "made", version, FACTOR * version)
    shutil.copytree(folder / "made/1", folder / "swapped/1")
    saved_models.scale(folder / "fixed", 1, 1.0)
    saved_models.examples(folder / "examples")
    models = "".join(
        f'config {{ name: "{name}" base_path: "{folder}/{name}" model_platform: "tensorflow" {more} }}\n'
        for name, more in (("swapped", ""), ("examples", ""), ("fixed", 'version_labels { key: "stable" value: 1 }'))
    )
    (folder / "models.config").write_text(f"model_config_list {{ {models} }}")
    return (
        f"--model_config_file={folder}/models.config",
        "--file_system_poll_wait_seconds=0.5",
        "--allow_version_labels_for_unavailable_models",
    )


def swap(folder: Path, ask: Asker, number: int) -> None:
    """Replaces the version that is served by the next one, and waits until it is the only one."""
    old, new = VERSIONS[number % 3], VERSIONS[(number + 1) % 3]
    hidden = folder / "swapped/.tmp"
    shutil.copytree(folder / f"made/{new}", hidden)
    hidden.rename(folder / f"swapped/{new}")
    if new > old:
        wait_until(f"version {new}", lambda: ask.state("swapped", new) == "AVAILABLE")
    shutil.rmtree(folder / f"swapped/{old}")
    wait_until(f"version {old}'s end", lambda: ask.state("swapped", old) == "END")
    wait_until(f"version {new}", lambda: ask.state("swapped", new) == "AVAILABLE")


def soak(folder: Path, seconds: float, clients: int, every: float, *how: str) -> dict[str, Any]:
    """The load, with swaps; then a drain under load."""
    server = Process(*prepare(folder), *how).ready()
    load = Clients(server)
    ask = Asker(server)
    measures = []
    swaps = 0
    began = time.monotonic()
    with ThreadPoolExecutor(clients) as pool:
        asking = [pool.submit(load.work, number) for number in range(clients)]
        try:
            while time.monotonic() - began < seconds:
                until = time.monotonic() + every
                swap(folder, ask, swaps)
                swaps += 1
                measures.append({"seconds": round(time.monotonic() - began), **measure(server)})
                print(json.dumps({**measures[-1], "requests": load.counts.total()}), file=sys.stderr, flush=True)
                # The load goes on by itself; what is waited for here is the time of the next swap.
                load.ended.wait(max(0.0, until - time.monotonic()))
        finally:
            load.ended.set()
        for one in asking:
            one.result()
    took = time.monotonic() - began
    drained, lost = drain(server, clients)
    return {
        "seconds": round(took),
        "clients": clients,
        "flags": how,
        "requests": load.counts.total(),
        "a_second": round(load.counts.total() / took),
        "kinds": dict(load.counts.most_common()),
        "swaps": swaps,
        "failed": len(load.failed),
        "failures": load.failed[:10],
        "after_a_tenth": measures[len(measures) // 10],
        "at_the_end": measures[-1],
        "drained_with": {"answered": drained, "lost": lost},
    }


def drain(server: Process, clients: int) -> tuple[int, list[str]]:
    """Ends the server under load; how many requests were answered, and those that were lost."""
    answered: list[str] = []
    lost: list[Exception] = []
    with ThreadPoolExecutor(clients) as pool:
        asking = [
            pool.submit(ask_until_refused, server, protocol, "fixed", answered, lost)
            for protocol in ("grpc", "rest") * (clients // 2)
        ]
        wait_until("answers", lambda: len(answered) > 100 * clients)
        server.signal(signal.SIGTERM)
        code = server.wait()
        for one in asking:
            one.result()
    if code:
        lost.append(RuntimeError(f"exit code {code}"))
    return len(answered), [repr(error) for error in lost]


def kill_and_restart(folder: Path, *how: str) -> float:
    """Kills a server under load and starts another one on its ports; the seconds until that one answers."""
    flags = (f"--model_config_file={folder}/models.config", "--allow_version_labels_for_unavailable_models")
    grpc_port, rest_port = free_port(), free_port()
    server = Process(*flags, *how, grpc_port=grpc_port, rest_port=rest_port).ready()
    load = Clients(server)
    with ThreadPoolExecutor(8) as pool:
        for number in range(8):
            pool.submit(load.work, number)
        wait_until("answers", lambda: load.counts.total() > 100)
        server.signal(signal.SIGKILL)
        server.wait()
        load.ended.set()
    began = time.monotonic()
    again = Process(*flags, *how, grpc_port=grpc_port, rest_port=rest_port).ready()
    Asker(again).predict("fixed", {"x": rows(1)})
    took = time.monotonic() - began
    again.stop()
    return round(took, 1)


def main() -> int:
    """Run the command of the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--every", type=float, default=5, help="seconds between swaps")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--transport", default="auto", choices=["auto", "native", "grpcio"], help="what carries gRPC")
    arguments = parser.parse_args()
    how = (f"--workers={arguments.workers}", f"--grpc_transport={arguments.transport}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        result = soak(folder, arguments.seconds, arguments.clients, arguments.every, *how)
        result["killed_and_serving_again_after_seconds"] = kill_and_restart(folder, *how)
    print(json.dumps(result, indent=2))
    return 1 if result["failed"] or result["drained_with"]["lost"] else 0


if __name__ == "__main__":
    sys.exit(main())
