"""HTML pages with plots inside."""

from __future__ import annotations

import io
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from tfserving.clients.printable import printable
from tfserving.foundation.files import written_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def _harmless(value: Any) -> Any:
    """Return text of a server without control characters."""
    return "\n".join(map(printable, value.split("\n"))) if type(value) is str else value


_OURS = __package__
# The colours of the plots, which can be read without colours, too.
COLOURS = {"good": "#2a7f3f", "fair": "#b07d00", "bad": "#b3261e", "plain": "#1f4e8c", "other": "#7a4fa3"}


def write_page(path: Path, template: str, package: str = _OURS, **values: Any) -> None:
    """Write the page of `template` with `values` to `path`, whole or not at all.

    The template is in the folder `templates` of `package`, and may extend `page.html`.
    """
    made = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    pages = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader(_OURS)]),
        autoescape=True,
        finalize=_harmless,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = pages.get_template(template).render(made=made, **values)
    with written_whole(path) as file:
        file.write(text.encode())


def new_figure(width: float, height: float) -> Figure:
    """Return a figure of this size in inches. It needs no display, and its text stays text."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # A $ in a name would start a formula.
    mpl.rcParams.update({"text.parse_math": False})
    mpl.rcParams.update({"svg.fonttype": "none", "font.family": "sans-serif", "axes.spines.top": False})
    mpl.rcParams.update({"axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3})
    return Figure(figsize=(width, height), layout="constrained")


def svg(figure: Figure) -> str:
    """Return the figure as an SVG element."""
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None})
    text = drawn.getvalue()
    return text[text.index("<svg") :]
