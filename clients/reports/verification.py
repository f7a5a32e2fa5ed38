"""The report of a verification: its outcome, all outputs, and a plot of the differences."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tfserving.clients.errors import PROTOCOL_NAMES
from tfserving.clients.printable import printable
from tfserving.clients.reports.page import COLOURS, new_figure, svg, write_page
from tfserving.clients.verification.verdicts import WAY_NAMES, Report, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_CLASSES = {"equal": "good", "within tolerance": "fair", "near tie": "fair", "different": "bad", "failed": "bad"}
_MOST_NAME = 200
_MARKERS = {"grpc": "o", "rest": "D"}


def write(path: Path, report: Report) -> None:
    """Write the page."""
    left_out = {
        f"{row.model}, signature {row.signature!r}: not sent {WAY_NAMES[way]}: {reason}": None
        for row in report.rows
        for way, reason in row.left_out.items()
    }
    write_page(
        path,
        "verification.html",
        title=f"Outputs compared with {report.against or 'golden outputs'}",
        report=report,
        plot=_plot(report),
        reasons=[*(str(row) for row in report.rows if row.reason), *left_out],
        protocols=PROTOCOL_NAMES,
        ways=WAY_NAMES,
        classes=_CLASSES,
    )


def _plot(report: Report) -> str:
    """Return the plot of the largest differences of float outputs: by scale and in ULPs."""
    rows = [row for row in report.rows if row.absolute is not None]
    if not rows:
        return ""
    names = list(dict.fromkeys(map(_name, rows)))
    figure = new_figure(11, 1.6 + 0.34 * len(names))
    scaled, ulps = figure.subplots(1, 2, sharey=True)
    for row in rows:
        place = names.index(_name(row)) + (-0.13 if row.protocol == "grpc" else 0.13)
        _mark(scaled, row, place, row.scaled)
        _mark(ulps, row, place, row.ulp)
    scaled.set_yticks(range(len(names)), names)
    scaled.set_ylim(len(names) - 0.5, -0.5)
    scaled.set_xscale("symlog", linthresh=1e-8)
    ulps.set_xscale("symlog", linthresh=1)
    scaled.set_title("largest difference by scale")
    scaled.set_xlabel("difference / largest value in the row")
    ulps.set_title("largest difference in ULPs")
    ulps.set_xlabel("difference (ULP)")
    for axes in (scaled, ulps):
        axes.set_xlim(left=0)
        if axes.get_xlim()[1] < 1e-7:  # noqa: PLR2004 - all are equal
            axes.set_xlim(0, 1e-6)
    if ulps.get_xlim()[1] <= 1:
        ulps.set_xlim(0, 10)
    for protocol in report.protocols:
        ulps.plot([], [], _MARKERS[protocol], color="#555", label=PROTOCOL_NAMES[protocol])
    for verdict in dict.fromkeys(row.verdict for row in rows):
        ulps.plot([], [], "s", color=COLOURS[_CLASSES[verdict]], label=verdict)
    figure.legend(loc="outside lower center", ncols=5, frameon=False)
    return svg(figure)


def _mark(axes: Axes, row: Row, place: float, value: float | None) -> None:
    if value is not None and value != float("inf"):
        axes.plot(value, place, _MARKERS[row.protocol], color=COLOURS[_CLASSES[row.verdict]], clip_on=False)


def _name(row: Row) -> str:
    version = "" if row.version is None else f" {row.version}"
    return printable(f"{row.model}{version} / {row.signature} / {row.output}", _MOST_NAME)
