"""Tables as text."""

from __future__ import annotations

from collections.abc import Iterable

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

# Wide enough for any row: a narrower terminal wraps the line, rich would wrap every cell.
WIDTH = 1000


def new_table(left: Iterable[str], right: Iterable[str] = (), last: Iterable[str] = ()) -> Table:
    """Return a table with columns of text, of numbers, and of text again."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for heading in left:
        table.add_column(Text(heading))
    for heading in right:
        table.add_column(Text(heading), justify="right")
    for heading in last:
        table.add_column(Text(heading))
    return table


def lines_of(table: Table) -> list[str]:
    """Return the lines of `table`, with colours when stdout is a terminal."""
    console = Console(highlight=False, width=WIDTH)
    with console.capture() as captured:
        console.print(table)
    return [line.rstrip() for line in captured.get().splitlines()]
