"""How long a rollout still takes, and durations as text."""

from __future__ import annotations

from datetime import datetime, timezone

from tfserving.k8s.rollout.judge import required
from tfserving.k8s.rollout.state import State
from tfserving.serving.models_yaml.rollout import Rollout


def remaining(state: State, settings: Rollout) -> float | None:
    """Return the seconds from the start of the phase of `state` until the rollout is done, if no gate fails.

    They are the sum of the windows and the bake in `settings`. The time to load and unload versions isn't included.
    None when unknown: while the rollout waits for `promote`, and once it unloads or rolls back.
    """
    if state.over:
        return 0.0
    if state.manual and state.phase in ("loading", "proving", "canary", "stable"):
        return None
    match state.phase:
        case "loading" | "proving" | "canary" | "stable":
            return _moving(state, settings) + settings.bake
        case "baking":
            return settings.bake
    return None


def _moving(state: State, settings: Rollout) -> float:
    """Return the seconds of all comparisons in the phase `stable`."""
    # Clients with many requests make the result clear sooner. Without the probe, it depends on them alone.
    comparison = min(required(settings, settings.probe)[1], settings.longest) if settings.probe else settings.window
    if state.strategy == "in-place":
        # A single server is compared with its requests in a window before.
        return settings.window + comparison
    before = settings.window if settings.address and not state.weight else 0.0
    return before + comparison * sum(weight > state.weight for weight in settings.weights)


def left(state: State, running: bool, now: datetime | None = None) -> float | None:
    """Return the seconds from `now` until a rollout is done; 0 when it is over, None when unknown or not running."""
    if state.over:
        return 0.0
    if not running or not state.until or state.paused:
        return None
    until = datetime.fromisoformat(state.until)
    return max((until - (now or datetime.now(timezone.utc))).total_seconds(), 0.0)


def duration(seconds: float) -> str:
    """Return a duration as text: `42 s`, `2 min 10 s`, `1 h 5 min`."""
    whole = round(seconds)
    minutes, hours = whole // 60, whole // 3600
    if hours:
        return _both(f"{hours} h", minutes % 60, "min")
    return _both(f"{minutes} min", whole % 60, "s") if minutes else f"{whole} s"


def about(seconds: float) -> str:
    """Return a rounded duration as text: `about 40 s`, `about 2 min 10 s`, `about 7 min`."""
    step = next(
        step for limit, step in ((20, 1), (60, 5), (300, 10), (7200, 60), (float("inf"), 600)) if seconds < limit
    )
    return f"about {duration(max(step * round(seconds / step), 1))}"


def _both(large: str, small: int, unit: str) -> str:
    return f"{large} {small} {unit}" if small else large
