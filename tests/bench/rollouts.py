"""Measure how often rollouts decide wrongly, for versions that are as good as the old one and for worse ones.

    python -m tests.bench.rollouts simulate                     thousands of simulated rollouts, some minutes
    python -m tests.bench.rollouts real --same 200 --slow 100 --failing 100 --out real.jsonl
    python -m tests.bench.rollouts report real.jsonl

`simulate` draws latencies with heavy tails, slow phases, and stalls, and compares them by
`tfserving.k8s.rollout.judge`.
`real` rolls versions out by the command on embedded servers of this machine, under load. It appends a line of JSON for
each rollout, and resumes where an earlier run ended.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import CliRunner

from tests.servers import Served, serve
from tfserving.cli import tfserving
from tfserving.clients import connect
from tfserving.clients.errors import ServingError
from tfserving.export.servable import Servable, Signature, TensorSpec
from tfserving.k8s.rollout.gates import ROUNDS
from tfserving.k8s.rollout.judge import Comparison
from tfserving.k8s.rollout.local import LocalStore
from tfserving.k8s.rollout.sample import Sample
from tfserving.serving.models_yaml.fleet import read_fleet
from tfserving.serving.models_yaml.rollout import Rollout

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("same", "slow", "failing")
# What every version does of its own, in multiplications of matrices.
WORK, SIZE = 100.0, 64
FAILING = 0.02
TIMES, CALIBRATED = 1.5, 0.03
# What is simulated: how many times as slow a version is, and which part more of its requests fails.
CASES = ((1.0, 0.0), (1.25, 0.0), (1.5, 0.0), (2.0, 0.0), (1.0, 0.01), (1.0, 0.02), (1.0, 0.05))


def build() -> Servable:
    """A model that reads at each request how much it is to work, and which part of its requests is to fail.

    The file of these two numbers is in the environment at the export. So a version can be as slow as it is to be, and
    is good while it is proven.
    """
    import tensorflow as tf

    path = os.environ["BEHAVIOUR"]
    module = tf.Module()
    module.scale = tf.Variable(1.0)

    def worked(rows: tf.Tensor) -> dict[str, tf.Tensor]:
        # A name that doesn't depend on the input would be read once, when the graph is optimized.
        name = tf.strings.join([path, tf.strings.substr(tf.strings.as_string(rows[0, 0]), 0, 0)])
        numbers = tf.strings.to_number(tf.strings.split(tf.io.read_file(name)), tf.float32)
        check = tf.debugging.Assert(tf.random.uniform([]) >= numbers[1], ["it fails by chance"])
        with tf.control_dependencies([check]):
            square = tf.zeros((SIZE, SIZE)) + 0 * rows[0, 0]
        _, square = tf.while_loop(
            lambda count, _: count < numbers[0],
            lambda count, matrix: (count + 1, tf.linalg.matmul(matrix, matrix)),
            [tf.constant(0.0), square],
        )
        return {"sums": tf.reduce_sum(rows, axis=1) * module.scale + square[0, 0]}

    return Servable(
        module,
        {"serving_default": Signature(worked, {"rows": TensorSpec("float32", (None, 3))}, ("sums",))},
        {"serving_default": {"rows": np.random.default_rng(7).normal(size=(16, 3)).astype(np.float32)}},
    )


@dataclass
class Real:
    """Rollouts on servers of one fleet in `folder`, one after the other."""

    number: int
    folder: Path
    out: Path
    options: argparse.Namespace
    servers: list[Served] = field(default_factory=list)
    stable: int = 1

    @property
    def fleet(self) -> Path:
        return self.folder / "models.yaml"

    def run(self, kinds: Sequence[str]) -> None:
        """Rolls out a version of each of `kinds`."""
        self._export()
        options = self.options
        self.fleet.write_text(
            _models(1)
            + f"rollout: {{window: {options.window:g}, bake: {options.bake:g}, longest: {options.longest:g}, "
            f"probe: {options.probe:g}}}\n"
        )
        with contextlib.ExitStack() as stack:
            for _ in range(1 + (self.number < options.two_servers)):
                self.servers.append(stack.enter_context(self._server()))
            self.behave("slow", self._calibrated())
            for server in self.servers:
                stack.enter_context(_load(server.url("grpc"), options.load))
            for kind in kinds:
                self._append(self.roll(kind))

    def _export(self) -> None:
        """A version of each kind, which differ in the name of the file that they read; and version 1."""
        self.fleet.write_text(_models(1))
        shutil.rmtree(self.folder / "models", ignore_errors=True)
        for kind in KINDS:
            self.behave(kind, WORK)
            if (self.folder / kind).is_dir():
                continue
            command = [sys.executable, "-m", "tfserving", "export", "build", "--fleet", str(self.fleet)]
            environment = {**os.environ, "BEHAVIOUR": str(self.folder / "behaviour" / kind)}
            subprocess.run(command, cwd=ROOT, env=environment, check=True, stderr=subprocess.DEVNULL)
            (self.folder / "models/worked/1").rename(self.folder / kind)
        shutil.copytree(self.folder / "same", self.folder / "models/worked/1")

    def behave(self, kind: str, work: float, failing: float = 0.0) -> None:
        """What versions of this kind do from now on."""
        path = self.folder / "behaviour" / kind
        path.parent.mkdir(exist_ok=True)
        path.with_suffix(".new").write_text(f"{work} {failing}")
        path.with_suffix(".new").replace(path)

    def roll(self, kind: str) -> dict[str, Any]:
        """One rollout; the fleet is as before it then, but for the number of a version that passed as it should."""
        new = self.stable + 1
        shutil.copytree(self.folder / kind, self.folder / f"models/worked/{new}")
        started = time.monotonic()
        with self._failing_once_proven() if kind == "failing" else contextlib.nullcontext():
            done = CliRunner().invoke(tfserving, ["rollout", "start", "worked", "--fleet", str(self.fleet)])
        seconds = time.monotonic() - started
        state = LocalStore(read_fleet(self.fleet), "worked").load()
        assert state is not None, f"{done.output}\n{done.exception!r}"
        assert (state.new, state.over) == (new, True), f"{state}\n{done.output}\n{done.exception!r}"
        if state.phase == "done" and kind != "same":
            undone = CliRunner().invoke(tfserving, ["rollout", "undo", "worked", "--fleet", str(self.fleet)])
            assert undone.exit_code == 0, undone.output
        elif state.phase == "done":
            self.stable = new
        for version in (self.folder / "models/worked").iterdir():
            if version.name != str(self.stable):
                shutil.rmtree(version)
        figures = [
            {"gate": one.gate, "phase": one.phase, "passed": one.passed, "text": one.text}
            | ({"requests": one.numbers["new"]["requests"]} if "new" in one.numbers else {})
            | ({"latency": one.numbers["latency"]} if "latency" in one.numbers else {})
            for one in state.figures
        ]
        return {
            "kind": kind,
            "servers": len(self.servers),
            "outcome": state.phase,
            "reason": state.reason,
            "seconds": round(seconds, 2),
            "load": os.getloadavg()[0],
            "figures": figures,
        }

    @contextlib.contextmanager
    def _failing_once_proven(self) -> Iterator[None]:
        """A part of the requests to versions that fail does so from `canary` on: golden requests prove them."""
        over = threading.Event()
        store = LocalStore(read_fleet(self.fleet), "worked")

        def follow() -> None:
            while not over.wait(0.02):
                state = store.load()
                ours = state is not None and state.new == self.stable + 1
                phase = state.phase if state and ours else ""
                # Requests that warm a version up may not fail, or it isn't loaded.
                served = phase == "baking" or (phase == "stable" and self._available(self.stable + 1))
                self.behave("failing", WORK, FAILING if phase == "canary" or served else 0.0)

        thread = threading.Thread(target=follow)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            self.behave("failing", WORK)

    def _available(self, version: int) -> bool:
        """Whether the first server has this version for clients."""
        for server in self.servers:
            with connect(server.url("grpc")) as client:
                if any(one.version == version and one.state == "AVAILABLE" for one in client.status("worked")):
                    return True
        return False

    @contextlib.contextmanager
    def _server(self) -> Iterator[Served]:
        words = [sys.executable, "-m", "tfserving", "serve", "--engine", "embedded", "--fleet", str(self.fleet)]
        with serve([*words, "--port", "{port}", "--rest-port", "{rest_port}"], ROOT) as served:
            yield served

    def _calibrated(self) -> float:
        """How much work takes `TIMES` as long, end to end, under the load that there is."""
        self._times(WORK, 50)
        work = 2 * WORK
        for _ in range(4):
            old, new = self._in_turns(WORK, work)
            if abs(new / old - TIMES) < CALIBRATED:
                break
            work = WORK + (work - WORK) * (TIMES - 1) / max(new / old - 1, 0.1)
        self.behave("same", WORK)
        found = {
            "kind": "calibration",
            "work": work / WORK,
            "old_ms": 1000 * old,
            "times": new / old,
        }
        self._append(found)
        return work

    def _in_turns(self, *works: float) -> list[float]:
        """How long requests take that have so much work; a quarter of them is faster, which others disturb little."""
        found: dict[float, list[float]] = {work: [] for work in works}
        for _ in range(30):
            for work in works:
                found[work] += self._times(work, 10)
        return [float(np.quantile(times, 0.25)) for times in found.values()]

    def _times(self, work: float, requests: int) -> list[float]:
        """How many seconds requests take, one after the other, when version 1 has so much work."""
        self.behave("same", work)
        found = []
        with connect(self.servers[0].url("grpc")) as client:
            for _ in range(requests):
                started = time.perf_counter()
                client.predict("worked", [[1.0, 2.0, 3.0]])
                found.append(time.perf_counter() - started)
        return found

    def _append(self, found: dict[str, Any]) -> None:
        with self.out.open("a") as file:
            file.write(json.dumps({"worker": self.number, "at": time.strftime("%H:%M:%S"), **found}) + "\n")


def _models(stable: int) -> str:
    return (
        "server: {flags: {allowed_operations: ReadFile}}\nmodels:\n  worked:\n    builder: tests.bench.rollouts:build\n"
        f"    allow: [file-op]\n    labels: {{stable: {stable}}}\n"
    )


@contextlib.contextmanager
def _load(url: str, rate: float) -> Iterator[None]:
    """Clients in a process of their own."""
    command = [sys.executable, "-m", "tests.bench.rollouts", "load", url, "--rate", str(rate)]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _load_for_ever(url: str, rate: float) -> None:
    """An open loop, whose arrivals are random, until it is ended."""
    chance = np.random.default_rng()
    with connect(url) as client, ThreadPoolExecutor(16) as pool:

        def send() -> None:
            with contextlib.suppress(ServingError):
                client.predict("worked", [[1.0, 2.0, 3.0]], label="stable")

        due = time.monotonic()
        while True:
            due += chance.exponential(1 / rate)
            time.sleep(max(0.0, due - time.monotonic()))
            pool.submit(send)


def _one_worker(number: int, base: Path, options: argparse.Namespace, kinds: Sequence[str]) -> None:
    folder = base / f"worker-{number}"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder / "state", ignore_errors=True)
    # Of other fleets of this user nothing is changed, nor of other workers.
    os.environ["XDG_STATE_HOME"] = str(folder / "state")
    os.environ["PYTHONPATH"] = str(ROOT)
    Real(number, folder, options.out, options).run(kinds)


def real(options: argparse.Namespace) -> None:
    """Real rollouts, several beside each other, as far as they are missing in the file."""
    out: Path = options.out
    done = Counter(one["kind"] for one in _lines(out))
    missing = {kind: max(0, getattr(options, kind) - done[kind]) for kind in KINDS}
    # All kinds from the beginning on, in the proportion in which they are missing.
    kinds = [
        kind
        for _, kind in sorted(
            ((index + 0.5) / count, kind) for kind, count in missing.items() for index in range(count)
        )
    ]
    print(f"{len(kinds)} rollouts: {missing}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        base = options.folder or Path(name)
        with ProcessPoolExecutor(options.workers) as pool:
            shares = [kinds[number :: options.workers] for number in range(options.workers)]
            jobs = [pool.submit(_one_worker, number, base, options, share) for number, share in enumerate(shares)]
            for job in jobs:
                job.result()
    report(options.out)


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def report(path: Path) -> None:
    """Prints what came of the rollouts in the file, as a table in Markdown."""
    from scipy.stats import binomtest

    lines = _lines(path)
    print("| version | rollouts | taken back | where | seconds: half, 95 % | requests to it: half, 95 % |")
    print("| --- | --- | --- | --- | --- | --- |")
    for kind in KINDS:
        found = [one for one in lines if one["kind"] == kind]
        if not found:
            continue
        back = [one for one in found if one["outcome"] == "rolled-back"]
        where = Counter(one["reason"].split(":")[0] for one in back)
        interval = binomtest(len(back), len(found)).proportion_ci()
        share = f"{len(back)}: {100 * len(back) / len(found):.1f} %"
        share += f" (95 % interval {100 * interval.low:.1f} to {100 * interval.high:.1f} %)"
        # Those of a phase come one after the other, those of clients and the probe at the same time.
        requests = [sum(figure.get("requests", 0) for figure in one["figures"]) for one in found]
        spans = (
            f"{np.median(one):.0f}, {np.quantile(one, 0.95):.0f}"
            for one in ([one["seconds"] for one in found], requests)
        )
        places = ", ".join(f"`{phase}` {count}" for phase, count in where.most_common())
        print(f"| {kind} | {len(found)} | {share} | {places} | {' | '.join(spans)} |")
    ratios = [
        figure["latency"]["ratio"]
        for one in lines
        if one["kind"] == "slow"
        for figure in one["figures"]
        if figure["gate"] == "latency" and figure["latency"]["ratio"]
    ]
    if ratios:
        print(f"\nThe slow ones take {np.median(ratios):.2f} times as long, by the median of the rollouts' own ratios.")
    loads = [one["load"] for one in lines if "load" in one]
    if loads:
        print(f"The load average was {min(loads):.0f} to {max(loads):.0f}, the median {np.median(loads):.0f}.")


@dataclass(frozen=True)
class Noise:
    """What latencies of one rollout are like, drawn at random; times are in seconds.

    Each latency is lognormal with a heavy tail, times a slow phase that all requests of the machine share, times one
    that only the requests to one side have (other servers, other neighbours), and longer when it meets a stall.
    """

    base: float
    spread: float
    tail: float
    shared: float
    own: float
    stalls: float
    own_stalls: float
    failing: float

    @classmethod
    def drawn(cls, chance: np.random.Generator, *, same_server: bool) -> Noise:
        """Of two versions on the same server, or on two."""
        return cls(
            base=float(np.exp(chance.uniform(np.log(0.001), np.log(0.1)))),
            spread=chance.uniform(0.1, 0.6),
            tail=chance.uniform(0.0, 0.03),
            shared=chance.uniform(0.0, 0.5),
            own=0.0 if same_server else chance.uniform(0.0, 0.15),
            stalls=chance.uniform(0.0, 0.1),
            own_stalls=0.0 if same_server else chance.uniform(0.0, 0.05),
            failing=float(chance.choice([0.0, 0.0, 0.001, 0.01])),
        )


class Simulated:
    """Requests to two versions, second by second; the first one takes `times` as long, and `more` of them fail."""

    def __init__(self, chance: np.random.Generator, noise: Noise, times: float, more: float) -> None:
        self._chance, self._noise, self._times, self._more = chance, noise, times, more
        self._shared, self._own = 0.0, [0.0, 0.0]

    def second(self, rate: float, *, probe: bool) -> list[Sample]:
        """What comes of so many requests to each: steady ones of a probe, or of clients, which come at random."""
        chance, noise = self._chance, self._noise
        # Phases last some seconds: an autoregression with a coefficient of 0.9.
        self._shared = 0.9 * self._shared + 0.44 * noise.shared * chance.normal()
        self._own = [0.9 * phase + 0.44 * noise.own * chance.normal() for phase in self._own]
        shared = self._stall(noise.stalls)
        found = []
        for side in (0, 1):
            count = round(rate) if probe else int(chance.poisson(rate))
            arrived = (np.arange(count) + 0.5 * side) / max(count, 1) if probe else chance.random(count)
            took = noise.base * np.exp(self._shared + self._own[side] + noise.spread * chance.normal(size=count))
            took *= np.where(chance.random(count) < noise.tail, 1 + chance.pareto(1.5, count), 1.0)
            took *= self._times if side == 0 else 1.0
            for began, ended in (shared, self._stall(noise.own_stalls)):
                took += np.where((arrived >= began) & (arrived < ended), ended - arrived, 0.0)
            part = noise.failing + (self._more if side == 0 else 0.0)
            failed = int(chance.binomial(count, min(part, 1.0)))
            took = took[failed:]
            logs = float(np.log(took).sum()) if probe else None
            found.append(
                Sample(len(took), float(took.sum()), Counter(error=failed) if failed else Counter(), logs=logs)
            )
        return found

    def _stall(self, often: float) -> tuple[float, float]:
        """From when to when in this second nothing is served."""
        if self._chance.random() >= often:
            return 0.0, 0.0
        began = self._chance.random()
        return began, began + self._chance.uniform(0.05, 1.0)


def simulated(seed: int, rate: float, times: float, more: float, *, two_servers: bool) -> tuple[bool, float, int]:
    """A rollout: whether the version is taken back, after how many seconds and requests to it.

    First golden requests are compared in turns, then clients' and the probe's requests for a window; where clients have
    two servers, also their latencies.
    """
    settings, chance = Rollout(), np.random.default_rng((seed, int(1000 * times), int(10000 * more), int(rate)))
    noise = Noise.drawn(chance, same_server=not two_servers)
    # Rounds of 5 golden requests, as fast as they are answered.
    turns = Comparison(settings.model_copy(update={"window": 0.0}))
    data = Simulated(chance, noise, times, more)
    at, sent = 0.0, 0
    for _ in range(ROUNDS):
        new, old = data.second(5, probe=True)
        at, sent = at + new.seconds + old.seconds, sent + new.total
        turns.add(new, old, at)
        if turns.verdict().decision == "worse" or turns.latency != "open" or at > settings.longest:
            break
    if turns.last().decision == "worse":
        return True, at, sent
    kinds = [(Comparison(settings), settings.probe, True)]
    if rate:
        kinds.append((Comparison(settings), rate, False))
        if not two_servers:
            kinds[-1][0].before(_together(data.second(rate, probe=False)[1] for _ in range(int(settings.window))))
    second = 0
    while second < settings.longest:
        second += 1
        for comparison, of, probe in kinds:
            new, old = data.second(of, probe=probe)
            comparison.add(new, old if probe or two_servers else Sample(), second)
            sent += new.total
        decisions = [comparison.verdict().decision for comparison, *_ in kinds]
        if "worse" in decisions:
            return True, at + second, sent
        if set(decisions) == {"fine"}:
            return False, at + second, sent
    return any(comparison.last().decision == "worse" for comparison, *_ in kinds), at + second, sent


def _together(samples: Iterable[Sample]) -> Sample:
    found = Sample()
    for sample in samples:
        found.add(sample)
    return found


def simulate(options: argparse.Namespace) -> None:
    """Prints a table in Markdown."""
    print(
        "| clients' requests a second | version | rollouts | taken back | seconds: half, 95 % | requests: half, 95 % |"
    )
    print("| --- | --- | --- | --- | --- | --- |", flush=True)
    with ProcessPoolExecutor(options.workers) as pool:
        for rate, two_servers in ((0, False), (50, False), (50, True), (500, True)):
            for times, more in CASES:
                count = options.rollouts if (times, more) == (1.0, 0.0) else max(1, options.rollouts // 5)
                jobs = [
                    pool.submit(simulated, seed, rate, times, more, two_servers=two_servers) for seed in range(count)
                ]
                back, seconds, requests = zip(*(job.result() for job in jobs), strict=True)
                name = (
                    f"{times:g} times as slow" if times > 1 else f"{100 * more:g} % more fail" if more else "the same"
                )
                where = f"{rate}, two servers" if two_servers else f"{rate}"
                spans = (f"{np.median(one):.0f}, {np.quantile(one, 0.95):.0f}" for one in (seconds, requests))
                print(f"| {where} | {name} | {count} | {100 * np.mean(back):.1f} % | {' | '.join(spans)} |", flush=True)


def main() -> None:
    """Reads what is to be done from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    modes = parser.add_subparsers(dest="mode", required=True)
    one = modes.add_parser("simulate")
    one.add_argument("--rollouts", type=int, default=2000, help="of a version that is the same; a fifth of each other")
    one.add_argument("--workers", type=int, default=2, help="processes")
    one = modes.add_parser("real")
    one.add_argument("--out", type=Path, default=Path("rollouts.jsonl"))
    one.add_argument("--folder", type=Path, help="where exported versions are kept for the next run")
    for kind, count in zip(KINDS, (200, 100, 100), strict=True):
        one.add_argument(f"--{kind}", type=int, default=count, help=f"rollouts of a version that is {kind}")
    one.add_argument("--workers", type=int, default=3, help="fleets beside each other")
    one.add_argument("--two-servers", type=int, default=1, help="so many of them have two servers")
    for name, value in (("window", 4.0), ("bake", 2.0), ("longest", 120.0), ("probe", 25.0), ("load", 30.0)):
        one.add_argument(f"--{name}", type=float, default=value)
    one = modes.add_parser("report")
    one.add_argument("out", type=Path)
    one = modes.add_parser("load")
    one.add_argument("url")
    one.add_argument("--rate", type=float, required=True)
    options = parser.parse_args()
    match options.mode:
        case "simulate":
            simulate(options)
        case "real":
            real(options)
        case "report":
            report(options.out)
        case "load":
            _load_for_ever(options.url, options.rate)


if __name__ == "__main__":
    main()
