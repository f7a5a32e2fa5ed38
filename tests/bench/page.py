"""Write the tables and the picture of docs/performance.md from the figures in docs/performance.json.

    python -m tests.bench.page

`tests.bench.serving_cost` measures the figures. A figure is the median of its rounds, and a ratio the median of the
rounds' ratios, since one round's parts saw the same machine. A machine without TensorFlow Serving can't measure it:
then its figures are those of tests/bench/elsewhere.json, and are marked.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.bench.measured import CONNECTIONS, ELSEWHERE, NAMES, Measured, medians, ratio, short
from tests.bench.picture import draw
from tests.serving.embedded.running import ROOT
from tfserving.foundation.files import written_whole

DOCS = ROOT / "docs"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table, its first column of words and the others of numbers."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))


def circumstances(measured: Measured) -> str:
    """When, on what and with which versions it was measured."""
    all_of = [*measured.jobs.values()]
    one = all_of[0]
    dates = sorted({job["date"][:10] for job in all_of})
    versions = {name: number for job in all_of for name, number in job["versions"].items()}
    versions.pop("before", None)
    named = ", ".join(f"{name} {number}" for name, number in versions.items())
    rounds = sorted({job["rounds"] for job in all_of})
    machine = f"{one['cores']} virtual cores ({one['processor']}), {one['memory_gb']} GB of memory"
    number = " to ".join(map(str, rounds))
    return f"Measured on {' and '.join(dates)}, {number} rounds: {machine}.\nPython {one['python']}, {named}."


def expect(measured: Measured) -> str:
    """Requests a second of each server over each protocol."""
    rows: dict[str, list[str]] = {}
    for job in ("grpc", "rest"):
        for connections in CONNECTIONS:
            for key, (name, figures) in measured.with_real(job, connections).items():
                if key != "echo":
                    label = f"{'gRPC' if job == 'grpc' else 'REST'}, {name}"
                    rows.setdefault(label, [label]).append(short(figures["rate"]))
    return table(("requests a second, tiny model", "1 connection", "8", "32"), [*rows.values()])


def real(measured: Measured) -> str:
    """Where the figures of TensorFlow Serving come from."""
    if "tensorflow_serving" in measured.of("grpc", "1"):
        return "TensorFlow Serving was measured in the same rounds as all others."
    echoes = {
        "there": [ELSEWHERE["grpc"][number]["echo"] for number in CONNECTIONS],
        "here": [medians(measured.of("grpc", number)["echo"]) for number in CONNECTIONS],
    }
    took = " and ".join(
        f"{', '.join(short(one['cpu_us']) for one in some)} µs {where}" for where, some in echoes.items()
    )
    return (
        f"No `tensorflow_model_server` was on PATH. The figures of TensorFlow Serving come from\n"
        f"{ELSEWHERE['circumstances']}; they are marked, and hatched in the picture. With\n"
        f"{', '.join(CONNECTIONS)} connections, `grpcio`'s echo took a CPU of {took}."
    )


def under_load(job: str) -> Callable[[Measured], str]:
    """All figures of the tiny model over one protocol."""

    def made(measured: Measured) -> str:
        rows = []
        for connections in CONNECTIONS:
            for name, figures in measured.with_real(job, connections).values():
                cells = (short(figures.get(key)) for key in ("rate", "cpu_us", "p50_ms", "p99_ms", "memory_mb"))
                rows.append((name, connections, *cells))
        return table(("server", "connections", "requests/s", "CPU, µs", "p50, ms", "p99, ms", "memory, MB"), rows)

    return made


def image(measured: Measured) -> str:
    """The image over gRPC and as JSON."""
    rows = []
    for job, protocol in (("image", "gRPC"), ("json_image", "REST")):
        there = measured.of(job, "8")
        for key in (key for key in NAMES if key in there and key != "before"):
            figures = medians(there[key])
            cells = (short(value) for value in (figures["rate"], figures["cpu_us"] / 1e3, figures["p50_ms"]))
            rows.append((f"{protocol}, {NAMES[key]}", *cells, short(figures["p99_ms"])))
    return table(("server", "requests/s", "CPU, ms", "p50, ms", "p99, ms"), rows)


def workers(measured: Measured) -> str:
    """One, two and four processes."""
    rows = []
    for protocol in ("grpc", "rest"):
        there = measured.of("workers", protocol)
        one = there["1"]
        for count, rounds in there.items():
            figures = medians(rounds)
            cells = [short(figures[key]) for key in ("cpu_us", "client_us", "p99_ms", "memory_mb")]
            label = f"{'gRPC' if protocol == 'grpc' else 'REST'}, {count}"
            rows.append((label, short(figures["rate"]), f"{ratio(rounds, one, 'rate'):.2f}", *cells))
    head = ("protocol, workers", "requests/s", "over one's", "CPU, µs", "h2load's CPU, µs", "p99, ms", "memory, MB")
    return table(head, rows)


# What is compared with an earlier commit: a job and its connections, the server's name there, what the page calls it, a
# figure, and what its ratio should be.
BEFORE = (
    (("grpc", "1"), "native", "gRPC, 1 connection", "cpu_us", ""),
    (("grpc", "1"), "native", "gRPC, 1 connection", "rate", ""),
    (("grpc", "8"), "native", "gRPC, 8 connections", "cpu_us", ""),
    (("grpc", "8"), "native", "gRPC, 8 connections", "rate", "at least 3"),
    (("grpc", "8"), "native", "gRPC, 8 connections", "memory_mb", "at most 1"),
    (("grpc", "32"), "native", "gRPC, 32 connections", "cpu_us", ""),
    (("grpc", "32"), "native", "gRPC, 32 connections", "rate", "at least 3"),
    (("rest", "1"), "embedded", "REST, 1 connection", "cpu_us", ""),
    (("rest", "8"), "embedded", "REST, 8 connections", "cpu_us", "at most 0.6"),
    (("rest", "8"), "embedded", "REST, 8 connections", "p99_ms", "at most 1"),
    (("rest", "32"), "embedded", "REST, 32 connections", "cpu_us", "at most 0.6"),
    (("rest", "32"), "embedded", "REST, 32 connections", "p99_ms", "at most 1"),
    (("json_image", "8"), "embedded", "the image as JSON", "cpu_us", "at most 0.75"),
    (("image", "8"), "native", "the image over gRPC", "cpu_us", "at most 1"),
    (("model",), "native", "a model of 5 ms", "rate", "at least 1"),
    (("batching", "64"), "batched", "batching, 64 connections", "rate", "at least 1"),
    (("start",), "embedded", "start to the first response", "seconds", "at most 1"),
)
UNITS = {"rate": "requests/s", "cpu_us": "CPU, µs", "p99_ms": "p99, ms", "memory_mb": "memory, MB", "seconds": "s"}


def before(measured: Measured) -> str:
    """The embedded server beside that of an earlier commit."""
    rows = []
    for path, name, what, figure, aim in BEFORE:
        there = measured.of(*path)
        if "before" in there:
            numbers = (short(medians(there[key])[figure]) for key in ("before", name))
            compared = f"{ratio(there[name], there['before'], figure):.2f}"
            rows.append((f"{what}, {UNITS[figure]}", *numbers, compared, aim))
    commits = {job["versions"]["before"] for job in measured.jobs.values() if "before" in job["versions"]}
    return (
        table(("what", f"commit {' and '.join(sorted(commits))}", "now", "ratio", "aim"), rows) if rows else "Nothing."
    )


def aims(measured: Measured) -> str:
    """The targets, and whether they are met."""
    rows = [(what, f"{short(figure)}{unit}", aim) for what, figure, unit, aim in _figures(measured)]
    return table(("what", "figure", "aim"), rows)


def _figures(measured: Measured) -> Iterator[tuple[str, float, str, str]]:
    def most(figure: float, aim: float, unit: str = "") -> tuple[float, str, str]:
        return figure, unit, f"at most {aim:g}{unit}{'' if figure <= aim else ': not met'}"

    def least(figure: float, aim: float) -> tuple[float, str, str]:
        return figure, "", f"at least {aim:g}{'' if figure >= aim else ': not met'}"

    for connections, aim in zip(CONNECTIONS, (0.75, 0.45, 0.40), strict=True):
        there = measured.of("grpc", connections)
        what = f"gRPC, {connections} connection{'s' * (connections != '1')}: CPU over that of grpcio's echo"
        yield what, *most(ratio(there["native"], there["echo"], "cpu_us"), aim)
    model, batching, start = measured.of("model"), measured.of("batching"), measured.of("start")
    callers = "a model of 5 ms, gRPC, 4 connections: throughput over {} in process"
    yield callers.format("one caller"), *least(ratio(model["native"], model["1 in process"], "rate"), 0.97)
    yield callers.format("four callers"), ratio(model["native"], model["4 in process"], "rate"), "", ""
    many, one = batching["64"], batching["1"]
    what = "batching, weight-bound model, {}"
    gained, cost = ratio(many["batched"], many["unbatched"], "rate"), ratio(one["batched"], one["unbatched"], "p50_ms")
    yield what.format("64 connections: throughput over that without"), *least(gained, 2)
    yield what.format("1 connection: p50 over that without"), *most(cost, 1.1)
    what = "start to the first response, over `import tensorflow` and loading the model"
    yield what, *most(ratio(start["embedded"], start["bare"], "seconds"), 1.3)
    handler = medians(measured.of("handler", "handler"))
    yield (
        "the gRPC handler without TensorFlow's call, in a loop",
        *most(handler["handler_without_tensorflow_us"], 15, " µs"),
    )


TABLES: dict[str, Callable[[Measured], str]] = {
    "circumstances": circumstances,
    "requests to expect": expect,
    "TensorFlow Serving": real,
    "gRPC": under_load("grpc"),
    "REST": under_load("rest"),
    "image": image,
    "workers": workers,
    "aims": aims,
    "before": before,
}


def with_tables(page: str, measured: Measured) -> str:
    """The page with the tables between its marks, `<!-- NAME: python -m tests.bench.page -->` and `<!-- end -->`."""
    for name, made in TABLES.items():
        head = f"<!-- {name}: python -m tests.bench.page -->"
        between = re.compile(rf"(?<={re.escape(head)}\n).*?(?=^<!-- end -->)", re.M | re.S)
        if len(between.findall(page)) != 1:
            raise ValueError(f"one place for a table has to begin with {head} and to end with <!-- end -->")
        before, after = between.split(page)
        page = f"{before}\n{made(measured)}\n\n{after}"
    return page


def main() -> None:
    """Run the command of the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=DOCS / "performance.json")
    parser.add_argument("--page", type=Path, default=DOCS / "performance.md")
    parser.add_argument("--picture", type=Path, default=DOCS / "performance.png")
    arguments = parser.parse_args()
    measured = Measured(json.loads(arguments.json.read_text()))
    page = with_tables(arguments.page.read_text(), measured)
    with written_whole(arguments.page) as file:
        file.write(page.encode())
    draw(measured, arguments.picture)


if __name__ == "__main__":
    main()
