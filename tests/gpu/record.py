"""The file that `python -m tests.gpu` writes: what each check measured, and which of its claims hold."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from tfserving.foundation.files import written_whole

# `failed`: a claim does not hold. `broken`: the check itself raised an error. `unjudged`: it ran without a GPU.
Outcome: TypeAlias = Literal["running", "passed", "failed", "broken", "skipped", "unjudged"]
FORMAT = 1


@dataclass(frozen=True)
class Claim:
    """A sentence about the toolkit on a GPU, what was measured, and whether it holds; None without a GPU."""

    text: str
    measured: Any
    holds: bool | None


@dataclass
class Result:
    """A check in the file. `figures` have their units in their names, and are written when they are added."""

    name: str
    what: str
    outcome: Outcome = "running"
    seconds: float = 0.0
    reason: str = ""
    figures: dict[str, Any] = field(default_factory=dict)
    claims: list[Claim] = field(default_factory=list)


class Record:
    """The results so far. Each change writes the file, whole: a run that is cut off leaves all that it measured."""

    def __init__(self, path: Path, *, on_gpu: bool, minutes: float, machine: Mapping[str, Any]) -> None:
        self._path = path
        self._on_gpu = on_gpu
        self._began = time.monotonic()
        self.results: list[Result] = []
        self._head = {"format": FORMAT, "on_gpu": on_gpu, "minutes": minutes, "machine": machine}
        self._finished = False
        self.save()

    @property
    def running(self) -> Result:
        """The check that runs."""
        return self.results[-1]

    def figure(self, name: str, value: Any) -> None:
        """Add a figure to the check that runs."""
        self.running.figures[name] = value
        self.save()

    def claim(self, text: str, measured: Any, holds: bool) -> None:
        """Add a claim to the check that runs. Without a GPU it is not judged."""
        self.running.claims.append(Claim(text, measured, holds if self._on_gpu else None))
        self.save()

    def skip(self, name: str, what: str, reason: str) -> None:
        """Add a check that does not run, with the reason."""
        self.results.append(Result(name, what, "skipped", reason=reason))
        self.save()

    def run(self, name: str, what: str, check: Callable[[], None]) -> None:
        """Run a check. What it raises ends only this check."""
        started = time.monotonic()
        result = Result(name, what)
        self.results.append(result)
        self.save()
        try:
            check()
        except SkippedError as skipped:
            result.outcome, result.reason = "skipped", str(skipped)
        except Exception as error:
            result.outcome, result.reason = "broken", f"{type(error).__name__}: {error}"
            result.figures["traceback"] = traceback.format_exc()[-2000:]
        else:
            result.outcome = self._outcome(result)
        finally:
            if result.outcome == "running":
                result.outcome, result.reason = "broken", "the run was stopped"
            result.seconds = round(time.monotonic() - started, 1)
            self.save()

    def _outcome(self, result: Result) -> Outcome:
        if not self._on_gpu:
            return "unjudged"
        return "passed" if all(claim.holds for claim in result.claims) else "failed"

    def finish(self) -> None:
        """Mark the file as complete."""
        self._finished = True
        self.save()

    def of(self, *outcomes: Outcome) -> list[str]:
        """Return the names of the checks with one of these outcomes."""
        return [result.name for result in self.results if result.outcome in outcomes]

    def save(self) -> None:
        """Write the file."""
        content = {
            **self._head,
            "seconds": round(time.monotonic() - self._began, 1),
            "finished": self._finished,
            "skipped": self.of("skipped"),
            "checks": [asdict(result) for result in self.results],
        }
        with written_whole(self._path) as file:
            file.write(json.dumps(content, indent=1, default=str).encode())


class SkippedError(Exception):
    """A check can't run: there is no time left, or what it needs is missing."""
