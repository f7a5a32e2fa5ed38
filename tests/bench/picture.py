"""Draws docs/performance.png: real servers side by side, over gRPC and over REST."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.measured import Measured, short
from tfserving.foundation.files import written_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, which people who see few colours tell apart too.
OTHER = "#8a8a8a"
COLOURS = {
    "native": "#0072b2",
    "embedded": "#0072b2",
    "grpcio": "#56b4e9",
    "tensorflow_serving": "#d55e00",
    "echo": "#cfcfcf",
}
PROTOCOLS = (("grpc", "gRPC"), ("rest", "REST"))
FIGURES = (("rate", "requests a second (more is better)"), ("cpu_us", "CPU of a request in µs (less is better)"))
# Connections, where their bar is beside a server's name, and how strong its colour is.
BARS = (("8", -0.2, 1.0), ("32", 0.2, 0.5))
Servers = dict[str, tuple[str, dict[str, float]]]


def draw(measured: Measured, target: Path) -> None:
    """Writes the picture: for each protocol a row, with each server's requests a second and the CPU of a request."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    there = {job: {number: measured.with_real(job, number) for number, *_ in BARS} for job, _ in PROTOCOLS}
    heights = [len(there[job]["8"]) for job, _ in PROTOCOLS]
    layout = ConstrainedLayoutEngine(hspace=0.06, wspace=0.03)
    figure, axes = plt.subplots(2, 2, figsize=(11, 7), layout=layout, height_ratios=heights, sharey="row")
    for (job, protocol), row in zip(PROTOCOLS, axes, strict=True):
        for axis, (key, title) in zip(row, FIGURES, strict=True):
            for number, shift, alpha in BARS:
                bars(axis, there[job][number], key, shift, alpha)
            axis.set_title(f"{protocol}: {title}", fontsize=11.5, fontweight="bold", loc="left")
            axis.margins(x=0.12)
            axis.set_xticks([])
            axis.spines[["top", "right", "bottom"]].set_visible(False)
            axis.tick_params(axis="y", length=0)
        names = [name.replace(" (", "\n(").replace(", ", ",\n") for name, _ in there[job]["8"].values()]
        row[0].set_yticks(range(len(names)), names, fontsize=10)
        row[0].invert_yaxis()
    handles = [
        mpl.patches.Patch(color="black", alpha=alpha, label=f"{number} connections") for number, _, alpha in BARS
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=10.5)
    with written_whole(target) as file:
        figure.savefig(file, dpi=120, format="png")
    plt.close(figure)


def bars(axis: Axes, servers: Servers, key: str, shift: float, alpha: float) -> None:
    """A bar with its number for each server; one that was measured elsewhere is hatched."""
    for place, (name, (_, figures)) in enumerate(servers.items()):
        drawn = axis.barh(place + shift, figures[key], 0.38, color=COLOURS.get(name, OTHER), alpha=alpha, linewidth=0)
        if "p50_ms" not in figures:
            drawn.patches[0].set(hatch="///", edgecolor="white")
        axis.bar_label(drawn, [short(figures[key])], fontsize=9, padding=3)
