"""The HTML report of a rollout: outcome, steps, measurements, and plots of latency and failures of both versions."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from tfserving.clients.printable import printable
from tfserving.clients.reports.page import COLOURS, new_figure, svg, write_page
from tfserving.k8s.rollout.overview import lasted, parts, title
from tfserving.k8s.rollout.remaining import about, left
from tfserving.k8s.rollout.state import Figure, State

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# A comparison of two versions, in the form of tfserving.k8s.rollout.judge.Comparison.numbers.
Numbers: TypeAlias = Mapping[str, Any]
_SIDES = {"old": "plain", "new": "fair"}
# The widest buckets of latencies are TensorFlow Serving's: each bound is 1.8 times the one before.
_WIDEST_BUCKET = 1.8
_MOST_NAME = 80


# The requests that a gate compares.
_GATES = {
    "latency": "golden requests, alternately to both versions",
    "shadow": "captured requests, replayed",
    "clients": "requests from clients",
    "probe": "golden requests from the probe",
    "address": "golden requests through `rollout.address`",
}


def write(path: Path, state: State, running: bool) -> None:
    """Write the page. Raises OSError."""
    seconds = left(state, running)
    drifts = _have(state.figures, "share", "outputs", "allowed")
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
        gates=_GATES,
        metrics=_have(state.figures, "metric", "new", "old"),
        drifts=drifts,
        drift=_drift(drifts),
        compared=[(figure, _plot(figure.numbers, state)) for figure in _have(state.figures, "latency", "failures")],
    )


def _local(at: str, form: str = "%H:%M:%S") -> str:
    """Return a time of the state in local time."""
    return datetime.fromisoformat(at).astimezone().strftime(form)


def _have(figures: Iterable[Figure], *keys: str) -> list[Figure]:
    """Return the figures with all these numbers."""
    return [figure for figure in figures if set(keys) <= set(figure.numbers)]


def _drift(figures: Sequence[Figure]) -> str:
    """Plot the share of rows with a changed label, and the distance of each output, with the limits."""
    if not figures:
        return ""
    shares = {f"{figure.gate}, {figure.where}": 100 * figure.numbers["share"] for figure in figures}
    distances = {
        f"{name} ({figure.gate}, {figure.where})": move["distance"]
        for figure in figures
        for name, move in figure.numbers["outputs"].items()
    }
    rows = [len(shares) + 1, len(distances) + 1]
    drawn = new_figure(11, 1 + 0.35 * sum(rows))
    labels, scores = drawn.subplots(2, 1, height_ratios=rows)
    allowed = figures[0].numbers["allowed"]
    for axes, bars, most, what in (
        (labels, shares, allowed["labels"] and 100 * allowed["labels"], "rows with a changed label (%)"),
        (scores, distances, allowed["scores"], "distance between distributions"),
    ):
        names = [printable(name, _MOST_NAME) for name in bars]
        axes.bar_label(axes.barh(names, list(bars.values()), height=0.6, color=COLOURS["other"]), fmt="%.3g", padding=3)
        if most is not None:
            axes.axvline(most, color=COLOURS["bad"], linestyle="--", linewidth=1)
        axes.set_title(what)
        axes.set_xlim(left=0, right=None if any(bars.values()) or most else 1)
        axes.invert_yaxis()
    return svg(drawn)


def _plot(numbers: Numbers, state: State) -> str:
    """Plot the latency and failures of both versions over time, and the histogram of latencies."""
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
    """Plot buckets, given by their upper bounds; empty ones are left out."""
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
