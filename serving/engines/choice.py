"""Which engine runs a server: the one of --engine, or the best on this machine."""

from __future__ import annotations

from tfserving.foundation.command.progress import Progress
from tfserving.serving.engines import Engine, EngineError, UnreachableError
from tfserving.serving.engines.docker import Docker, automatic
from tfserving.serving.engines.process import Embedded, Native
from tfserving.serving.models_yaml.fleet import Fleet

# TensorFlow Serving before the embedded server, and a container before a process.
ENGINES: tuple[Engine, ...] = (Docker(), Native(), Embedded())


def choose(name: str, fleet: Fleet, progress: Progress) -> Engine:
    """Return the engine `name`, ready for `fleet`; Docker pulls the image if it isn't on this machine.

    `auto` is the first of docker, native and embedded that is usable. If an image can't be pulled, `progress` prints
    why, and the next engine is used. Raises EngineError when no engine is usable, and UnreachableError for Docker.
    """
    if name == "auto":
        return _first_usable(fleet, progress)
    engine = next(engine for engine in ENGINES if engine.name == name)
    if reason := why_not(engine, name):
        kind = UnreachableError if name == "docker" else EngineError
        raise kind(f"the engine {name!r} can't be used: {reason}")
    try:
        engine.prepare(fleet, progress)
    except EngineError as error:
        raise EngineError(f"{error}, or use the embedded server: --engine embedded") from None
    return engine


def why_not(engine: Engine, name: str) -> str | None:
    """Return why `--engine NAME` can't take `engine` on this machine; None when it can."""
    return (automatic() if name == "auto" and engine.name == "docker" else None) or engine.unusable()


def _first_usable(fleet: Fleet, progress: Progress) -> Engine:
    reasons = []
    for engine in ENGINES:
        reason = why_not(engine, "auto")
        if reason is None:
            try:
                engine.prepare(fleet, progress)
            except EngineError as error:
                reason = str(error)
                progress.line(f"{engine.name} is not used: {reason}")
            else:
                return engine
        reasons.append(f"{engine.name}: {reason}")
    raise EngineError(f"no engine can be used. {'; '.join(reasons)}")
