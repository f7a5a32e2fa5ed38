"""Write the differences of tests/gpu/h200.json to docs/gpu.md, as a table and as a picture.

python -m tests.gpu.page
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tfserving.foundation.files import written_whole

DOCS = Path(__file__).resolve().parents[2] / "docs"
FIGURES = Path(__file__).with_name("h200.json")
START, END = "<!-- differences: python -m tests.gpu.page -->", "<!-- end -->"
# Okabe and Ito's colours, which people who see few colours tell apart too.
ON, OFF, LIMIT = "#d55e00", "#0072b2", "#8a8a8a"


def table(differences: Mapping[str, Mapping[str, Sequence[float | None]]]) -> str:
    """Return a table: for each model the differences with TF32 and without, absolute, by scale and in ULPs."""
    head = ["model", *(f"{kind}, {how}" for how in ("TF32", "TF32 off") for kind in ("absolute", "by scale", "ULP"))]
    rows = [
        [name, *(_short(value) for mode in ("tf32", "off") for value in of[mode])] for name, of in differences.items()
    ]
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))


def page(text: str, figures: Mapping[str, Any]) -> str:
    """Return the page with its table written anew."""
    filled = f"{START}\n\n{table(figures['differences'])}\n\n{END}"
    found, count = re.subn(f"{re.escape(START)}.*?{re.escape(END)}", lambda _: filled, text, flags=re.S)
    assert count == 1
    return found


def draw(figures: Mapping[str, Any], target: Path) -> None:
    """Write the picture: the differences by scale of each model, and the tolerances for the kinds of device."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    names = [*figures["differences"]]
    figure, axis = plt.subplots(figsize=(9, 4.4), layout="constrained")
    for place, name in enumerate(names):
        off, on = (figures["differences"][name][mode][1] for mode in ("off", "tf32"))
        axis.plot([off, on], [place, place], color="#cfcfcf", linewidth=3, zorder=1)
        axis.plot(off, place, "o", color=OFF, markersize=9)
        axis.plot(on, place, "D", color=ON, markersize=8)
    for text, limit in figures["tolerances"].items():
        axis.axvline(limit, color=LIMIT, linestyle="--", linewidth=1, zorder=0)
        axis.text(limit * 1.12, -0.72, text, color="#555555", fontsize=9, va="center")
    axis.plot([], [], "o", color=OFF, label="TF32 off")
    axis.plot([], [], "D", color=ON, label="TF32 on")
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.5, -1.2)
    axis.set_xscale("log")
    axis.set_xlim(5e-9, 0.2)
    axis.set_title("Largest difference from the outputs of a CPU, as a part of the output's scale", loc="left")
    axis.set_xlabel("largest difference / largest value (dashed: the tolerances by scale)")
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="y", length=0)
    axis.legend(loc="lower left", frameon=False)
    with written_whole(target) as file:
        figure.savefig(file, format="png", dpi=110, metadata={"Software": None})
    plt.close(figure)


def _short(value: float | None) -> str:
    if value is None:
        return "–"  # noqa: RUF001 - a dash, as print has it
    if value >= 1e5:
        return f"{value:.1e}".replace("e+0", "e")
    return f"{value:,.0f}" if value >= 1 else f"{value:.1e}".replace("e-0", "e-")


def main() -> None:
    """Write both."""
    figures = json.loads(FIGURES.read_text())
    text = page((DOCS / "gpu.md").read_text(), figures)
    with written_whole(DOCS / "gpu.md") as file:
        file.write(text.encode())
    draw(figures, DOCS / "gpu.png")


if __name__ == "__main__":
    main()
