"""Draws what `tests.bench.serving_cost` measured: the embedded server beside a bare echo and the naive servers.

python -m tests.bench.plot docs/performance.json docs/performance.png
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ALL = {"echo": "echo", "embedded": "ours", "naive": "naive"}
# What stands in the picture: a title, the job, and who is in it, each with its name and what it is in the figures.
PARTS = (
    ("gRPC, tiny model,\n8 connections", ("grpc", "8 connections"), ALL),
    ("gRPC, tiny model,\n1 connection", ("grpc", "1 connections"), ALL),
    ("REST, tiny model,\n8 connections", ("rest",), ALL),
    ("REST, 224 by 224 image,\n4 connections", ("image",), {"embedded": "ours_rest", "naive": "naive_rest"}),
)
COLOURS = {"echo": "#b0b0b0", "embedded": "#2a78d6", "naive": "#d9822b"}
NAMES = {"echo": "bare grpcio echo of the same bytes", "embedded": "embedded server", "naive": "naive server"}


def draw(measured: Any, target: Path) -> None:
    """Writes the picture: for each part the CPU of a request, and the requests a second above the bars."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(PARTS), figsize=(11, 4), layout="constrained")
    for axis, (title, path, servers) in zip(axes, PARTS, strict=True):
        found = measured
        for key in path:
            found = found[key]
        figures_of = [found[figures] for figures in servers.values()]
        bars = [figures["cpu_us"] / 1000 for figures in figures_of]
        drawn = axis.bar(range(len(bars)), bars, color=[COLOURS[name] for name in servers])
        labels = [f"{figures['cpu_us'] / 1000:.3g} ms\n{figures['rate']:,.0f}/s" for figures in figures_of]
        axis.bar_label(drawn, labels, fontsize=8, padding=2)
        axis.set_title(title, fontsize=10)
        axis.set_xticks(range(len(bars)), list(servers), fontsize=9)
        axis.margins(y=0.18)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("server's CPU of a request, ms")
    handles = [mpl.patches.Patch(color=COLOURS[name]) for name in NAMES]
    figure.legend(handles, list(NAMES.values()), loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.savefig(target, dpi=120)


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
