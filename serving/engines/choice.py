"""Which engine runs a server: the one that was asked for, or the best that this machine has."""

from __future__ import annotations

from tfserving.serving.engines import Engine, EngineError
from tfserving.serving.engines.docker import Docker, automatic
from tfserving.serving.engines.process import Embedded, Native

# The real server before ours, and a container before a bare process.
ENGINES: tuple[Engine, ...] = (Docker(), Native(), Embedded())


def choose(name: str) -> Engine:
    """The engine called `name`; for `auto` the first of docker, native, embedded that is usable here.

    Raises EngineError when it isn't usable, saying why.
    """
    if name == "auto":
        return next(
            engine for engine in ENGINES if not (engine.name == "docker" and automatic()) and engine.unusable() is None
        )
    engine = next(engine for engine in ENGINES if engine.name == name)
    if reason := engine.unusable():
        raise EngineError(f"engine {name!r} can't be used: {reason}")
    return engine
