"""How the commands of this package fail: errors of a fleet, a cluster or a server become an error of the command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tfserving.foundation.command.errors import UNREACHABLE, WRONG, CommandError
from tfserving.serving.commands.failures import ending


@contextmanager
def failing(code: int) -> Iterator[None]:
    """End the command for an error inside: with UNREACHABLE or WRONG where that is the cause, else with `code`."""
    from tfserving.clients.errors import ServingError
    from tfserving.k8s.kubectl import KubectlError
    from tfserving.k8s.rollout.target import GateError, RolloutError

    with ending(code):
        try:
            yield
        except (GateError, KubectlError, RolloutError, ServingError) as error:
            raise CommandError(str(error), code_of(error, code)) from None


def code_of(error: Exception, code: int) -> int:
    """Return the exit code for an error; `code` when neither the setup nor the connection is the cause."""
    from tfserving.clients.errors import DeadlineExceeded, Unavailable
    from tfserving.k8s import kubectl
    from tfserving.k8s.rollout.target import NoServerError
    from tfserving.serving import engines

    if isinstance(error, kubectl.SetupError):
        return WRONG
    unreachable = (kubectl.UnreachableError, engines.UnreachableError, NoServerError, Unavailable, DeadlineExceeded)
    return UNREACHABLE if isinstance(error, unreachable) else code
