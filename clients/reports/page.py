"""A page of HTML with its plots inside."""

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
    """Text of a server, without what a terminal or a browser would act on."""
    return "\n".join(map(printable, value.split("\n"))) if type(value) is str else value


_OURS = __package__
# Of the plots, which are told apart without colours, too.
COLOURS = {"good": "#2a7f3f", "fair": "#b07d00", "bad": "#b3261e", "plain": "#1f4e8c", "other": "#7a4fa3"}


def write_page(path: Path, template: str, package: str = _OURS, **values: Any) -> None:
    """Writes the page that `template` makes of `values` to `path`, whole or not at all.

    It is in the folder `templates` of `package`, and may extend `page.html`.
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
    """A figure of so many inches that needs no display, its text kept as text."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # Names may have a $, which begins a formula otherwise.
    mpl.rcParams.update({"text.parse_math": False})
    mpl.rcParams.update({"svg.fonttype": "none", "font.family": "sans-serif", "axes.spines.top": False})
    mpl.rcParams.update({"axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3})
    return Figure(figsize=(width, height), layout="constrained")


def svg(figure: Figure) -> str:
    """The figure as an SVG element."""
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None})
    text = drawn.getvalue()
    return text[text.index("<svg") :]
