"""The report of a load test: every step, latency over throughput, and the distribution of latencies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tfserving.clients.reports.page import COLOURS, new_figure, svg, write_page

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from tfserving.clients.bench.load import Step

_PERCENTILES = {"p50": "plain", "p90": "good", "p99": "bad"}
_MARKERS = "osD^vP*X"


def write(path: Path, title: str, steps: Sequence[Step], earlier: Sequence[Step] = ()) -> None:
    """Write the page."""
    write_page(
        path,
        "load.html",
        title=title,
        steps=steps,
        earlier=earlier,
        throughput=_throughput(steps, earlier),
        distribution=_distribution(steps, earlier),
    )


def _throughput(steps: Sequence[Step], earlier: Sequence[Step]) -> str:
    """Return the plot of latency percentiles over throughput."""
    figure = new_figure(10, 4.5)
    axes = figure.subplots()
    kinds = list(dict.fromkeys(_kind(step) for step in (*steps, *earlier)))
    for runs, line, suffix in ((steps, "-", ""), (earlier, ":", ", before")):
        for kind in kinds:
            succeeded = sorted((step for step in runs if step.requests and _kind(step) == kind), key=_reached)
            for percentile, colour in _PERCENTILES.items() if succeeded else ():
                axes.plot(
                    [step.throughput for step in succeeded],
                    [step.percentiles[percentile] for step in succeeded],
                    _MARKERS[kinds.index(kind) % len(_MARKERS)] + line,
                    color=COLOURS[colour],
                    label=f"{percentile}, {kind}{suffix}",
                )
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.set_title("latency over throughput")
    axes.set_xlabel("requests a second")
    axes.set_ylabel("latency (ms)")
    if axes.lines:
        figure.legend(loc="outside right upper", frameon=False, fontsize="small")
    return svg(figure)


def _kind(step: Step) -> str:
    """Return what the steps of one line have in common."""
    loop = "open loop" if step.load.open else "closed loop"
    return loop if step.load.batch == 1 else f"{loop}, batch {step.load.batch}"


def _reached(step: Step) -> float:
    return step.throughput


def _distribution(steps: Sequence[Step], earlier: Sequence[Step]) -> str:
    """Return the plot of the part of the requests that took longer than each latency."""
    figure = new_figure(10, 4.5)
    axes = figure.subplots()
    import matplotlib as mpl

    colours = mpl.colormaps["viridis"]
    for runs, style, name in ((steps, "-", ""), (earlier, ":", ", before")):
        for number, step in enumerate(runs):
            if step.curve:
                _curve(axes, step, style, colours(0.9 * number / max(len(runs) - 1, 1)), f"{step.load}{name}")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(1, 0.001)
    axes.set_yticks([1, 0.5, 0.1, 0.01, 0.001], ["0 %", "50 %", "90 %", "99 %", "99.9 %"])
    axes.yaxis.set_minor_locator(mpl.ticker.NullLocator())
    axes.xaxis.set_major_formatter(mpl.ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_title("distribution of latencies")
    axes.set_xlabel("latency (ms)")
    axes.set_ylabel("requests within it")
    if axes.lines:
        axes.legend(frameon=False, fontsize="small")
    return svg(figure)


def _curve(axes: Axes, step: Step, style: str, colour: object, label: str) -> None:
    axes.plot(
        [milliseconds for _, milliseconds in step.curve],
        [1 - percentile / 100 for percentile, _ in step.curve],
        style,
        color=colour,
        label=label,
    )
