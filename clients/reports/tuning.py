"""The report of a tuning: all candidates, and throughput over latency."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tfserving.clients.reports.page import COLOURS, new_figure, svg, write_page

if TYPE_CHECKING:
    from tfserving.clients.tune import Candidate


def write(
    path: Path,
    model: str,
    candidates: Sequence[Candidate],
    winner: Candidate | None,
    limit: tuple[str, float] | None,
) -> None:
    """Write the page."""
    write_page(
        path,
        "tuning.html",
        title=f"Batching parameters of {model}",
        candidates=sorted(candidates, key=lambda one: -one.throughput),
        winner=winner,
        limit=limit,
        plot=_plot(candidates, winner, limit),
    )


def _plot(candidates: Sequence[Candidate], winner: Candidate | None, limit: tuple[str, float] | None) -> str:
    """Return the plot of throughput over the limited latency."""
    name = limit[0] if limit else "p99"
    figure = new_figure(10, 4.8)
    axes = figure.subplots()
    measured = [one for one in candidates if one.step is not None]
    groups = {
        "without batching": ("s", "plain", [one for one in measured if one.parameters is None]),
        "over the limit, or failed": ("x", "bad", [one for one in measured if not one.keeps(limit)]),
        "tried": ("o", "other", [one for one in measured if one.parameters is not None and one.keeps(limit)]),
        "best": ("*", "good", [winner] if winner else []),
    }
    for label, (marker, colour, members) in groups.items():
        steps = [one.step for one in members if one.step is not None]
        if steps:
            axes.plot(
                [step.latency(name) for step in steps],
                [step.throughput for step in steps],
                marker,
                color=COLOURS[colour],
                markersize=14 if marker == "*" else 7,
                label=label,
            )
    if limit:
        axes.axvline(limit[1], color=COLOURS["bad"], linestyle="--", linewidth=1, label=f"limit, {limit[1]:g} ms")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.set_title("throughput of every candidate over its latency")
    axes.set_xlabel(f"latency, {name} (ms)")
    axes.set_ylabel("requests a second")
    axes.legend(frameon=False)
    return svg(figure)
