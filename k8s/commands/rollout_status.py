"""`rollout status` and `rollout report`: how far a rollout is, and what its gates saw."""

from __future__ import annotations

import json
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click

from tfserving.clients.commands.calls import reporting
from tfserving.foundation.command.options import fleet_option, json_option, writable
from tfserving.k8s.commands.errors import Errors, refuse
from tfserving.k8s.commands.place import Place, model_argument, place_options
from tfserving.serving.commands.options import read_with

if TYPE_CHECKING:
    from tfserving.k8s.rollout.overview import Line
    from tfserving.k8s.rollout.state import State
    from tfserving.k8s.rollout.target import Store

_WATCH_SECONDS = 1.0


@click.command(
    epilog="""\b
Examples:
  tfserving k8s rollout status digits
  tfserving k8s rollout status digits --json
  tfserving k8s rollout status digits --watch            until it is over
  tfserving k8s rollout status digits --watch --json     a line of JSON for each change
  tfserving k8s rollout status digits --cluster

\b
Exit codes:
  0    the status is printed; with --watch, the version is stable
  1    with --watch, it was rolled back
  2    the state can't be read
  130  Ctrl-C; the rollout goes on"""
)
@model_argument
@fleet_option
@place_options
@json_option
@click.option("--watch", is_flag=True, help="Print what is new until the rollout is over.")
def status(model: str, fleet: Path, place: Place, as_json: bool, watch: bool) -> None:
    """Shows how far the last rollout of MODEL is, and what its gates saw."""
    with Errors(2):
        store = place.store(read_with(fleet, model), model)
        with ExitStack() as stack:
            view: _View = _Json(watch) if as_json else _Lines(model)
            if watch and not as_json and sys.stdout.isatty():
                view = stack.enter_context(_Screen(model))
            state = _shown(store, view)
            while watch and state and not state.over:
                time.sleep(_WATCH_SECONDS)
                state = _shown(store, view)
    if watch and state and state.phase == "rolled-back":
        sys.exit(1)


@click.command(
    epilog="""\b
Examples:
  tfserving k8s rollout report digits                   writes rollout-digits-2-….html
  tfserving k8s rollout report digits -o report.html
  tfserving k8s rollout report digits --cluster

\b
Exit codes:
  0    the report is written
  1    it can't be written
  2    there is no rollout, or its state can't be read"""
)
@model_argument
@fleet_option
@place_options
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=writable(".html"),
    help="The .html file.  [default: rollout-MODEL-VERSION-TIME.html, the time being when the rollout began]",
)
def report(model: str, fleet: Path, place: Place, output: Path | None) -> None:
    """Writes a report of the last rollout of MODEL, one that is under way too: a page that needs no other file.

    It has the outcome, each step with its time and its figures, and plots of the latency and the failures of both
    versions.
    """
    with Errors(2):
        store = place.store(read_with(fleet, model), model)
        state = store.load()
        if state is None:
            refuse(f"{model} was never rolled out; `rollout start {model}` rolls it out")
        running = store.held()
    write(output or Path(_name(state)), state, running)


def write(path: Path, state: State, running: bool) -> None:
    """Writes the report of a rollout; one that can't be written ends the command."""
    from tfserving.k8s.rollout import report as page

    with reporting(path):
        page.write(path, state, running)


def _name(state: State) -> str:
    """A file's name that no other rollout's report has."""
    began = "".join(letter for letter in state.started.partition("+")[0] if letter not in "-:")
    return f"rollout-{state.model}-{state.new}-{began}.html"


def _shown(store: Store, view: _View) -> State | None:
    """Shows what is known now, and returns it."""
    state = store.load()
    view.show(state, state is not None and store.held())
    return state


class _View(Protocol):
    def show(self, state: State | None, running: bool) -> None:
        """Shows a rollout, or what is new of it."""


class _Json:
    """An object for each change; all in one line when there are several."""

    def __init__(self, watch: bool) -> None:
        self._indent = None if watch else 2
        self._before: dict[str, Any] | None = {}

    def show(self, state: State | None, running: bool) -> None:
        """See _View."""
        from tfserving.k8s.rollout.overview import as_json

        found = as_json(state, running) if state else None
        # The time that is left changes all the time.
        same = {key: value for key, value in found.items() if key != "remaining_seconds"} if found else None
        if same != self._before:
            self._before = same
            click.echo(json.dumps({"rollout": found}, indent=self._indent))


class _Lines:
    """The headline whenever another shell, or none, is at it, and each line once."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._headline: tuple[bool, bool] | None = None
        self._seen: set[Line] = set()

    def show(self, state: State | None, running: bool) -> None:
        """See _View."""
        from tfserving.k8s.rollout.overview import headline, lines
        from tfserving.k8s.rollout.progress import line

        if state is None:
            click.echo(f"{self._model} was never rolled out.")
            return
        found = [one for one in lines(state) if one not in self._seen]
        first = self._headline is None
        changed = self._headline != (running, state.over)
        self._headline = running, state.over
        self._seen.update(found)
        if changed and first:
            click.echo(headline(state, running))
        for one in found:
            click.echo(line(one.at, one.text, one.kind))
        if changed and not first:
            click.echo(headline(state, running))


class _Screen:
    """All of it, drawn anew each time, on a terminal."""

    def __init__(self, model: str) -> None:
        from rich.console import Console
        from rich.live import Live

        self._model = model
        self._live = Live(console=Console(highlight=False), auto_refresh=False)

    def __enter__(self) -> _Screen:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, state: State | None, running: bool) -> None:
        """See _View."""
        from rich.text import Text

        from tfserving.k8s.rollout.overview import headline, lines
        from tfserving.k8s.rollout.progress import line

        rows = [f"{self._model} was never rolled out."]
        if state:
            rows = [headline(state, running), *(line(one.at, one.text, one.kind) for one in lines(state))]
        self._live.update(Text.from_ansi("\n".join(rows)), refresh=True)
