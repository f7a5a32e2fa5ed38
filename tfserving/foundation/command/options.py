"""Options that many commands have."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from tfserving.foundation.command.errors import CommandError
from tfserving.foundation.command.project import FLEET_VARIABLE, find_fleet
from tfserving.foundation.files import is_replaced


def _use(ctx: click.Context, _option: click.Parameter, path: Path | None) -> Path | None:
    """Return the file given, or the one found from the working folder; the command's project uses it."""
    if ctx.resilient_parsing:
        return path
    file = path or find_fleet()
    if (found := ctx.find_root().obj) is not None:
        found.use(file)
    return file


fleet_option = click.option(
    "--fleet",
    type=click.Path(path_type=Path),
    envvar=FLEET_VARIABLE,
    show_envvar=True,
    callback=_use,
    metavar="FILE",
    help="The models.yaml to use.  [default: the one in this folder or the nearest above]",
)


def complete_models(ctx: click.Context, _argument: click.Parameter, incomplete: str) -> list[str]:
    """Return the models of the fleet that begin with `incomplete`, for a shell that completes a word."""
    with suppress(CommandError):
        return [name for name in ctx.find_root().obj.models() if name.startswith(incomplete)]
    return []


models_argument = click.argument("names", nargs=-1, metavar="[MODEL]...", shell_complete=complete_models)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


class Finite(click.FloatRange):
    """A number that is neither NaN nor infinite, which click accepts."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """See `click.ParamType.convert`."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number", param, ctx)
        return number


wait_option = click.option(
    "--wait",
    type=Finite(min=1),
    default=180.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for all models to load.",
)


def writable(suffix: str = "") -> Callable[[click.Context, click.Parameter, Path | None], Path | None]:
    """Return a callback that refuses a file that can't be written; `suffix` is the required end of its name."""

    def check(_context: click.Context, _option: click.Parameter, path: Path | None) -> Path | None:
        if path is None:
            return None
        if not path.absolute().parent.is_dir():
            raise click.BadParameter(f"the folder {path.parent} does not exist")
        try:
            made = is_replaced(path)
        except OSError as error:
            raise click.BadParameter(f"{path} can't be written: {error.strerror}") from None
        # A pipe or a device has any name.
        if made and suffix and path.suffix != suffix:
            raise click.BadParameter(f"{path} does not end with {suffix}")
        return path

    return check


def _can_report(context: click.Context, option: click.Parameter, path: Path | None) -> Path | None:
    """Return the file of a report. Raises ModuleNotFoundError before the work, when what writes it isn't installed."""
    path = writable(".html")(context, option, path)
    for module in ("jinja2", "matplotlib") if path is not None else ():
        if find_spec(module) is None:
            raise ModuleNotFoundError(f"No module named {module!r}", name=module)
    return path


report_option = click.option(
    "--report",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=_can_report,
    metavar="FILE",
    help="Write a report to this .html file, which needs no other file.",
)
