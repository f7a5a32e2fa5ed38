"""The output of rollouts: progress, status as text and JSON, the report, and the stored state."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from tfserving.cli import tfserving
from tfserving.k8s.at_once import Pause
from tfserving.k8s.rollout import report
from tfserving.k8s.rollout.controller import Controller
from tfserving.k8s.rollout.judge import Comparison
from tfserving.k8s.rollout.local import LocalStore
from tfserving.k8s.rollout.overview import as_json, headline, lines
from tfserving.k8s.rollout.progress import Progress, line
from tfserving.k8s.rollout.remaining import about, duration, left, remaining
from tfserving.k8s.rollout.state import MOST_CHARACTERS, Figure, Phase, State, Step, StrategyName, read_state
from tfserving.k8s.rollout.strategy import Strategy
from tfserving.k8s.rollout.target import GateError
from tfserving.serving.models_yaml.fleet import read_fleet
from tfserving.serving.models_yaml.rollout import Rollout

ROOT = Path(__file__).resolve().parents[2]
BEGAN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
HOSTILE = "\x1b]0;t\x07</p><script>alert(1)</script>\u202e"
TIME = r"\d\d:\d\d:\d\d"


def at(seconds: float) -> str:
    return (BEGAN + timedelta(seconds=seconds)).isoformat(timespec="seconds")


def outcome(milliseconds: float, failed: int = 0) -> dict[str, Any]:
    """What came of a hundred requests, and of `failed` more."""
    return {
        "requests": 100 + failed,
        "failed": failed,
        "failures": {f"RESOURCE_EXHAUSTED {HOSTILE}": failed} if failed else {},
        "mean_ms": milliseconds,
        "p50_ms": milliseconds,
        "p99_ms": 2 * milliseconds,
        "histogram_ms": [[milliseconds, 60], [1.2 * milliseconds, 38], [2 * milliseconds, 2]],
    }


def compared(failed: int = 0, rows: int = 20) -> dict[str, Any]:
    """What a comparison keeps."""
    return {
        "new": outcome(3, failed),
        "old": outcome(2),
        "latency": {"ratio": 1.5, "low": 1.4, "high": 1.6, "blocks": rows, "slower_blocks": rows, "decision": "open"},
        "failures": {"more": 0.0, "low": 0.0, "high": 0.1, "p_value": 0.5, "decision": "open"},
        "series": [[number, 5, failed, 3.25, 5, 0, None if number % 2 else 2.125] for number in range(rows)],
        "needed": 0,
    }


FIGURES = (
    Figure("golden", "all 5 golden requests equal", where="server A", phase="proving", at=at(2)),
    Figure("probe", f"12 of 112 failed {HOSTILE}", False, numbers=compared(12), phase="stable", at=at(40)),
)
BEGUN: dict[Phase, float] = {"loading": 0, "proving": 1, "canary": 3, "stable": 5, "rolling-back": 40}
STEPS = tuple(Step(phase, 0, at(seconds)) for phase, seconds in BEGUN.items())
UNDER_WAY = State(
    "digits", 1, 2, {"stable": 1}, (1,), (2,), phase="baking", figures=FIGURES[:1], steps=STEPS[:-1], started=at(0)
)
ROLLED_BACK = replace(
    UNDER_WAY,
    phase="rolled-back",
    reason=f"stable: 12 of 112 failed {HOSTILE}",
    figures=FIGURES,
    steps=(*STEPS, Step("rolled-back", 0, at(42))),
)
DONE = replace(UNDER_WAY, phase="done", steps=(*STEPS[:-1], Step("done", 0, at(95))))


@dataclass
class Kept:
    """A fleet with `digits`, and the state of its last rollout."""

    file: Path

    @property
    def store(self) -> LocalStore:
        return LocalStore(read_fleet(self.file), "digits")

    def rollout(self, *words: str, code: int = 0) -> Result:
        done = CliRunner().invoke(tfserving, ["rollout", *words, "--fleet", str(self.file)])
        assert done.exit_code == code, (words, done.output, done.exception)
        return done

    def watching(self, *words: str, stdout: int = subprocess.PIPE) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tfserving", "rollout", "status", "digits", "--watch", *words]
        env = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
        return subprocess.Popen([*command, "--fleet", str(self.file)], cwd=ROOT, stdout=stdout, text=True, env=env)


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    file = tmp_path / "models.yaml"
    file.write_text("models:\n  digits:\n    builder: tests.scaled:build\n    labels: {stable: 1}\n")
    return Kept(file)


@pytest.mark.parametrize(
    ("seconds", "exactly", "roughly"),
    [
        (0.2, "0 s", "about 1 s"),
        (12.4, "12 s", "about 12 s"),
        (42, "42 s", "about 40 s"),
        (59, "59 s", "about 1 min"),
        (131, "2 min 11 s", "about 2 min 10 s"),
        (400, "6 min 40 s", "about 7 min"),
        (3900, "1 h 5 min", "about 1 h 5 min"),
        (7200, "2 h", "about 2 h"),
    ],
)
def test_durations_are_as_exact_as_they_are_known(seconds: float, exactly: str, roughly: str) -> None:
    assert (duration(seconds), about(seconds)) == (exactly, roughly)


@pytest.mark.parametrize(
    ("strategy", "phase", "weight", "seconds"),
    [
        ("in-place", "loading", 0, 130),
        ("in-place", "baking", 0, 30),
        ("pods", "loading", 0, 180),
        ("pods", "stable", 0, 180),
        ("pods", "stable", 25, 130),
        ("pods", "baking", 100, 30),
    ],
)
def test_windows_that_are_left_and_the_bake_say_how_long_it_takes(
    strategy: StrategyName, phase: Phase, weight: int, seconds: float
) -> None:
    settings = Rollout(window=50, bake=30, weights=(25, 50, 100), probe=0)
    state = replace(UNDER_WAY, strategy=strategy, phase=phase, weight=weight)
    assert remaining(state, settings) == seconds
    assert remaining(replace(state, manual=True), settings) == (seconds if phase == "baking" else None)


def test_the_time_left_goes_down_while_a_shell_is_at_it() -> None:
    state, began = UNDER_WAY.begun(60.0), datetime.now(timezone.utc)
    assert left(state, True, began + timedelta(seconds=20)) == pytest.approx(40, abs=2)
    assert left(state, True, began + timedelta(seconds=99)) == 0
    assert left(state, False) is None
    assert left(replace(state, paused=True), True) is None
    assert left(DONE, False) == 0
    assert headline(state, True).endswith("baking, about 1 min left")
    assert re.search(r"baking; stopped\. Resume it with `.*rollout start digits`\.$", headline(state, False))


def test_a_line_begins_with_its_time_and_what_follows_is_below() -> None:
    clock = f"{BEGAN.astimezone():%H:%M:%S}"
    shown = click.unstyle(line(BEGAN, "  one\ntwo\x1b[2J"))
    assert shown == f"{clock}    one\n            two\\x1b[2J"


class Terminal(io.StringIO):
    """Where a terminal would be."""

    def isatty(self) -> bool:
        return True


def test_on_a_pipe_what_is_waited_for_is_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress() as say:
        say("Loading …")
        for _ in range(100):
            say("  3 of 4", "waiting")
        say("done", "good")
    with Progress(0.0) as say:
        say("  4 of 4", "waiting")
    shown = capsys.readouterr().err.splitlines()
    assert [re.sub(f"^{TIME}  ", "", one) for one in shown] == ["Loading …", "done", "  4 of 4"]


def test_on_a_terminal_what_is_waited_for_is_one_live_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with Progress() as say:
        say("  3 of 4", "waiting")
        say("Rolling back …", "bad")
        say("  1 of 2", "waiting")
    shown = terminal.getvalue()
    live, printed = shown.index("3 of 4"), shown.index("\x1b[31mRolling back …")
    # The line is erased, and the cursor is there again, before another is printed and at the end.
    assert live < shown.index("\x1b[?25h") < shown.index("\x1b[2K") < printed
    assert shown.rindex("1 of 2") < shown.rindex("\x1b[?25h") < shown.rindex("\x1b[2K")


def test_a_state_fits_a_config_map_and_loses_the_oldest_series_first() -> None:
    many = tuple(
        Figure("probe", f"{number} {'x' * 9000}", numbers=compared(rows=300), phase="stable") for number in range(60)
    )
    text = replace(ROLLED_BACK, figures=many, reason="y" * 10**6).text()
    assert 0.9 * MOST_CHARACTERS < len(text) <= MOST_CHARACTERS
    figures = read_state(text).figures
    assert [figure.text[:3] for figure in figures] == [figure.text[:3] for figure in many]
    have = ["series" in figure.numbers for figure in figures]
    assert have == sorted(have)
    assert {True, False} == {*have}
    assert all(figure.numbers["new"] == outcome(3) for figure in figures)
    # Where texts alone are too long, the last figures are what is left.
    wordy = tuple(replace(figure, numbers={}) for figure in many * 9)
    long = read_state(replace(ROLLED_BACK, figures=wordy).text())
    assert [figure.text for figure in long.figures] == [figure.text for figure in (figures * 9)[-len(long.figures) :]]
    assert 50 < len(long.figures) < 540
    assert read_state(ROLLED_BACK.text()) == ROLLED_BACK


class Failing(Strategy):
    """Its gate lets a version come as far as `stable`, and needs no server."""

    def load(self, state: State, pause: Pause) -> None:
        """See Strategy."""

    def prove(self, state: State, pause: Pause) -> None:  # noqa: ARG002 - nothing is sent
        """See Strategy."""
        self._saw(Figure("golden", "all equal"))

    def compare(self, state: State, pause: Pause) -> None:
        """See Strategy."""

    def move(self, state: State, pause: Pause) -> State:  # noqa: ARG002 - nothing moves
        """See Strategy."""
        raise GateError("too slow, by far", Figure("probe", "too slow", False, numbers=compared()))

    def bake(self, state: State, pause: Pause) -> None:
        """See Strategy."""

    def unload(self, state: State) -> None:
        """See Strategy."""

    def go_back(self, state: State) -> None:
        """See Strategy."""

    def sentence(self, state: State) -> str:
        """See Strategy."""
        return f"{state.phase} …"

    def check(self, state: State) -> None:
        """See Strategy."""

    def close(self) -> None:
        """See Strategy."""


def test_progress_has_times_and_what_is_left_and_leaves_the_reason_for_the_end(
    kept: Kept, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = Progress()
    fleet = read_fleet(kept.file).model_copy(update={"rollout": Rollout(window=30, bake=60, probe=0)})
    strategy = Failing(fleet, 1.0, progress)
    ended = Controller(strategy, kept.store, progress).run(State("digits", 1, 2, {"stable": 1}, (1,), (2,)))
    left = "about 2 min left"
    shown = capsys.readouterr().err.splitlines()
    assert [re.sub(f"^{TIME}  ", "", one) for one in shown] == [
        *(f"loading … {left}", f"proving … {left}", "  all equal", f"canary … {left}", f"stable … {left}"),
        *("rolling-back …", "Clients of digits get version 1."),
    ]
    assert ended == kept.store.load()
    assert ended.reason == "stable: too slow, by far"
    assert [step.phase for step in ended.steps] == [
        *("loading", "proving", "canary", "stable", "rolling-back", "rolled-back")
    ]
    # What stopped it is among the figures.
    assert [(one.phase, one.passed) for one in ended.figures] == [("proving", True), ("stable", False)]


def test_what_gates_saw_stands_below_the_phase_in_which_they_saw_it() -> None:
    again = replace(
        UNDER_WAY,
        steps=(*STEPS[:3], Step("proving", 0, at(10)), Step("canary", 0, at(12))),
        figures=(*FIGURES[:1], Figure("golden", "again", phase="proving", at=at(11))),
    )
    assert [one.text for one in lines(again)] == [
        *("loading", "proving", "  server A: all 5 golden requests equal", "canary", "proving", "  again", "canary")
    ]


def test_status_is_a_line_for_each_step_and_numbers_for_programs(kept: Kept) -> None:
    assert kept.rollout("status", "digits").stdout == "digits has never been rolled out.\n"
    assert json.loads(kept.rollout("status", "digits", "--json").stdout) == {"rollouts": []}
    kept.store.save(ROLLED_BACK)
    first, *others = kept.rollout("status", "digits").stdout.splitlines()
    assert first.startswith("digits version 1 → 2: rolled-back (stable: 12 of 112 failed ")
    assert first.endswith(" took 42 s")
    assert "\x1b" not in first
    assert [re.sub(f"^{TIME}  ", "", one) for one in others[:3]] == [
        *("loading", "proving", "  server A: all 5 golden requests equal")
    ]
    (said,) = json.loads(kept.rollout("status", "digits", "--json").stdout)["rollouts"]
    assert said == json.loads(json.dumps(as_json(ROLLED_BACK, False)))
    assert (said["outcome"], said["running"], said["remaining_seconds"]) == ("rolled-back", False, 0)
    assert said["figures"][1]["numbers"]["new"]["failed"] == 12
    assert set(said["figures"][0]) == {"gate", "phase", "at", "where", "passed", "text", "numbers"}


def test_the_page_has_every_key_of_the_status() -> None:
    page = (ROOT / "docs/rollouts.md").read_text()
    (section,) = re.findall(r"^## Follow a rollout\n(.*?)^## ", page, re.M | re.S)
    keys, of_comparisons = (
        {key for first in re.findall(r"^\| (`.*?) \|", table, re.M) for key in re.findall(r"`(\w+)`", first)}
        for table in section.split("| Key | Meaning |")[1:]
    )
    assert keys == set(as_json(DONE, False))
    assert of_comparisons == set(compared()) == set(Comparison(Rollout()).numbers())
    printed = as_json(ROLLED_BACK, False)
    ((moment, *_), numbers) = (printed["figures"][1]["numbers"][part] for part in ("series", "new"))
    for key in (
        *printed["figures"][0],
        *printed["steps"][0],
        *numbers,
        *numbers["histogram"][0],
        *moment,
        *moment["new"],
    ):
        assert f"`{key}`" in section, key


def test_watching_ends_with_the_rollout_and_its_outcome(kept: Kept) -> None:
    """A line for each step on a pipe, an object a line with --json, and on a terminal a screen that is drawn again."""
    kept.store.save(UNDER_WAY)
    control, terminal = pty.openpty()
    with (
        kept.watching() as plain,
        kept.watching("--json") as as_objects,
        kept.watching(stdout=terminal) as on_a_terminal,
        kept.watching() as interrupted,
    ):
        os.close(terminal)
        begun = []
        for process in (plain, as_objects, interrupted):
            assert process.stdout is not None
            begun.append(process.stdout.readline())
        drawn = os.read(control, 1000)
        interrupted.send_signal(signal.SIGINT)
        assert interrupted.wait(60) == 130
        kept.store.save(ROLLED_BACK)
        assert [process.wait(60) for process in (plain, as_objects, on_a_terminal)] == [1, 1, 1]
        assert begun[0] == begun[2]
        assert begun[0].startswith("digits version 1 → 2: baking; stopped. Resume it with `")
        assert plain.stdout is not None
        shown = [re.sub(f"^{TIME}  ", "", one) for one in plain.stdout.read().splitlines()]
        assert shown[0] == "loading"
        assert shown.count("loading") == 1
        assert shown[-1].startswith("digits version 1 → 2: rolled-back ")
        assert as_objects.stdout is not None
        objects = [json.loads(one)["rollouts"][0] for one in (begun[1], *as_objects.stdout)]
        assert [one["outcome"] for one in objects] == [None, "rolled-back"]
        with_all = drawn + read_all(control)
    assert with_all.count(b"loading") >= 2
    assert b"rolled-back" in with_all
    kept.store.save(DONE)
    kept.rollout("status", "digits", "--watch")


def read_all(control: int) -> bytes:
    """What else a terminal got."""
    found = b""
    while True:
        try:
            more = os.read(control, 1 << 16)
        except OSError:
            # The other end is closed.
            os.close(control)
            return found
        found += more


@pytest.mark.parametrize("state", [ROLLED_BACK, UNDER_WAY, DONE], ids=["rolled-back", "under-way", "done"])
def test_the_report_is_a_page_that_needs_no_other_file(kept: Kept, state: State, tmp_path: Path) -> None:
    kept.store.save(state)
    page = tmp_path / "report.html"
    assert f"Report: {page}" in kept.rollout("report", "digits", "-o", str(page)).stderr
    text = page.read_text()
    assert "<h1>Rollout of digits, version 1 → 2</h1>" in text
    assert {"rolled-back": "Rolled back to version 1: stable: 12 of", "done": "Version 2 is stable."}.get(
        state.phase, "In progress: baking; stopped"
    ) in text
    assert "all 5 golden requests equal" in text
    # One plot of each comparison, with both versions in it.
    assert text.count("<svg") == (state is ROLLED_BACK)
    assert text.count("mean latency (ms)") == text.count("<svg")
    for active in ("<script", "<link", "<img", "@import", 'href="http', "\x1b", "\u202e"):
        assert active not in text


def test_a_report_has_a_name_of_its_own_and_needs_a_rollout(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(kept.file.parent)
    assert "digits has never been rolled out. Roll it out with `" in kept.rollout("report", "digits", code=2).stderr
    kept.store.save(DONE)
    kept.rollout("report", "digits")
    kept.rollout("report", "digits")
    assert [path.name for path in Path().glob("*.html")] == ["rollout-digits-2-20260102T030405.html"]
    assert "does not end with .html" in kept.rollout("report", "digits", "-o", "report.txt", code=2).stderr


def test_the_plots_have_what_came_to_each_version(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    empty = {**compared(), "old": {**outcome(2), "mean_ms": None, "histogram_ms": []}}
    without = {key: value for key, value in empty.items() if key != "series"}
    probes = [Figure("probe", "p", numbers=numbers, phase="stable", at=at(5)) for numbers in (empty, without)]
    report.write(page, replace(DONE, figures=tuple(probes)), False)
    assert page.read_text().count("version 2</text>") == page.read_text().count("version 1</text>") == 2


def test_metrics_and_drift_are_tables_and_a_plot(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    metric = {"metric": f"test_accuracy {HOSTILE}", "old": 0.9889, "new": 0.0528, "higher_is_better": True}
    moves = {"serving_default scores": {"mean": 0.5, "distance": 0.25, "lost": 3}}
    drift = {"requests": 5, "rows": 46, "relabelled": 27, "share": 27 / 46, "outputs": moves}
    figures = (
        Figure("metric", "m", False, numbers={**metric, "allowed": 0.005, "why": ""}),
        # It is not known which way is better.
        Figure("metric", "n", numbers={**metric, "higher_is_better": None, "new": None}),
        Figure("evaluation", "e", where="server A", numbers={**metric, "rows": 360, "output": "label"}),
        Figure("drift", "d", where="server A", numbers={**drift, "allowed": {"labels": 0.01, "scores": None}}),
    )
    report.write(page, replace(ROLLED_BACK, figures=figures), False)
    text = " ".join(re.sub(r"<[^>]*>", " ", page.read_text()).split())
    assert "manifest 0.9889 0.0528 0.005 less failed" in text
    assert "360 labelled rows, server A 0.9889 0.0528 passed" in text
    assert "27 of 46 serving_default scores 0.5 0.25 3" in text
    assert "rows with a changed label (%)" in text
