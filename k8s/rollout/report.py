"""The report of a rollout: its outcome, steps and figures, and plots of both versions' latency and failures."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from tfserving.clients.reports.page import COLOURS, new_figure, svg, write_page
from tfserving.k8s.rollout.overview import lasted, parts, title
from tfserving.k8s.rollout.remaining import about, left
from tfserving.k8s.rollout.state import Figure, State

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# What comes of requests to two versions, as tfserving.k8s.rollout.judge.Comparison.numbers has it.
Numbers: TypeAlias = Mapping[str, Any]
_SIDES = {"old": "plain", "new": "fair"}
# Buckets of latencies are no wider than this: TensorFlow Serving's own, each 1.8 times the one before.
_WIDEST_BUCKET = 1.8
_MOST_CELLS = 40


@dataclass(frozen=True)
class Compared:
    """A comparison of what comes of requests, drawn."""

    figure: Figure
    plot: str

    @property
    def numbers(self) -> Numbers:
        """All that is known of it."""
        return self.figure.numbers


def write(path: Path, state: State, running: bool) -> None:
    """Writes the page. Raises OSError."""
    seconds = left(state, running)
    write_page(
        path,
        "rollout.html",
        package="tfserving.k8s.rollout",
        title=f"Rollout of {state.model}, version {state.old} → {state.new}",
        state=state,
        running=running,
        left=about(seconds) if seconds else "",
        took=lasted(state),
        parts=parts(state),
        title_of=title,
        local=_local,
        compared=[Compared(figure, _plot(figure.numbers, state)) for figure in state.figures if _is_compared(figure)],
        measured=[(figure, list(_cells(figure.numbers))) for figure in state.figures if _is_measured(figure)],
    )


def _local(at: str, form: str = "%H:%M:%S") -> str:
    """A time of the state as this machine's clock has it."""
    return datetime.fromisoformat(at).astimezone().strftime(form)


def _is_compared(figure: Figure) -> bool:
    return {"new", "old", "latency", "failures"} <= set(figure.numbers)


def _is_measured(figure: Figure) -> bool:
    return bool(figure.numbers) and not _is_compared(figure)


def _cells(numbers: Numbers, before: str = "") -> Iterator[tuple[str, str]]:
    """The names of numbers and what they are, those inside others too."""
    for key, value in list(numbers.items())[:_MOST_CELLS]:
        name = f"{before}{key}".replace("_", " ")
        if isinstance(value, Mapping):
            yield from _cells(value, f"{name}, ")
        elif isinstance(value, float):
            yield name, f"{value:.5g}"
        elif not isinstance(value, list):
            yield name, "not known" if value is None else str(value)


def _plot(numbers: Numbers, state: State) -> str:
    """Latency and failures of both versions over time, and how latencies are distributed."""
    figure = new_figure(11, 3.4)
    latency, failures, histogram = figure.subplots(1, 3)
    names = {"old": f"version {state.old}", "new": f"version {state.new}"}
    series = numbers.get("series", [])
    for side, first in (("new", 1), ("old", 4)):
        colour = COLOURS[_SIDES[side]]
        rows = [(row[0], *row[first : first + 3]) for row in series if row[first]]
        _over_time(latency, [(at, mean) for at, _, _, mean in rows if mean is not None], colour, names[side])
        _over_time(failures, [(at, 100 * failed / total) for at, total, failed, _ in rows], colour, names[side])
        if (mean := numbers[side]["mean_ms"]) is not None:
            latency.axhline(mean, color=colour, linestyle=":", linewidth=1)
        _histogram(histogram, numbers[side]["histogram_ms"], colour, names[side])
    for axes in (latency, failures):
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("seconds")
    if failures.get_ylim()[1] <= 1:
        failures.set_ylim(0, 1)
    latency.set_title("mean latency (ms)")
    failures.set_title("failed (%)")
    histogram.set_title("share of requests (%)")
    histogram.set_xlabel("latency (ms)")
    handles, labels = latency.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    return svg(figure)


def _over_time(axes: Axes, points: Sequence[tuple[float, float]], colour: str, label: str) -> None:
    axes.plot([at for at, _ in points], [value for _, value in points], ".-", color=colour, markersize=4, label=label)


def _histogram(axes: Axes, buckets: Sequence[tuple[float, int]], colour: str, label: str) -> None:
    """Buckets are known by their upper bounds; empty ones in between are left out."""
    import matplotlib as mpl

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(mpl.ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(mpl.ticker.NullLocator())
    total = sum(count for _, count in buckets)
    if not total:
        return
    bounds = [bound for bound, _ in buckets]
    width = min([_WIDEST_BUCKET, *(high / low for low, high in itertools.pairwise(bounds))])
    axes.bar(
        [bound / width for bound in bounds],
        [100 * count / total for _, count in buckets],
        [bound - bound / width for bound in bounds],
        align="edge",
        facecolor=mpl.colors.to_rgba(colour, 0.25),
        edgecolor=colour,
        label=label,
    )
