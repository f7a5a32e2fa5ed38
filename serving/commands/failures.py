"""How the commands of this package fail: errors of a fleet or a server become an error of the command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tfserving.foundation.command.errors import FAILED, UNREACHABLE, WRONG, CommandError


@contextmanager
def before_it_starts() -> Iterator[None]:
    """End the command with WRONG for an error inside: nothing was started or changed."""
    with ending(WRONG):
        yield


@contextmanager
def while_it_runs() -> Iterator[None]:
    """End the command with FAILED for an error inside."""
    with ending(FAILED):
        yield


@contextmanager
def ending(code: int) -> Iterator[None]:
    """End the command for an error inside: with UNREACHABLE where that is the cause, else with `code`."""
    from tfserving.foundation.golden import GoldenError
    from tfserving.serving.engines import EngineError, UnreachableError
    from tfserving.serving.models_yaml.fleet import FleetError

    try:
        yield
    except UnreachableError as error:
        raise CommandError(str(error), UNREACHABLE) from None
    except (FleetError, EngineError, GoldenError) as error:
        raise CommandError(str(error), code) from None
    # Nothing reads the output any more: click handles that.
    except BrokenPipeError:
        raise
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise CommandError(f"{where}{error.strerror or error}", code) from None
