"""Which engine runs a server: the one that was asked for, or the best that this machine has."""

from __future__ import annotations

from collections.abc import Callable

from tfserving.serving.engines import Engine, EngineError
from tfserving.serving.engines.docker import Docker, automatic
from tfserving.serving.engines.process import Embedded, Native
from tfserving.serving.models_yaml.fleet import Fleet

# The real server before ours, and a container before a bare process.
ENGINES: tuple[Engine, ...] = (Docker(), Native(), Embedded())


def choose(name: str, fleet: Fleet, say: Callable[[str], None]) -> Engine:
    """The engine called `name`, with what it needs for `fleet`; Docker pulls the image when it isn't on this machine.

    For `auto` the first of docker, native, embedded that is usable here; one whose image can't be pulled isn't, and
    `say` gets the reason. Raises EngineError when the engine isn't usable, with the reason.
    """
    if name == "auto":
        return _first_usable(fleet, say)
    engine = next(engine for engine in ENGINES if engine.name == name)
    if reason := why_not(engine, name):
        raise EngineError(f"engine {name!r} can't be used: {reason}")
    try:
        engine.prepare(fleet, say)
    except EngineError as error:
        raise EngineError(
            f"{error}, or use the embedded server: `--engine embedded`, `make serve ENGINE=embedded`"
        ) from None
    return engine


def why_not(engine: Engine, name: str) -> str | None:
    """Return why `--engine NAME` can't take `engine` on this machine; None when it can."""
    return (automatic() if name == "auto" and engine.name == "docker" else None) or engine.unusable()


def _first_usable(fleet: Fleet, say: Callable[[str], None]) -> Engine:
    reasons = []
    for engine in ENGINES:
        reason = why_not(engine, "auto")
        if reason is None:
            try:
                engine.prepare(fleet, say)
            except EngineError as error:
                reason = str(error)
                say(f"{engine.name} is not used: {reason}")
            else:
                return engine
        reasons.append(f"{engine.name}: {reason}")
    raise EngineError(f"no engine can be used: {'; '.join(reasons)}")
