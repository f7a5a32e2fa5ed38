"""`rollout status` and `rollout report`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click

from tfserving.foundation.command.errors import FAILED, WRONG, CommandError
from tfserving.foundation.command.options import fleet_option, json_option, models_argument, writable
from tfserving.k8s.commands.failures import failing
from tfserving.k8s.commands.place import Place, model_argument, place_options, read_with
from tfserving.k8s.hints import recommended

if TYPE_CHECKING:
    from tfserving.k8s.rollout.overview import Line
    from tfserving.k8s.rollout.state import State
    from tfserving.k8s.rollout.target import Store

_WATCH_SECONDS = 1.0


@click.command(
    epilog="""\b
Examples:
  tfserving rollout status                    one line for each model
  tfserving rollout status digits
  tfserving rollout status digits --json
  tfserving rollout status digits --watch     until it is over
  tfserving rollout status digits --watch --json
  tfserving rollout status digits --cluster

\b
Exit codes: 0 the status is printed; with --watch, every rollout is done; 1
with --watch, one was rolled back; 2 a state can't be read. Ctrl-C ends the
watching, and not the rollout."""
)
@models_argument
@fleet_option
@place_options
@json_option
@click.option("--watch", is_flag=True, help="Print changes until the rollouts are over.")
def status(names: tuple[str, ...], fleet: Path, place: Place, as_json: bool, watch: bool) -> None:
    """Print the last rollout of each MODEL.

    For the models that you name, the measurements of the gates are printed too.
    With --watch and --json, each change is a line of JSON.
    """
    from tfserving.serving.models_yaml.fleet import read_fleet

    with failing(WRONG):
        read = read_fleet(fleet)
        selected = read.select(names)
        stores = [place.store(read, name) for name in selected]
        with ExitStack() as stack:
            view: _View = _Json(watch) if as_json else _Lines(selected, details=bool(names))
            if watch and not as_json and sys.stdout.isatty():
                view = stack.enter_context(_Screen(selected, details=bool(names)))
            states = _shown(stores, view)
            while watch and any(state and not state.over for state in states):
                time.sleep(_WATCH_SECONDS)
                states = _shown(stores, view)
    if watch and any(state and state.phase == "rolled-back" for state in states):
        sys.exit(FAILED)


@click.command(
    epilog="""\b
Examples:
  tfserving rollout report digits
  tfserving rollout report digits -o report.html
  tfserving rollout report digits --cluster"""
)
@model_argument
@fleet_option
@place_options
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=writable(".html"),
    metavar="FILE",
    help="The .html file.  [default: rollout-MODEL-VERSION-TIME.html]",
)
def report(model: str, fleet: Path, place: Place, output: Path | None) -> None:
    """Write an HTML report of the last rollout of MODEL.

    It contains the outcome, the time and measurements of each step, and plots
    of the latency and failures of both versions. The file needs no other file.
    A rollout that is in progress has a report, too.
    """
    with failing(WRONG):
        store = place.store(read_with(fleet, model), model)
        state = store.load()
        if state is None:
            raise CommandError(
                f"{model} has never been rolled out. Roll it out with `{recommended(f'rollout start {model}')}`.", WRONG
            )
        running = store.held()
    write(output or Path(_name(state)), state, running)


def write(path: Path, state: State, running: bool) -> None:
    """Write the report of a rollout. Raises CommandError."""
    from tfserving.k8s.rollout import report as page

    try:
        page.write(path, state, running)
    except OSError as error:
        raise CommandError(f"cannot write the report {path}: {error.strerror or error}", FAILED) from None
    click.echo(f"Report: {path}", err=True)


def _name(state: State) -> str:
    """Return a file name that no other rollout's report has."""
    began = "".join(letter for letter in state.started.partition("+")[0] if letter not in "-:")
    return f"rollout-{state.model}-{state.new}-{began}.html"


def _shown(stores: Sequence[Store], view: _View) -> list[State | None]:
    """Read the states, show them, and return them."""
    states = [store.load() for store in stores]
    view.show([(state, state is not None and store.held()) for state, store in zip(states, stores, strict=True)])
    return states


class _View(Protocol):
    def show(self, rollouts: Sequence[tuple[State | None, bool]]) -> None:
        """Show the rollouts, or what is new; each has a state and whether a process runs it."""


class _Json:
    """A document; with `watch`, one line for each change."""

    def __init__(self, watch: bool) -> None:
        self._indent = None if watch else 2
        self._before: list[dict[str, Any]] | None = None

    def show(self, rollouts: Sequence[tuple[State | None, bool]]) -> None:
        """See _View."""
        from tfserving.k8s.rollout.overview import as_json

        found = [as_json(state, running) for state, running in rollouts if state]
        # The remaining time changes all the time.
        same = [{key: value for key, value in one.items() if key != "remaining_seconds"} for one in found]
        if same != self._before:
            self._before = same
            click.echo(json.dumps({"rollouts": found}, indent=self._indent))


class _Lines:
    """Headlines whenever a rollout starts, stops or ends, and with `details` each line once."""

    def __init__(self, models: Sequence[str], *, details: bool) -> None:
        self._models = models
        self._details = details
        self._headlines: dict[str, tuple[bool, bool]] = {}
        self._seen: dict[str, set[Line]] = {model: set() for model in models}

    def show(self, rollouts: Sequence[tuple[State | None, bool]]) -> None:
        """See _View."""
        for model, (state, running) in zip(self._models, rollouts, strict=True):
            self._show(model, state, running)

    def _show(self, model: str, state: State | None, running: bool) -> None:
        from tfserving.k8s.rollout.overview import headline, lines
        from tfserving.k8s.rollout.progress import line

        if state is None:
            click.echo(_never(model))
            return
        seen = self._seen[model]
        found = [one for one in lines(state) if one not in seen] if self._details else []
        seen.update(found)
        first = model not in self._headlines
        changed = self._headlines.get(model) != (running, state.over)
        self._headlines[model] = running, state.over
        if changed and first:
            click.echo(headline(state, running))
        for one in found:
            click.echo(line(one.at, one.text, one.kind))
        if changed and not first:
            click.echo(headline(state, running))


class _Screen:
    """All of it, drawn again each time, on a terminal."""

    def __init__(self, models: Sequence[str], *, details: bool) -> None:
        from rich.console import Console
        from rich.live import Live

        self._models, self._details = models, details
        self._live = Live(console=Console(highlight=False), auto_refresh=False)

    def __enter__(self) -> _Screen:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, rollouts: Sequence[tuple[State | None, bool]]) -> None:
        """See _View."""
        from rich.text import Text

        from tfserving.k8s.rollout.overview import headline, lines
        from tfserving.k8s.rollout.progress import line

        rows = []
        for model, (state, running) in zip(self._models, rollouts, strict=True):
            rows.append(headline(state, running) if state else _never(model))
            if state and self._details:
                rows += [line(one.at, one.text, one.kind) for one in lines(state)]
        self._live.update(Text.from_ansi("\n".join(rows)), refresh=True)


def _never(model: str) -> str:
    return f"{model} has never been rolled out."
